package wsproxy

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/http/httputil"
	"slices"
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
		ctx, cancel := context.WithCancelCause(context.WithValue(r.Context(), inboundKey{}, r))
		defer cancel(nil)
		pw := newPlainWriter(w, p.sendTimeout)
		cut := true // by a panic, which is how httputil aborts a response
		defer func() { pw.end(r.Context(), cut) }()
		if r.ContentLength != 0 && r.Body != nil {
			pw.body = newClientBody(w, r, p.bodyTimeout, cancel)
			ctx = context.WithValue(ctx, bodyKey{}, pw.body)
		}
		if err := checkPlainRequest(r); err != nil {
			pw.prepare(pw.Header())
			if r.ProtoMajor == 1 { // what follows a CONNECT is no request
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

// A plainWriter is what httputil writes a response to. It keeps the fields of
// middleware for the final response, after a 1xx with which httputil clears
// them, and leaves a response without Content-Type so: from what net/http would
// make up of the first bytes of its body a browser might run them.
type plainWriter struct {
	http.ResponseWriter
	before  http.Header
	cleared bool
	body    *clientBody // nil: none
	stall   stallTimer  // of writes
}

// newPlainWriter returns a writer to w, which the caller must end before the
// handler returns. A write that takes longer than timeout fails.
func newPlainWriter(w http.ResponseWriter, timeout time.Duration) *plainWriter {
	pw := &plainWriter{ResponseWriter: w, before: w.Header().Clone()}
	pw.stall.timeout = timeout
	pw.stall.expired = func() { http.NewResponseController(w).SetWriteDeadline(longAgo) }
	return pw
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
	w.stall.begin() // a 1xx is written at once
	w.ResponseWriter.WriteHeader(status)
	w.stall.end()
}

// Write writes in pieces, as nothing shows the progress of one.
func (w *plainWriter) Write(b []byte) (n int, err error) {
	defer w.stall.end()
	for {
		w.stall.begin()
		m, err := w.ResponseWriter.Write(b[n:min(len(b), n+pieceSize)])
		if n += m; err != nil || n == len(b) {
			return n, err
		}
	}
}

// FlushError is for http.ResponseController.
func (w *plainWriter) FlushError() error {
	w.stall.begin()
	defer w.stall.end()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// end is for the end of the handler. net/http then writes what is left, for
// which it gets a last deadline, unless middleware may still have more to write.
func (w *plainWriter) end(ctx context.Context, cut bool) {
	w.stall.stop()
	if w.body != nil {
		w.body.end(cut)
	}
	own, ok := w.ResponseWriter.(interface{ SetWriteDeadline(time.Time) error })
	if ok && !cut && w.stall.timeout > 0 && serverWriteDeadline(ctx).IsZero() {
		own.SetWriteDeadline(time.Now().Add(w.stall.timeout))
	}
}

// prepare gives the connection up where the response comes before the end of
// the body. For another request net/http would first swallow what is left of
// that; in full duplex it would not, but panics (golang/go#68560).
func (w *plainWriter) prepare(h http.Header) {
	if w.body != nil && w.body.http1 && !w.body.wasRead() {
		h.Set("Connection", "close")
	}
}

func (w *plainWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// inboundKey is the context key of the client's request: httputil gives its
// ErrorHandler the outgoing one.
type inboundKey struct{}

// bodyKey is the context key of the client's *clientBody.
type bodyKey struct{}

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
	client, _ := out.Context().Value(bodyKey{}).(*clientBody)
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
			err = aborted // by client
		} else if cause := context.Cause(ctx); cause != nil && out.Context().Err() == nil {
			err = cause // the client's body failed
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
	res.Request = out // and not the one server's attempt
	res.Body = newTimedBody(res.Body, conn, t.p.readTimeout, cancel)
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

// bodyBuffers lends httputil the relay's buffers.
type bodyBuffers struct{}

func (bodyBuffers) Get() []byte  { return getBuffer()[:] }
func (bodyBuffers) Put(b []byte) { putBuffer((*buffer)(b)) }
