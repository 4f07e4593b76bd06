package wsproxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"time"

	"example.com/wsproxy/internal/syntax"
)

// newPlainHandler returns the handler for requests that are not upgrades. It is
// an httputil.ReverseProxy with this package's header policy, dialing and
// errors.
func (p *Proxy) newPlainHandler() http.Handler {
	p.transport = &http.Transport{
		DialContext:            p.dialPlain,
		DialTLSContext:         p.dialPlain,
		DisableKeepAlives:      !p.keepAlive,
		MaxIdleConnsPerHost:    64,
		IdleConnTimeout:        60 * time.Second, // nginx's keepalive_timeout
		ExpectContinueTimeout:  time.Second,
		ResponseHeaderTimeout:  p.readTimeout,
		MaxResponseHeaderBytes: maxResponseHeader,
		DisableCompression:     true, // do not decode a gzip body, which the client does
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			ctx := pr.Out.Context()
			p.Rewrite(pr)
			if pr.Out.Context().Value(inboundKey{}) == nil { // WithRewrite has replaced pr.Out
				pr.Out = pr.Out.WithContext(ctx)
			}
		},
		Transport:      plainTransport{p},
		ModifyResponse: p.modifyResponse,
		FlushInterval:  -1, // flush after each write
		ErrorLog:       p.errorLog,
		BufferPool:     bodyBuffers{},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			in, ok := r.Context().Value(inboundKey{}).(*http.Request)
			if !ok {
				in = r
			}
			pw := w.(*plainWriter)
			pw.prepare(pw.Header())
			p.fail(pw.ResponseWriter, in, upstreamError(in.Context(), err))
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancelCause(context.WithValue(r.Context(), inboundKey{}, r))
		defer cancel(nil)
		pw := newPlainWriter(w, p.sendTimeout)
		cut := true // httputil aborts a response by a panic
		defer func() { pw.end(r.Context(), cut) }()
		if r.ContentLength != 0 && r.Body != nil {
			pw.body = newClientBody(w, r, p.bodyTimeout, cancel)
			ctx = context.WithValue(ctx, bodyKey{}, pw.body)
		}
		if err := checkPlainRequest(r); err != nil {
			pw.prepare(pw.Header())
			if r.ProtoMajor == 1 { // bytes after a CONNECT must not be parsed as a request
				w.Header().Set("Connection", "close")
			}
			p.fail(w, r, err)
			cut = false
			return
		}
		out := r.WithContext(ctx)
		if pw.body != nil {
			out.Body = pw.body
		}
		proxy.ServeHTTP(pw, out)
		cut = false
	})
}

// checkPlainRequest refuses a plain request that a client must not send or that
// cannot be forwarded unchanged. It is not sent to any server.
func checkPlainRequest(r *http.Request) error {
	if r.Method == http.MethodConnect {
		return refusedConnect(r)
	}
	if protocol, extended := connectProtocol(r); extended {
		return badRequest("method %s with :protocol %s, want CONNECT", syntax.Quote(r.Method), syntax.Quote(protocol))
	}
	if err := checkTarget(r); err != nil {
		return badRequest("%w", err)
	}
	if r.ProtoMajor < 2 { // net/http has checked the rest of HTTP/1
		return nil
	}
	if err := requestLineError(r); err != nil {
		return badRequest("%w", err)
	}
	if r.Host != "" && !syntax.IsHostField(r.Host) && !syntax.HasHostBytes(r.Host) {
		return badRequest("Host %s, want a host with an optional port", syntax.Quote(r.Host))
	}
	return nil
}

// inboundKey is the context key of the client's request. httputil passes only
// the outgoing request to its ErrorHandler.
type inboundKey struct{}

// bodyKey is the context key of the client's *clientBody.
type bodyKey struct{}

// bodyBuffers provides the relay's buffers to httputil.
type bodyBuffers struct{}

func (bodyBuffers) Get() []byte  { return getBuffer()[:] }
func (bodyBuffers) Put(b []byte) { putBuffer((*buffer)(b)) }

// serverKey is the context key of the server of a plain request. The Transport
// dials with the context of a request to the same server, because the host in
// its URLs is the server's poolName.
type serverKey struct{}

// plainTransport sends plain requests to the servers. It refuses a 101 and
// applies the read timeout to the body of a response.
type plainTransport struct{ p *Proxy }

