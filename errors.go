package wsproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"

	"example.com/wsproxy/internal/syntax"
)

// Most errors that reach an error handler (see [WithErrorHandler]) wrap one of
// these; test for them with [errors.Is]. Errors about a plain request that a
// client must not send (400, 405, 501), about a body that cannot be read (400,
// 408, 413), and those with status 499 or 500 wrap none of them. The error of a
// dial or a read is wrapped as well. [StatusCode] returns the status of the
// response.
var (
	// ErrBadHandshake means that the client's upgrade request violates RFC 6455,
	// section 4.2.1. The status is 400, 405 or 426.
	ErrBadHandshake = errors.New("wsproxy: bad handshake")

	// ErrForbiddenOrigin means that the request's Origin matches no pattern of
	// [WithOrigins]. The status is 403.
	ErrForbiddenOrigin = errors.New("wsproxy: origin not allowed")

	// ErrUpstream means that the upstream could not be reached or that its
	// response violates HTTP or RFC 6455. The status is 502. If several servers
	// were tried, the text of the error lists each with its failure, and the
	// last failure decides between ErrUpstream and ErrUpstreamTimeout.
	ErrUpstream = errors.New("wsproxy: upstream failed")

	// ErrUpstreamTimeout means that a timeout expired before the upstream's
	// response. The status is 504.
	ErrUpstreamTimeout = errors.New("wsproxy: upstream timed out")

	// ErrNoServer means that no server was available: each server of the
	// [Upstream] is marked [Server.Down] or, for an upgrade, full. Servers that
	// have failed are tried if no other is left. The status is 503.
	ErrNoServer = errors.New("wsproxy: no server available")

	// ErrTooManyTunnels means that the upgrade would exceed [WithMaxTunnels] or
	// [WithMaxTunnelsPerIP]. The status is 503.
	ErrTooManyTunnels = errors.New("wsproxy: too many tunnels")

	// ErrShutdown means that the upgrade was refused because [Proxy.Shutdown] or
	// [Proxy.Close] was called. The status is 503.
	ErrShutdown = errors.New("wsproxy: proxy is shutting down")
)

// ErrCut is the error in the [Ending] of a tunnel that the proxy cut: it closed
// the connections before both ends had closed theirs. Tunnels are cut when the
// close or the send timeout expires, when the context of [Proxy.Shutdown] is
// done, and by [Proxy.Close] and [Tunnel.Cut]. A tunnel of another protocol than WebSocket
// has no Close frame, so that the read timeout, [WithMaxLifetime], [Tunnel.Close]
// and [Proxy.Drain] cut it too.
var ErrCut = errors.New("wsproxy: cut before both ends had closed")

// statusClientClosedRequest is nginx's status for a client that disconnected
// before the response. Only logs and error handlers see it.
const statusClientClosedRequest = 499

// ownRefusals are the statuses with which the proxy itself refuses upgrades.
var ownRefusals = [...]int{400, 403, 405, 426, statusClientClosedRequest, 500, 501, 502, 503, 504}

// retryAfter is the Retry-After of a 503, in seconds: long enough to start a
// replacement, short enough that users do not notice.
const retryAfter = "1"

// StatusCode returns the HTTP status of the response for err, an error given to
// an error handler:
//
//   - 400, 403, 405, 408, 413 or 426 for a mistake of the client,
//   - 499, as in nginx, if the client disconnected before the response,
//   - 500 if middleware provides a ResponseWriter that cannot be hijacked or a
//     body that does not match its Content-Length,
//   - 501 for an extended CONNECT (RFC 8441) for a protocol that is not listed,
//   - 502, 503 or 504 for a failure.
//
// For any other error it returns 502, as [net/http/httputil.ReverseProxy] does.
func StatusCode(err error) int {
	var r *refusal
	if errors.As(err, &r) {
		return r.status
	}
	return http.StatusBadGateway
}

// A refusal is the error of a request that gets no response from the upstream.
type refusal struct {
	kind    error
	cause   error
	status  int
	header  http.Header
	failure failure // of the server tried last; zero if no server failed
}

func (r *refusal) Error() string {
	switch {
	case r.kind == nil:
		return "wsproxy: " + r.cause.Error()
	case r.cause == nil:
		return r.kind.Error()
	}
	return r.kind.Error() + ": " + r.cause.Error()
}

