package wsproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
)

// An unanswered error means that the connection broke before the server's
// response, or while the request was written.
type unanswered struct {
	error
	kept bool // the connection was kept from an earlier request; the server may close it at any time
}

func (e unanswered) Unwrap() error { return e.error }

// tryServers calls try with one server after another, at most maxTries, until
// one responds. It does what nginx's proxy_next_upstream does with error,
// timeout (only of the connection), invalid_header, and the statuses of
// WithRetryStatus.
func (p *Proxy) tryServers(ctx context.Context, r *route, out *http.Request, try func(lease) (*http.Response, error)) (*http.Response, error) {
	p.reportRepeats(false)
	var failed attempts
	s, ok := r.next()
	for ok {
		res, err := p.attempt(ctx, s, out, try)
		if err == nil && !slices.Contains(p.retryStatus, res.StatusCode) {
			return res, nil
		}
		if err != nil && ctx.Err() != nil {
			return nil, upstreamError(ctx, err)
		}
		r.tried = append(r.tried, s.state)
		var next lease
		if ok = mayRetry(out, err) && (p.maxTries == 0 || len(r.tried) < p.maxTries); ok && err != nil {
			next, ok = r.next()
		} else if ok { // prefer this response to a server that is down
			next, ok = r.nextUp()
		}
		if err == nil {
			if !ok {
				return res, nil
			}
			err = fmt.Errorf("answered %d", res.StatusCode)
			res.Body.Close()
		}
		failed = append(failed, fmt.Errorf("server %s: %w", s.server.Addr, withoutKind(err)))
		if !ok {
			return nil, failed.refusal(ctx, s.Addr())
		}
		p.tunnels.retries.Add(1)
		p.logFailover(ctx, failed[len(failed)-1], s, next)
		s = next
	}
	return nil, unavailable(ErrNoServer, nil)
}

// logFailover logs that next is tried after s failed with err. If the log handler
// panics or calls runtime.Goexit, logFailover releases next.
func (p *Proxy) logFailover(ctx context.Context, err error, s, next lease) {
	logged := false
	defer func() {
		if !logged {
			next.settle(unused)
			next.release()
		}
	}()
	p.logger.LogAttrs(ctx, p.failureLevel(failure{s.Addr(), 0, failureCause(err)}, err), "server failed, trying the next",
		slog.Any("error", err), slog.String("next", next.server.Addr))
	logged = true
}

// mayRetry reports whether out may be sent to another server after err, or after
// a status if err is nil. It may if no byte was sent, or if it is replayable
// and err is not a timeout, for which the client has already waited.
func mayRetry(out *http.Request, err error) bool {
	var unsent notSent
	return errors.As(err, &unsent) || replayable(out) && !isTimeout(err)
}

// attempt calls try with one server and records the verdict on its health. The
// verdict is abandoned if try panics or if ctx is done, unless the server caused
// ctx to end by closing the connection while the client's body was awaited.
//
// A client must not be able to take a server down for others. So a status is
// not a failure. Nor is a connection that breaks during a large request: the
// server may have refused the request (413, 431), and a reset may have
// destroyed the response.
func (p *Proxy) attempt(ctx context.Context, s lease, out *http.Request, try func(lease) (*http.Response, error)) (res *http.Response, err error) {
	verdict := abandoned
	defer func() { s.settle(verdict) }()
	res, err = try(s)
	var broke unanswered
	switch {
	case err == nil:
		verdict = succeeded
	case outOfResources(err):
		verdict = unused
	case ctx.Err() != nil && !errors.Is(context.Cause(ctx), ErrUpstream):
	case errors.As(err, &broke) && (broke.kept || !isSmall(out)):
	default:
		verdict = failed
	}
	return res, err
}

// smallHeader is the size, in bytes, of a header that every server accepts. It
// is the default of nginx's large_client_header_buffers and of Apache's
// LimitRequestLine.
const smallHeader = 8 << 10

// isSmall reports whether r has no body and a header that no server refuses
// for its size.
func isSmall(r *http.Request) bool {
	if r.Body != nil && r.Body != http.NoBody {
		return false
	}
	n := len(r.Method) + len(r.URL.RequestURI()) + len(r.Host)
	for name, values := range r.Header {
		for _, value := range values {
			n += len(name) + len(": \r\n") + len(value)
		}
	}
	return n < smallHeader
}

// outOfResources reports whether this process or machine caused err, not the
// server.
func outOfResources(err error) bool { return isOneOf(err, resourceErrors) }

// peerClosed reports whether err is of a write to a server that had closed the
// connection. The server may have responded before (RFC 9112, section 9.5).
func peerClosed(err error) bool { return isOneOf(err, peerClosedErrors) }

