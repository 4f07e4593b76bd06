package wsproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// A target is where a Proxy sends its requests.
type target struct {
	url     *url.URL // what ProxyRequest.SetURL joins: http or https, host, path, query
	network string   // "tcp" or "unix"
	addr    string   // host:port or a socket's path
	tls     *tls.Config
}

// parseTarget reads the forms of New's target, reporting every mistake.
func parseTarget(s string) (*target, error) {
	scheme, rest, ok := strings.Cut(s, "://")
	if at := strings.LastIndexByte(s, '@'); at >= 0 { // credentials are not for logs
		start := 0
		if ok && at > len(scheme) {
			start = len(scheme) + len("://")
		}
		s = s[:start] + "…" + s[at:]
	}
	if !ok {
		return nil, fmt.Errorf("wsproxy: target %q has no scheme, want one such as %q", s, "http://localhost:3000")
	}
	if path, unix := strings.CutPrefix(rest, "unix:"); unix {
		return parseUnixTarget(s, scheme, path)
	}
	u, err := url.Parse(scheme + "://" + rest)
	if err != nil && strings.Contains(rest, "@") { // which err may quote a part of
		return nil, fmt.Errorf("wsproxy: target %q has credentials or an @ that is not %%40", s)
	}
	if err != nil {
		var parse *url.Error
		if errors.As(err, &parse) {
			err = parse.Err
		}
		return nil, fmt.Errorf("wsproxy: target %q: %w", s, err)
	}
	var errs []error
	fail := func(format string, args ...any) {
		errs = append(errs, fmt.Errorf("wsproxy: target %q "+format, append([]any{s}, args...)...))
	}
	httpScheme, err := upstreamScheme(s, u.Scheme)
	errs = append(errs, err)
	if !isHost(u.Host) {
		fail("has host %q, want a name or an address with an optional port", u.Host)
	}
	if u.User != nil {
		fail("has credentials, want them in WithHeader(%q, …)", "Authorization")
	}
	if u.Fragment != "" {
		fail("has a fragment %q, which no request carries", u.Fragment)
	}
	if strings.Contains(u.RawQuery, " ") {
		fail("has a space in its query, want %%20")
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	t := &target{network: "tcp", url: &url.URL{Scheme: httpScheme, Host: u.Host,
		Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery}}
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[httpScheme]
	}
	t.addr = net.JoinHostPort(u.Hostname(), port)
	return t, nil
}

// parseUnixTarget reads nginx's form, http://unix:/run/app.sock:/base, in
// which a colon ends the path of the socket.
func parseUnixTarget(s, scheme, rest string) (*target, error) {
	httpScheme, schemeErr := upstreamScheme(s, strings.ToLower(scheme))
	socket, base, _ := strings.Cut(rest, ":")
	var socketErr, baseErr error
	if !strings.HasPrefix(socket, "/") {
		socketErr = fmt.Errorf("wsproxy: target %q has socket %q, want an absolute path", s, socket)
	}
	u, err := url.Parse(base)
	if err != nil || u.Host != "" || base != "" && !strings.HasPrefix(base, "/") || u.Fragment != "" || strings.Contains(u.RawQuery, " ") {
		baseErr = fmt.Errorf("wsproxy: target %q has base %q after the socket, want a path", s, base)
	}
	if err := errors.Join(schemeErr, socketErr, baseErr); err != nil {
		return nil, err
	}
	u.Scheme, u.Host = httpScheme, "localhost"
	return &target{url: u, network: "unix", addr: socket}, nil
}

func upstreamScheme(target, scheme string) (string, error) {
	switch scheme {
	case "http", "ws":
		return "http", nil
	case "https", "wss":
		return "https", nil
	}
	return "", fmt.Errorf("wsproxy: target %q has scheme %q, want http, https, ws or wss", target, scheme)
}

// useTLS prepares the configuration of an https target: HTTP/1.1 alone, as an
// upgrade needs, and names verified against the target's host.
func (t *target) useTLS(cfg *tls.Config) {
	if t.url.Scheme != "https" {
		return
	}
	t.tls = &tls.Config{}
	if cfg != nil {
		t.tls = cfg.Clone()
	}
	t.tls.NextProtos = []string{"http/1.1"}
	if t.tls.ServerName == "" {
		t.tls.ServerName = t.url.Hostname()
	}
}

// dial connects to a server, TLS included, within the connect timeout. Its
// errors are notSent.
func (p *Proxy) dial(ctx context.Context, s *Candidate) (net.Conn, error) {
	if p.connectTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.connectTimeout)
		defer cancel()
	}
	conn, err := p.dialContext(ctx, s.network, s.addr)
	if err != nil {
		return nil, notSent{err}
	}
	unblock(conn)
	if p.target.tls == nil {
		return conn, nil
	}
	secure := tls.Client(conn, p.target.tls)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, notSent{fmt.Errorf("TLS to %s: %w", s.addr, bounded(err))}
	}
	return secure, nil
}

// notSent is an error before anything of a request was sent.
type notSent struct{ error }

func (e notSent) Unwrap() error { return e.error }

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
