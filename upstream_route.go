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

// unanswered is the error of a connection that broke before the server's
// response, or that took no more of the request.
type unanswered struct {
	error
	kept bool // the connection, from an earlier request: the server may close it at any time
}

func (e unanswered) Unwrap() error { return e.error }

// tryServers has try ask one server after another for out, at most maxTries,
// until one responds (nginx's proxy_next_upstream with error, timeout for the
// connection alone, invalid_header, and the statuses of WithRetryStatus).
func (p *Proxy) tryServers(ctx context.Context, r *route, out *http.Request, try func(lease) (*http.Response, error)) (*http.Response, error) {
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
		if ok = mayGoOn(out, err) && (p.maxTries == 0 || len(r.tried) < p.maxTries); ok && err != nil {
			next, ok = r.next()
		} else if ok { // the response at hand is better than a server that is down
			next, ok = r.nextUp()
		}
		if err == nil {
			if !ok {
				return res, nil
			}
			err = fmt.Errorf("answered %d", res.StatusCode)
			res.Body.Close()
		}
		failed = append(failed, fmt.Errorf("server %s: %w", s.server.Addr, bare(err)))
		if ok {
			p.logFailover(ctx, failed[len(failed)-1], next)
		}
		s = next
	}
	if failed == nil {
		return nil, unavailable(ErrNoServer, nil)
	}
	return nil, failed.refusal(ctx)
}

// logFailover logs that next is tried after err. If the log handler panics, or
// exits the goroutine, it gives next back.
func (p *Proxy) logFailover(ctx context.Context, err error, next lease) {
	logged := false
	defer func() {
		if !logged {
			next.settle(unused)
			next.release()
		}
	}()
	p.logger.LogAttrs(ctx, slog.LevelWarn, "server failed, trying the next",
		slog.Any("error", err), slog.String("next", next.server.Addr))
	logged = true
}

// mayGoOn reports whether out may go to another server after err, or after a
// status if err is nil: if nothing of it was sent, or if it is replayable and
// its client has not already waited for a whole timeout.
func mayGoOn(out *http.Request, err error) bool {
	var unsent notSent
	return errors.As(err, &unsent) || replayable(out) && !isTimeout(err)
}

// attempt asks one server and notes what that says about its health. If the
// context ended it says nothing, nor if try panicked.
//
// What one client can provoke at will must not take a server from the others.
// So a status is no failure, and a connection that breaks over a large request
// is none of the server's: it may have refused the request (413, 431) in a
// response that its reset destroyed.
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
	case ctx.Err() != nil, errors.As(err, &broke) && (broke.kept || !isSmall(out)):
	default:
		verdict = failed
	}
	return res, err
}

// smallHeader is the header, in bytes, that any server reads: nginx's
// large_client_header_buffers and Apache's LimitRequestLine begin there.
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

// outOfResources reports an error that is this process's or this machine's,
// whichever the server.
func outOfResources(err error) bool { return isOneOf(err, resourceErrors) }

// peerClosed reports an error of a write to a server that has closed, before
// which it may have responded (RFC 9112, section 9.5).
func peerClosed(err error) bool { return isOneOf(err, peerClosedErrors) }

func isOneOf(err error, errs []error) bool {
	return slices.ContainsFunc(errs, func(want error) bool { return errors.Is(err, want) })
}

// attempts are the failures of the servers that a request was sent to.
type attempts []error

func (a attempts) Error() string {
	texts := make([]string, len(a))
	for i, err := range a {
		texts[i] = err.Error()
	}
	return strings.Join(texts, "; ")
}

func (a attempts) Unwrap() []error { return a }

// refusal is of the kind of the last failure and names them all.
func (a attempts) refusal(ctx context.Context) error {
	err := upstreamError(ctx, a[len(a)-1])
	var r *refusal
	if errors.As(err, &r) && len(a) > 1 {
		r.cause = a
	}
	return err
}

// bare is err without the kind that badGateway gives it.
func bare(err error) error {
	var r *refusal
	if errors.As(err, &r) && r.cause != nil {
		return r.cause
	}
	return err
}

// replayable reports whether a request may be sent twice, by net/http's rule.
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

// A route is one request's way through the servers of an Upstream, each at
// most once.
type route struct {
	upstream *Upstream
	request  *http.Request // the client's
	client   netip.Addr
	tunnel   bool
	tried    []*state
}

// candidateLists are lent to picks.
var candidateLists = sync.Pool{New: func() any { return new([]*Candidate) }}

// next takes the next server to try. If all that could be tried are down it
// fails open: one of them is tried (Envoy's panic threshold).
func (r *route) next() (lease, bool) { return r.take(true) }

// nextUp takes the next server to try, but none that is down.
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
		// The set changed meanwhile, and the server may be gone: see swap.
		l.settle(unused)
		l.release()
	}
}

// choose takes a primary, or else a backup. If the policy refuses servers that
// are up, those that are down are not tried either.
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

// A finding is what became of a pick.
type finding uint8

const (
	nobody     finding = iota // no server can be tried
	refusedAll                // the policy wants none of those that can be tried
	picked
)

// pick has the policy choose among those of tier that may be tried.
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
	return lease{}, nobody
}
