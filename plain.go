package wsproxy

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httputil"
	"slices"
	"sync/atomic"
	"time"
)

// newPlainHandler returns the proxy for requests that are not upgrades:
// httputil's, with this package's header policy, dialing and errors.
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
		DisableCompression:     true, // a gzip body is the client's to decode
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			ctx := pr.Out.Context()
			p.Rewrite(pr)
			if pr.Out.Context().Value(inboundKey{}) == nil { // a request made anew
				pr.Out = pr.Out.WithContext(ctx)
			}
		},
		Transport:      plainTransport{p},
		ModifyResponse: p.modifyResponse,
		FlushInterval:  -1, // a proxy is not to hold back what it has
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
		if err := checkPlainRequest(r); err != nil {
			if r.ProtoMajor == 1 { // what follows a CONNECT is no request
				w.Header().Set("Connection", "close")
			}
			p.fail(w, r, err)
			return
		}
		pw := newPlainWriter(w)
		out := r.WithContext(context.WithValue(r.Context(), inboundKey{}, r))
		if r.ProtoMajor == 1 && r.ContentLength != 0 && r.Body != nil {
			pw.body = &clientBody{ReadCloser: r.Body}
			out.Body = pw.body
		}
		proxy.ServeHTTP(pw, out)
	})
}

// A plainWriter is what httputil writes a response to. It keeps the fields of
// middleware for the final response, after a 1xx with which httputil clears
// them, and leaves a response without Content-Type so: from what net/http would
// make up of the first bytes of its body a browser might run them.
type plainWriter struct {
	http.ResponseWriter
	before  http.Header
	cleared bool
	body    *clientBody // nil: none, or not HTTP/1
}

func newPlainWriter(w http.ResponseWriter) *plainWriter {
	return &plainWriter{ResponseWriter: w, before: w.Header().Clone()}
}

func (w *plainWriter) Header() http.Header {
	h := w.ResponseWriter.Header()
	if w.cleared {
		w.cleared = false
		maps.Copy(h, w.before.Clone())
	}
	return h
}

func (w *plainWriter) WriteHeader(status int) {
	if h := w.Header(); status < 200 {
		removeHopByHop(h)
		w.cleared = true // as soon as this returns
	} else {
		w.prepare(h)
		if status == http.StatusUpgradeRequired && h["Upgrade"] != nil { // see keepUpgrade
			h.Add("Connection", "Upgrade")
		}
		if h["Content-Type"] == nil {
			h["Content-Type"] = nil
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// prepare gives the connection up where the response comes before the end of
// the body. For another request net/http would first swallow what is left of
// that; in full duplex it would not, but panics (golang/go#68560).
func (w *plainWriter) prepare(h http.Header) {
	if w.body != nil && !w.body.ended.Load() {
		h.Set("Connection", "close")
	}
}

func (w *plainWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// A clientBody notes when it has been read to its end. After that net/http may
// close it, which is not for those to see who read on.
type clientBody struct {
	io.ReadCloser
	ended atomic.Bool
}

func (b *clientBody) Read(p []byte) (int, error) {
	if b.ended.Load() {
		return 0, io.EOF
	}
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.ended.Store(true)
	}
	return n, err
}

// inboundKey is the context key of the client's request: httputil gives its
// ErrorHandler the outgoing one.
type inboundKey struct{}

// serverKey is the context key of the server that a plain request goes to. The
// Transport dials with the context of a request that wants a connection to the
// same server, by its poolName.
type serverKey struct{}

// plainTransport sends plain requests to the servers, keeping them plain and
// their bodies within the read timeout.
type plainTransport struct{ p *Proxy }

func (t plainTransport) RoundTrip(out *http.Request) (*http.Response, error) {
	in := out.Context().Value(inboundKey{}).(*http.Request)
	if err := checkPlain(in, out); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(out.Context())
	body := out.Body
	if body != nil && body != http.NoBody {
		body = &requestBody{body, out.ContentLength, out.ContentLength, cancel}
	}
	host := out.Host
	if host == "" {
		host = t.p.target.url.Host // and not a server's, which the Transport would take
	}
	var conn *plainConn
	r := route{upstream: t.p.upstream, request: in, client: t.p.policy.client(in)}
	res, err := t.p.tryServers(ctx, &r, out, func(s lease) (*http.Response, error) {
		attempt := out.WithContext(noteConn(context.WithValue(ctx, serverKey{}, s.Candidate), &conn))
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
		if cause := context.Cause(ctx); cause != nil && out.Context().Err() == nil {
			err = cause // the client's body failed
		}
		cancel(nil)
		return nil, err
	}
	if in.ProtoMajor == 1 {
		keepUpgrade(res)
	}
	res.Request = out // and not the one server's attempt
	res.Body = &timedBody{ReadCloser: res.Body, conn: conn, timeout: t.p.readTimeout, cancel: cancel}
	return res, nil
}

// roundTrip asks one server.
func (t plainTransport) roundTrip(r *http.Request) (*http.Response, error) {
	res, err := t.p.transport.RoundTrip(r)
	switch {
	case errors.As(err, new(notSent)):
		return nil, err
	case err != nil:
		return nil, bounded(err)
	case res.StatusCode == http.StatusSwitchingProtocols:
		// httputil would tunnel it where neither side names a protocol, and
		// leak the connection where one does (golang/go#80875).
		err = badGateway("answered 101 to a request that asked for no upgrade")
	case res.StatusCode < 100: // which net/http does not let a handler write
		err = badGateway("answered with status %d", res.StatusCode)
	default:
		return res, nil
	}
	res.Body.Close()
	return nil, err
}

// checkPlain refuses what the Transport would not send as it is, so that no
// server has to answer for it. A Host of the client's own may be one that
// net/http lets pass.
func checkPlain(in, out *http.Request) error {
	if host := out.Host; host != "" && !isHostField(host) && (host != in.Host || !hasHostBytes(host)) {
		return badGateway("cannot send Host %s", quote(host))
	}
	if err := checkRequestLine(out); err != nil {
		return err
	}
	if out.Body == nil && out.ContentLength != 0 {
		return wrongLength(out.ContentLength)
	}
	for name := range out.Trailer {
		if slices.Contains([]string{"Content-Length", "Trailer", "Transfer-Encoding"}, http.CanonicalHeaderKey(name)) {
			return badGateway("cannot send trailer field %s", name)
		}
	}
	if err := checkFields(out.Trailer); err != nil {
		return err
	}
	return checkFields(out.Header)
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

// requestBody is a client's. The Transport closes it when it fails to connect,
// after which another server is still to get it: closing is left to httputil.
// When it cannot be read, which is no server's fault, the request ends.
type requestBody struct {
	io.Reader
	length int64 // by Content-Length; 0 or less: not known
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

// bodyBuffers lends httputil the relay's buffers.
type bodyBuffers struct{}

func (bodyBuffers) Get() []byte  { return getBuffer()[:] }
func (bodyBuffers) Put(b []byte) { putBuffer((*buffer)(b)) }
