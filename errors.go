package wsproxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"strconv"
	"strings"
)

// The errors that reach an error handler (see [WithErrorHandler]) wrap one of
// these, except for those over a plain request that the client must not send
// (400, 405, 501), over a body that cannot be read (400, 408, 413) and those with
// status 499 or 500. Test for them with [errors.Is], and ask [StatusCode]
// for the status of the response. What a dial or a read failed with is wrapped
// as well.
var (
	// ErrBadHandshake is a client's upgrade request that breaks RFC 6455,
	// section 4.2.1: status 400, 405 or 426.
	ErrBadHandshake = errors.New("wsproxy: bad handshake")

	// ErrForbiddenOrigin is an Origin that [WithOrigins] does not list:
	// status 403.
	ErrForbiddenOrigin = errors.New("wsproxy: origin not allowed")

	// ErrUpstream is an upstream that could not be reached or did not respond
	// as HTTP or RFC 6455 ask: status 502. Where several servers were tried the
	// error names each with what it failed with, and the last one decides
	// whether it is this or ErrUpstreamTimeout.
	ErrUpstream = errors.New("wsproxy: upstream failed")

	// ErrUpstreamTimeout is an upstream that took longer than a timeout
	// allows before its response: status 504.
	ErrUpstreamTimeout = errors.New("wsproxy: upstream timed out")

	// ErrNoServer means that no server of the [Upstream] could be tried: each is
	// marked [Server.Down] or, for an upgrade, full. Servers that have failed are
	// tried when no other is left. Status 503.
	ErrNoServer = errors.New("wsproxy: no server available")

	// ErrTooManyTunnels is an upgrade over [WithMaxTunnels] or
	// [WithMaxTunnelsPerIP]: status 503.
	ErrTooManyTunnels = errors.New("wsproxy: too many tunnels")

	// ErrShutdown is an upgrade refused because [Proxy.Shutdown] or
	// [Proxy.Close] was called: status 503.
	ErrShutdown = errors.New("wsproxy: proxy is shutting down")
)

// ErrCut is the error in the [Ending] of a tunnel whose connections the proxy
// closed before both ends had: at the close timeout, at the end of the context
// given to [Proxy.Shutdown], or by [Proxy.Close].
var ErrCut = errors.New("wsproxy: cut before both ends had closed")

// statusClientClosedRequest is nginx's, for a client that left before the
// response. It reaches logs and error handlers; there is nobody to receive it.
const statusClientClosedRequest = 499

// retryAfter is the Retry-After of a 503, in seconds: long enough for a
// replacement to be up, short enough not to be noticed.
const retryAfter = "1"

// StatusCode returns the HTTP status to respond with to err, an error given to
// an error handler: 400, 403, 405, 408, 413 or 426 for the client's mistakes, 500
// where middleware has left a ResponseWriter that cannot be hijacked or a body
// of another length than it says, 501 for an extended CONNECT (RFC 8441), 502, 503
// or 504 for failures, and 499, nginx's number, where the client left first. An error that is not this package's is a
// 502, as in [net/http/httputil.ReverseProxy].
func StatusCode(err error) int {
	var r *refusal
	if errors.As(err, &r) {
		return r.status
	}
	return http.StatusBadGateway
}

// A refusal is why a request gets an error instead of an upstream's response.
type refusal struct {
	kind   error
	cause  error
	status int
	header http.Header
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

// public reports whether the client may read the error's text: its own
// mistakes and a server that is wired wrongly, but no upstream's address.
func (r *refusal) public() bool {
	return r.status <= http.StatusNotImplemented && r.status != statusClientClosedRequest
}

func badHandshake(status int, format string, args ...any) *refusal {
	return &refusal{kind: ErrBadHandshake, status: status, cause: fmt.Errorf(format, args...)}
}

// badRequest is for a plain request that is the client's mistake.
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

// badBody is for a client's body that cannot be read: too large for a
// middleware, or not what it says.
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
	return &refusal{status: status, cause: fmt.Errorf("reading the request's body: %w", bounded(err))}
}

// wrongLength is for a body that middleware has changed, or taken away.
func wrongLength(want int64) *refusal {
	err := errors.New("the request has no body, but is in chunks")
	if want >= 0 {
		err = fmt.Errorf("the request's body has not the %d bytes of its Content-Length", want)
	}
	return &refusal{status: http.StatusInternalServerError, cause: err}
}

