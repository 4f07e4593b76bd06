package wsproxy

import (
	"context"
	"errors"
	"io"
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

// inboundKey is the context key of the client's request: httputil gives its
// ErrorHandler the outgoing one.
type inboundKey struct{}

// bodyKey is the context key of the client's *clientBody.
type bodyKey struct{}

// bodyBuffers lends httputil the relay's buffers.
type bodyBuffers struct{}

func (bodyBuffers) Get() []byte  { return getBuffer()[:] }
func (bodyBuffers) Put(b []byte) { putBuffer((*buffer)(b)) }

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