func (t plainTransport) RoundTrip(out *http.Request) (*http.Response, error) {
	in := out.Context().Value(inboundKey{}).(*http.Request)
	if err := checkPlain(in, out); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(out.Context())
	client, _ := out.Context().Value(bodyKey{}).(*clientBody)
	body := out.Body
	if body != nil && body != http.NoBody {
		body = &requestBody{body, out.ContentLength, out.ContentLength, cancel}
	}
	host := out.Host
	if host == "" {
		host = t.p.target.url.Host // or the Transport would send the server's poolName
	}
	var conn *plainConn
	r := route{upstream: t.p.upstream, request: in, client: t.p.policy.client(in)}
	res, err := t.p.tryServers(ctx, &r, out, func(s lease) (*http.Response, error) {
		attempt := out.WithContext(noteConn(context.WithValue(ctx, serverKey{}, s.Candidate), client, &conn))
		u := *out.URL
		u.Scheme, u.Host = t.p.target.url.Scheme, s.poolName
		attempt.URL, attempt.Host, attempt.Body = &u, host, body
		conn = nil
		res, err := t.roundTrip(attempt)
		if conn != nil && conn.unanswered(err) {
			err = unanswered{err, conn.kept}
		}
		return res, err
	})
	if err != nil {
		var aborted *refusal
		if errors.As(context.Cause(out.Context()), &aborted) {
			err = aborted // by the clientBody
		} else if cause := context.Cause(ctx); cause != nil && out.Context().Err() == nil {
			err = cause // the client's body could not be read
		}
		cancel(nil)
		return nil, err
	}
	if in.ProtoMajor == 1 {
		keepUpgrade(res)
	}
	if client != nil {
		client.answer()
	}
	conn.headerRead()
	res.Request = out // not the attempt
	res.Body = newTimedBody(res.Body, conn, t.p.readTimeout, cancel)
	return res, nil
}

// roundTrip sends r to one server.
func (t plainTransport) roundTrip(r *http.Request) (*http.Response, error) {
	res, err := t.p.transport.RoundTrip(r)
	switch {
	case errors.As(err, new(notSent)):
		return nil, err
	case err != nil:
		return nil, syntax.Bounded(err)
	case res.StatusCode == http.StatusSwitchingProtocols:
		// httputil would open a tunnel if neither side names a protocol, and
		// leak the connection if one does (golang/go#80875).
		err = badGateway("answered 101 to a request without an upgrade")
	case res.StatusCode < 100: // net/http does not let a handler write such a status
		err = badGateway("answered with status %d", res.StatusCode)
	default:
		return res, nil
	}
	res.Body.Close()
	return nil, err
}

// checkPlain refuses a request that the Transport would not send unchanged, so
// that the error does not count as a failure of a server. It accepts a malformed
// Host of the client if net/http sends it unchanged.
func checkPlain(in, out *http.Request) error {
	if host := out.Host; host != "" && !syntax.IsHostField(host) && (host != in.Host || !syntax.HasHostBytes(host)) {
		return badGateway("cannot send Host %s", syntax.Quote(host))
	}
	if err := checkRequestLine(out); err != nil {
		return err
	}
	if out.Body == nil && out.ContentLength != 0 {
		return wrongLength(out.ContentLength)
	}
	for name := range out.Trailer {
		if slices.Contains([]string{"Content-Length", "Trailer", "Transfer-Encoding"}, http.CanonicalHeaderKey(name)) {
			return badGateway("cannot send %s as a trailer field", name)
		}
	}
	if err := checkFields(out.Trailer); err != nil {
		return err
	}
	return checkFields(out.Header)
}

// A requestBody is the body of a plain request. Close does nothing, because the
// Transport closes the body when it cannot connect, and the next server still
// needs it; httputil closes the client's body. If the body cannot be read, it
// cancels the request, so that the error does not count as a failure of the
// server.
type requestBody struct {
	io.Reader
	length int64 // the Content-Length; 0 or less if unknown
	left   int64
	cancel context.CancelCauseFunc
}

func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.left -= int64(n)
	switch {
	case err != nil && err != io.EOF:
		b.cancel(badBody(err))
	case b.length > 0 && (b.left < 0 || b.left > 0 && err == io.EOF):
		b.cancel(wrongLength(b.length))
	}
	return n, err
}

func (b *requestBody) Close() error { return nil }

// A boundedLog is the writer of httputil's logger. It logs at debug level.
type boundedLog struct{ logger *slog.Logger }

func (l boundedLog) Write(line []byte) (int, error) {
	l.logger.Debug(syntax.BoundedText(strings.TrimSuffix(string(line), "\n")))
	return len(line), nil
}
