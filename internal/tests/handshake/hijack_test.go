package handshake_test

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

// An unwrapper wraps a ResponseWriter as most middleware does, with Unwrap.
type unwrapper struct{ w http.ResponseWriter }

func (u unwrapper) Header() http.Header         { return u.w.Header() }
func (u unwrapper) Write(b []byte) (int, error) { return u.w.Write(b) }
func (u unwrapper) WriteHeader(status int)      { u.w.WriteHeader(status) }
func (u unwrapper) Unwrap() http.ResponseWriter { return u.w }

// A hider wraps a ResponseWriter as some middleware does, without Unwrap or
// Hijack.
type hider struct{ http.ResponseWriter }

func TestAWriterWithUnwrapIsUnwrapped(t *testing.T) {
	u := testkit.NewUpstream(t)
	p := testkit.NewProxy(t, u.URL)
	addr := testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.ServeHTTP(unwrapper{unwrapper{w}}, r)
	}))
	client, server := testkit.Tunnel(t, addr, u)
	client.Send(t, "there")
	server.Expect(t, "there")
	server.Send(t, "back")
	client.Expect(t, "back")
}

func TestAWriterThatCannotBeHijackedIsNamedBeforeAnythingIsDialed(t *testing.T) {
	for name, wrap := range map[string]func(http.Handler) http.Handler{
		"handshake_test.hider": func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(unwrapper{hider{w}}, r) })
		},
		"*http.timeoutWriter": func(h http.Handler) http.Handler { return http.TimeoutHandler(h, testkit.Patience, "too late") },
	} {
		t.Run(name, func(t *testing.T) {
			u := testkit.NewUpstream(t)
			res, client := testkit.Do(t, testkit.Serve(t, wrap(testkit.NewProxy(t, u.URL))), testkit.SampleRequest)
			assert.Equal(t, 500, res.StatusCode)
			text := testkit.Body(t, res)
			for _, part := range []string{name, "http.Hijacker", "Unwrap"} {
				assert.Contains(t, text, part)
			}
			assert.Empty(t, client.Rest(t, "the client's"))

			errs := testkit.NewFailures()
			testkit.Do(t, testkit.Serve(t, wrap(testkit.NewProxy(t, u.URL, errs.Option()))), testkit.SampleRequest)
			err := errs.Next(t).Err
			assert.ErrorIs(t, err, http.ErrNotSupported)
			assert.Equal(t, 500, wsproxy.StatusCode(err))
			assert.Empty(t, u.Conns, "the upstream was dialed")
		})
	}
}

// A brokenHijacker has a Hijack method whatever it wraps, as much middleware
// does.
type brokenHijacker struct{ http.ResponseWriter }

func (brokenHijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, errors.New("no luck")
}

func TestAFailedHijackCauses500(t *testing.T) {
	u := testkit.NewUpstream(t)
	errs := testkit.NewFailures()
	p := testkit.NewProxy(t, u.URL, errs.Option())
	addr := testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Middleware", "here")
		w.Header().Set("Set-Cookie", "m=1")
		p.ServeHTTP(brokenHijacker{w}, r)
	}))
	client := testkit.Dial(t, addr)
	client.Send(t, testkit.SampleRequest+testkit.SampleRequest)
	server := u.Accept(t)
	server.Request(t)
	server.Send(t, testkit.SampleSwitchWith(t, "Upgrade: websocket\r\n", "Upgrade: websocket\r\nSet-Cookie: u=2\r\n"))
	res := client.Response(t)
	assert.Equal(t, 500, res.StatusCode)
	assert.Equal(t, []string{"here"}, res.Header["X-Middleware"])
	assert.Equal(t, []string{"m=1"}, res.Header["Set-Cookie"], "fields of middleware, and none of the 101")
	assert.Empty(t, res.Header["Sec-Websocket-Accept"])
	assert.True(t, res.Close, "what the client sent for the tunnel may be taken for its next request")
	assert.Empty(t, server.Rest(t, "the upstream's"))
	err := errs.Next(t).Err
	assert.ErrorContains(t, err, "handshake_test.brokenHijacker")
	assert.ErrorContains(t, err, "no luck")
	assert.Equal(t, 500, wsproxy.StatusCode(err))
	assert.Equal(t, testkit.Counts{}, testkit.Counted(p))
}

// A routerWriter wraps a ResponseWriter as routers do: it has Hijack and Unwrap
// whatever it wraps.
type routerWriter struct{ http.ResponseWriter }

