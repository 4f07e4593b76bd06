package wsproxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
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
		MaxResponseHeaderBytes: maxAnswerHeader,
		DisableCompression:     true, // a gzip body is the client's to decode
	}
	proxy := &httputil.ReverseProxy{
		Rewrite:        p.Rewrite,
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
			p.fail(w, in, upstreamError(in.Context(), err))
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			// Or net/http would swallow the rest of the body when the answer
			// begins before its end.
			http.NewResponseController(w).EnableFullDuplex()
		}
		proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), inboundKey{}, r)))
	})
}

// inboundKey is the context key of the client's request: httputil gives its
// ErrorHandler the outgoing one.
type inboundKey struct{}

func (p *Proxy) dialPlain(ctx context.Context, _, _ string) (net.Conn, error) {
	conn, err := p.dial(ctx)
	if err != nil || p.sendTimeout == 0 {
		return conn, err
	}
	return &sendTimeoutConn{conn, p.sendTimeout}, nil
}

// sendTimeoutConn bounds each write of the Transport, which are short.
type sendTimeoutConn struct {
	net.Conn
	timeout time.Duration
}

func (c *sendTimeoutConn) Write(b []byte) (int, error) {
	c.Conn.SetWriteDeadline(time.Now().Add(c.timeout))
	return c.Conn.Write(b)
}

// plainTransport keeps plain requests plain and their bodies within the read
// timeout.
type plainTransport struct{ p *Proxy }

func (t plainTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(r.Context())
	out := r.WithContext(ctx)
	u := *r.URL
	u.Scheme, u.Host = t.p.target.url.Scheme, t.p.target.url.Host
	out.URL = &u
	res, err := t.p.transport.RoundTrip(out)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	if res.StatusCode < 100 { // which net/http does not let a handler write
		res.Body.Close()
		cancel(nil)
		return nil, badAnswer("answered with status %d", res.StatusCode)
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		// httputil would tunnel it where neither side names a protocol, and
		// leak the connection where one does (golang/go#80875).
		res.Body.Close()
		cancel(nil)
		return nil, badAnswer("answered 101 to a request that asked for no upgrade")
	}
	res.Body = &timedBody{ReadCloser: res.Body, timeout: t.p.readTimeout, cancel: cancel}
	return res, nil
}

// timedBody cancels its request if one read takes longer than the timeout.
type timedBody struct {
	io.ReadCloser
	timeout time.Duration
	timer   *time.Timer
	cancel  context.CancelCauseFunc
}

func (b *timedBody) Read(p []byte) (int, error) {
	switch {
	case b.timeout == 0:
	case b.timer == nil:
		b.timer = time.AfterFunc(b.timeout, func() {
			b.cancel(fmt.Errorf("%w: no byte of the body for %v", ErrUpstreamTimeout, b.timeout))
		})
	default:
		b.timer.Reset(b.timeout)
	}
	n, err := b.ReadCloser.Read(p)
	if b.timer != nil {
		b.timer.Stop()
	}
	return n, err
}

func (b *timedBody) Close() error {
	defer b.cancel(nil)
	return b.ReadCloser.Close()
}

// bodyBuffers lends httputil the relay's buffers.
type bodyBuffers struct{}

func (bodyBuffers) Get() []byte  { return getBuffer()[:] }
func (bodyBuffers) Put(b []byte) { putBuffer((*buffer)(b)) }