func isOneOf(err error, errs []error) bool {
	return slices.ContainsFunc(errs, func(want error) bool { return errors.Is(err, want) })
}

// attempts are the failures of the servers tried for a request, in order.
type attempts []error

func (a attempts) Error() string {
	texts := make([]string, len(a))
	for i, err := range a {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

func (a attempts) Unwrap() []error { return a }

// refusal returns a refusal of the last failure's kind, whose text lists all
// failures. server is the one that failed last.
func (a attempts) refusal(ctx context.Context, server string) error {
	err := upstreamError(ctx, a[len(a)-1])
	var r *refusal
	if errors.As(err, &r) {
		r.failure = failure{server, r.status, failureCause(a[len(a)-1])}
		if len(a) > 1 {
			r.cause = a
		}
	}
	return err
}

// withoutKind returns err without the kind that badGateway has added.
func withoutKind(err error) error {
	var r *refusal
	if errors.As(err, &r) && r.cause != nil {
		return r.cause
	}
	return err
}

// replayable reports whether a request may be sent twice, as net/http decides
// it.
func replayable(r *http.Request) bool {
	if r.Body != nil && r.Body != http.NoBody {
		return false
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	return r.Header["Idempotency-Key"] != nil || r.Header["X-Idempotency-Key"] != nil
}

// A route selects the servers of an Upstream for one request, each at most
// once.
type route struct {
	upstream *Upstream
	request  *http.Request // the client's
	client   netip.Addr
	tunnel   bool
	tried    []*state
}

// candidateLists holds slices for pick.
var candidateLists = sync.Pool{New: func() any { return new([]*Candidate) }}

// next takes the next server to try. If all servers left are down, it fails
// open and takes one of them (Envoy's panic threshold).
func (r *route) next() (lease, bool) { return r.take(true) }

// nextUp takes the next server to try. It never takes one that is down.
func (r *route) nextUp() (lease, bool) { return r.take(false) }

func (r *route) take(failOpen bool) (lease, bool) {
	list := candidateLists.Get().(*[]*Candidate)
	defer func() {
		clear((*list)[:cap(*list)])
		candidateLists.Put(list)
	}()
	for {
		set := r.upstream.set.Load()
		l, ok := r.choose(set, list, failOpen)
		if !ok || r.upstream.set.Load() == set {
			return l, ok
		}
		// The set has changed and may no longer have the server; see swap.
		l.settle(unused)
		l.release()
	}
}

// choose takes a primary or, if none is available, a backup. If the policy
// refuses servers that are up, those that are down are not tried.
func (r *route) choose(set *serverSet, list *[]*Candidate, failOpen bool) (lease, bool) {
	refused := false
	for _, tier := range set.tiers {
		l, found := r.pick(tier, list, false)
		if found == picked {
			return l, true
		}
		refused = refused || found == refusedAll
	}
	if !failOpen || refused {
		return lease{}, false
	}
	for _, tier := range set.tiers {
		if l, found := r.pick(tier, list, true); found == picked {
			return l, true
		}
	}
	return lease{}, false
}

// A finding is the result of a pick.
type finding uint8

const (
	noneAvailable finding = iota // no server is available
	refusedAll                   // the policy chose none of the available servers
	picked
)

// pick calls the policy with the servers of tier that are available and
// untried.
func (r *route) pick(tier []*Candidate, list *[]*Candidate, failOpen bool) (lease, finding) {
	servers := (*list)[:0]
	for _, c := range tier {
		if c.available(r.tunnel, failOpen) && !slices.Contains(r.tried, c.state) {
			servers = append(servers, c)
		}
	}
	*list = servers
	for len(servers) > 0 {
		c := r.upstream.policy.Pick(r.request, r.client, servers)
		i := slices.Index(servers, c)
		if i < 0 {
			return lease{}, refusedAll
		}
		if l, ok := c.take(r.tunnel, failOpen); ok {
			return l, picked
		}
		servers = slices.Delete(servers, i, i+1)
	}
	return lease{}, noneAvailable
}

// A lease is a request's use of a server. It is settled once. A lease for a
// tunnel is also released once, when the tunnel has ended.
type lease struct {
	*Candidate
	tunnel bool // the lease counts among the server's tunnels
	by     claim
}

// settle records the request's verdict on the server's health.
func (l lease) settle(v verdict) {
	if v == failed {
		l.failed.Add(1)
	}
	if !l.alwaysUp {
		l.health.settle(v, l.by, l.server.MaxFails, l.server.FailTimeout)
	}
}

// release subtracts the tunnel that reserve added.
func (l lease) release() {
	if l.tunnel {
		l.tunnels.Add(-1)
	}
}