// upstreamError says who is to blame for err, which ended an exchange with
// the upstream: the client that left, the proxy that is closing, the clock,
// or the upstream itself.
func upstreamError(ctx context.Context, err error) error {
	var known *refusal
	if errors.As(err, &known) {
		return known
	}
	switch {
	case errors.Is(context.Cause(ctx), ErrShutdown):
		return unavailable(ErrShutdown, nil)
	case errors.Is(ctx.Err(), context.Canceled):
		return &refusal{status: statusClientClosedRequest, cause: fmt.Errorf("client left before the response: %w", context.Cause(ctx))}
	case ctx.Err() != nil, isTimeout(err):
		return &refusal{kind: ErrUpstreamTimeout, status: http.StatusGatewayTimeout, cause: err}
	}
	return &refusal{kind: ErrUpstream, status: http.StatusBadGateway, cause: err}
}

func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

// fail answers a request that got nothing from the upstream.
func (p *Proxy) fail(w http.ResponseWriter, r *http.Request, err error) {
	status := StatusCode(err)
	var refused *refusal
	if errors.As(err, &refused) {
		maps.Copy(w.Header(), refused.header)
	}
	level := slog.LevelDebug // the client's mistake, or nobody's
	if status >= http.StatusInternalServerError && status != http.StatusNotImplemented && !errors.Is(err, ErrShutdown) {
		level = slog.LevelWarn
	}
	p.logger.LogAttrs(r.Context(), level, "request failed", slog.Int("status", status),
		slog.Any("error", err), slog.String("client", r.RemoteAddr), slog.String("path", r.URL.Path))
	p.errorHandler(w, r, err)
}

func defaultErrorHandler(w http.ResponseWriter, _ *http.Request, err error) {
	status := StatusCode(err)
	text := http.StatusText(status)
	var refused *refusal
	if errors.As(err, &refused) && refused.public() {
		text = refused.Error()
	}
	http.Error(w, text, status)
}

// quote is %q for values of a client's or an upstream's choosing. A long one is
// cut, so that it cannot flood a response or a log.
func quote(s string) string {
	if len(s) > quotedMost {
		return strconv.Quote(s[:quotedMost]) + "…"
	}
	return strconv.Quote(s)
}

// bounded returns err, or an error that wraps err with a shorter text if err
// may quote more of what an upstream sent than quote would: the errors of
// net/http have the whole of a malformed line.
func bounded(err error) error {
	text := err.Error()
	if short := boundedText(text); short != text {
		return &shortened{err, short}
	}
	return err
}

type shortened struct {
	err  error
	text string
}

func (e *shortened) Error() string { return e.text }

func (e *shortened) Unwrap() error { return e.err }

// rawMarkers come before what crypto/x509, and net/http of some Go 1.25, do not
// quote.
var rawMarkers = []string{"malformed MIME header line: ", "malformed MIME header initial line: ", "certificate is valid for "}

// boundedText cuts what text quotes to what quote would leave of it, and the
// rest to textMost bytes or a little more.
func boundedText(text string) string {
	if len(text) <= quotedMost {
		return text
	}
	for _, marker := range rawMarkers {
		before, raw, found := strings.Cut(text, marker)
		if found && raw != "" && raw[0] != '"' && len(raw) > quotedMost {
			text = before + marker + raw[:quotedMost] + "…"
		}
	}
	var b strings.Builder
	for text != "" && b.Len() <= textMost {
		if quoted, err := strconv.QuotedPrefix(text); err == nil && text[0] == '"' {
			value, _ := strconv.Unquote(quoted)
			b.WriteString(quote(value))
			text = text[len(quoted):]
			continue
		}
		end := strings.IndexByte(text[1:], '"') + 1
		if end == 0 {
			end = len(text)
		}
		end = min(end, textMost+1-b.Len())
		b.WriteString(text[:end])
		text = text[end:]
	}
	if text != "" {
		b.WriteString("…")
	}
	return b.String()
}

// A boundedLog is the logger of httputil and writes at debug level.
type boundedLog struct{ logger *slog.Logger }

func (l boundedLog) Write(line []byte) (int, error) {
	l.logger.Debug(boundedText(strings.TrimSuffix(string(line), "\n")))
	return len(line), nil
}

const (
	quotedMost = 64  // bytes of a value in a message
	textMost   = 256 // bytes of a message
)