func (r *refusal) Unwrap() []error {
	var errs []error
	for _, err := range []error{r.kind, r.cause} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// public reports whether the client may read the error's text. Texts about
// mistakes of the client or of middleware are public. Texts about upstreams,
// which have their addresses, are not.
func (r *refusal) public() bool {
	return r.status <= http.StatusNotImplemented && r.status != statusClientClosedRequest
}

func badHandshake(status int, format string, args ...any) *refusal {
	return &refusal{kind: ErrBadHandshake, status: status, cause: fmt.Errorf(format, args...)}
}

// badRequest returns the refusal of a malformed plain request.
func badRequest(format string, args ...any) *refusal {
	return &refusal{status: http.StatusBadRequest, cause: fmt.Errorf(format, args...)}
}

func unavailable(kind, cause error) *refusal {
	return &refusal{kind: kind, cause: cause, status: http.StatusServiceUnavailable,
		header: http.Header{"Retry-After": {retryAfter}}}
}

func badGateway(format string, args ...any) *refusal {
	return &refusal{kind: ErrUpstream, status: http.StatusBadGateway, cause: fmt.Errorf(format, args...)}
}

// badBody returns the refusal of a request whose body cannot be read, for
// example because it is malformed or exceeds a limit of middleware.
func badBody(err error) *refusal {
	var known *refusal
	if errors.As(err, &known) {
		return known
	}
	status := http.StatusBadRequest
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		status = http.StatusRequestEntityTooLarge
	}
	return &refusal{status: status, cause: fmt.Errorf("reading the request's body: %w", syntax.Bounded(err))}
}

// wrongLength returns the refusal of a request whose body middleware has
// changed or removed.
func wrongLength(want int64) *refusal {
	err := errors.New("the request's body is missing, want a chunked body")
	if want >= 0 {
		err = fmt.Errorf("the request's body does not match its Content-Length, want %d bytes", want)
	}
	return &refusal{status: http.StatusInternalServerError, cause: err}
}

// upstreamError returns the refusal for err, which ended an exchange with the
// upstream. Its cause is one of four: the proxy is closing, the client
// disconnected, a timeout expired, or the upstream failed.
func upstreamError(ctx context.Context, err error) error {
	var known *refusal
	if errors.As(err, &known) {
		return known
	}
	switch {
	case errors.Is(context.Cause(ctx), ErrShutdown):
		return unavailable(ErrShutdown, nil)
	case errors.Is(ctx.Err(), context.Canceled):
		return &refusal{status: statusClientClosedRequest, cause: fmt.Errorf("client disconnected before the response: %w", context.Cause(ctx))}
	case ctx.Err() != nil, isTimeout(err):
		return &refusal{kind: ErrUpstreamTimeout, status: http.StatusGatewayTimeout, cause: err}
	}
	return &refusal{kind: ErrUpstream, status: http.StatusBadGateway, cause: err}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// fail logs err and responds to a request that gets no response from the
// upstream.
func (p *Proxy) fail(w http.ResponseWriter, r *http.Request, err error) {
	status := StatusCode(err)
	var refused *refusal
	if errors.As(err, &refused) {
		maps.Copy(w.Header(), refused.header)
		if isStream(r) { // these fields are HTTP/1's, and "close" would end the connection
			delete(w.Header(), "Connection")
			delete(w.Header(), "Upgrade")
		}
	}
	level := slog.LevelDebug // a mistake of the client, or none
	if status >= http.StatusInternalServerError && status != http.StatusNotImplemented && !errors.Is(err, ErrShutdown) {
		level = slog.LevelWarn
		if refused != nil && refused.failure.server != "" {
			level = p.failureLevel(refused.failure, err)
		}
	}
	p.logger.LogAttrs(r.Context(), level, "request failed", slog.Int("status", status),
		slog.Any("error", err), slog.String("client", r.RemoteAddr), slog.String("path", r.URL.Path))
	p.errorHandler(w, r, err)
}

// DefaultErrorHandler is the default of [WithErrorHandler]. It responds with
// [StatusCode] and a short text that names no upstream.
func DefaultErrorHandler(w http.ResponseWriter, _ *http.Request, err error) {
	status := StatusCode(err)
	text := http.StatusText(status)
	var refused *refusal
	if errors.As(err, &refused) && refused.public() {
		text = refused.Error()
	}
	http.Error(w, text, status)
}