func (w routerWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
func (w routerWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

func TestARouterIsNotBlamedForTheWriterThatItWraps(t *testing.T) {
	u := testkit.NewUpstream(t)
	p := testkit.NewProxy(t, u.URL)
	addr := testkit.Serve(t, http.TimeoutHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.ServeHTTP(routerWriter{w}, r)
	}), testkit.Patience, ""))
	u.Respond(testkit.SampleSwitch)
	res, _ := testkit.Do(t, addr, testkit.SampleRequest)
	text := testkit.Body(t, res)
	assert.Equal(t, 500, res.StatusCode)
	assert.Contains(t, text, "*http.timeoutWriter")
	assert.NotContains(t, text, "routerWriter")
}

// A panicker's Hijack panics unless it wraps an http.Hijacker.
type panicker struct{ routerWriter }

func (w panicker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.ResponseWriter.(http.Hijacker).Hijack()
}

func TestAHijackThatPanicsLeavesNoFieldsOfThe101(t *testing.T) {
	u := testkit.NewUpstream(t)
	p := testkit.NewProxy(t, u.URL)
	addr := testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if recover() != nil { // as recovery middleware does
				w.WriteHeader(http.StatusInternalServerError)
			}
		}()
		p.ServeHTTP(panicker{routerWriter{hider{w}}}, r)
	}))
	u.Respond(testkit.SampleSwitch)
	res, _ := testkit.Do(t, addr, testkit.SampleRequest)
	assert.Equal(t, 500, res.StatusCode)
	assert.Empty(t, res.Header["Sec-Websocket-Accept"])
	assert.Equal(t, testkit.Counts{}, testkit.Counted(p))
}

// A refuser returns http.ErrNotSupported although the writer it wraps could be
// hijacked.
type refuser struct{ unwrapper }

func (refuser) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, http.ErrNotSupported }

func TestAWrapperThatRefusesToHijackIsNamed(t *testing.T) {
	u := testkit.NewUpstream(t)
	p := testkit.NewProxy(t, u.URL)
	addr := testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.ServeHTTP(refuser{unwrapper{w}}, r) }))
	u.Respond(testkit.SampleSwitch)
	res, _ := testkit.Do(t, addr, testkit.SampleRequest)
	assert.Equal(t, 500, res.StatusCode)
	assert.Contains(t, testkit.Body(t, res), "hijacking handshake_test.refuser")
}

func TestBytesForTheTunnelAreNotParsedAsARequestAfterAPanic(t *testing.T) {
	u := testkit.NewUpstream(t)
	p := testkit.NewProxy(t, u.URL, wsproxy.WithRewrite(func(*httputil.ProxyRequest) { panic("the user's") }))
	asked := make(chan string, 10)
	addr := testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		defer func() {
			if recover() != nil {
				w.WriteHeader(http.StatusInternalServerError)
			}
		}()
		p.ServeHTTP(w, r)
	}))
	res, client := testkit.Do(t, addr, testkit.SampleRequest+testkit.PlainGet("/smuggled"))
	assert.Equal(t, 500, res.StatusCode)
	assert.True(t, res.Close)
	client.ExpectEOF(t, "")
	assert.Equal(t, "/chat", <-asked)
	assert.Empty(t, asked)
}

// A throughReader is a connection that reads through the server's bufio.Reader,
// so that no early byte is missed.
type throughReader struct{ http.ResponseWriter }

type readerConn struct {
	net.Conn
	*bufio.Reader
}

func (c readerConn) Read(b []byte) (int, error) { return c.Reader.Read(b) }
func (c readerConn) CloseWrite() error          { return c.Conn.(*net.TCPConn).CloseWrite() }

func (w throughReader) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, brw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	return readerConn{conn, brw.Reader}, brw, nil
}

func TestAConnThatReadsThroughTheServersReaderReturnsEachByteOnce(t *testing.T) {
	u := testkit.NewUpstream(t)
	p := testkit.NewProxy(t, u.URL)
	addr := testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.ServeHTTP(throughReader{w}, r) }))
	client := testkit.Dial(t, addr)
	client.Send(t, testkit.SampleRequest+"early")
	server := u.Accept(t)
	server.Request(t)
	server.Send(t, testkit.SampleSwitch)
	assert.Equal(t, 101, client.Response(t).StatusCode)
	client.Send(t, ", and later")
	server.Expect(t, "early, and later")
	server.Send(t, "back")
	client.Expect(t, "back")
	client.CloseWrite()
	server.ExpectEOF(t, "")
}
