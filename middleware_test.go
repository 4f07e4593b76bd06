package wsproxy_test

import (
	"bufio"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"testing"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
)

// An unwrapper is what most middleware makes of a ResponseWriter.
type unwrapper struct{ w http.ResponseWriter }

func (u unwrapper) Header() http.Header         { return u.w.Header() }
func (u unwrapper) Write(b []byte) (int, error) { return u.w.Write(b) }
func (u unwrapper) WriteHeader(status int)      { u.w.WriteHeader(status) }
func (u unwrapper) Unwrap() http.ResponseWriter { return u.w }

// A hider is what some middleware makes of it.
type hider struct{ http.ResponseWriter }

func TestMiddlewareWithUnwrapIsSeenThrough(t *testing.T) {
	u := newUpstream(t)
	p := newProxy(t, u.url)
	addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.ServeHTTP(unwrapper{unwrapper{w}}, r)
	}))
	client, server := tunnel(t, addr, u)
	client.send(t, "there")
	server.expect(t, "there")
	server.send(t, "back")
	client.expect(t, "back")
}

func TestAWriterThatCannotBeHijackedIsNamedBeforeAnythingIsDialed(t *testing.T) {
	for name, wrap := range map[string]func(http.Handler) http.Handler{
		"wsproxy_test.hider": func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(unwrapper{hider{w}}, r) })
		},
		"*http.timeoutWriter": func(h http.Handler) http.Handler { return http.TimeoutHandler(h, patience, "too late") },
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			res, client := ask(t, serve(t, wrap(newProxy(t, u.url))), sampleRequest)
			assert.Equal(t, 500, res.StatusCode)
			text := body(t, res)
			for _, part := range []string{name, "http.Hijacker", "Unwrap"} {
				assert.Contains(t, text, part)
			}
			assert.Empty(t, client.gone(t, "the client's"))

			errs := newFailures()
			ask(t, serve(t, wrap(newProxy(t, u.url, errs.option()))), sampleRequest)
			err := errs.next(t).err
			assert.ErrorIs(t, err, http.ErrNotSupported)
			assert.Equal(t, 500, wsproxy.StatusCode(err))
			assert.Empty(t, u.conns, "the upstream was dialed")
		})
	}
}

// A brokenHijacker has the method whatever it wraps, as much middleware does.
type brokenHijacker struct{ http.ResponseWriter }

func (brokenHijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, errors.New("no luck")
}

func TestAHijackThatFailsIsAnswered(t *testing.T) {
	u := newUpstream(t)
	errs := newFailures()
	p := newProxy(t, u.url, errs.option())
	addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Middleware", "here")
		w.Header().Set("Set-Cookie", "m=1")
		p.ServeHTTP(brokenHijacker{w}, r)
	}))
	client := dial(t, addr)
	client.send(t, sampleRequest+sampleRequest)
	server := u.accept(t)
	server.request(t)
	server.send(t, switchWith(t, "Upgrade: websocket\r\n", "Upgrade: websocket\r\nSet-Cookie: u=2\r\n"))
	res := client.answer(t)
	assert.Equal(t, 500, res.StatusCode)
	assert.Equal(t, []string{"here"}, res.Header["X-Middleware"])
	assert.Equal(t, []string{"m=1"}, res.Header["Set-Cookie"], "fields of middleware, and none of the 101")
	assert.Empty(t, res.Header["Sec-Websocket-Accept"])
	assert.True(t, res.Close, "what the client sent for the tunnel may be taken for its next request")
	assert.Empty(t, server.gone(t, "the upstream's"))
	err := errs.next(t).err
	assert.ErrorContains(t, err, "wsproxy_test.brokenHijacker")
	assert.ErrorContains(t, err, "no luck")
	assert.Equal(t, 500, wsproxy.StatusCode(err))
	assert.Equal(t, wsproxy.Stats{}, p.Stats())
}

// A routerWriter is what routers make of a ResponseWriter: it has both methods,
// whatever it wraps.
type routerWriter struct{ http.ResponseWriter }

func (w routerWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
func (w routerWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return http.NewResponseController(w.ResponseWriter).Hijack()
}

func TestARouterIsNotBlamedForTheWriterThatItWraps(t *testing.T) {
	u := newUpstream(t)
	p := newProxy(t, u.url)
	addr := serve(t, http.TimeoutHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.ServeHTTP(routerWriter{w}, r)
	}), patience, ""))
	u.answers(sampleSwitch)
	res, _ := ask(t, addr, sampleRequest)
	text := body(t, res)
	assert.Equal(t, 500, res.StatusCode)
	assert.Contains(t, text, "*http.timeoutWriter")
	assert.NotContains(t, text, "routerWriter")
}

// A panicker's Hijack is for a Hijacker alone.
type panicker struct{ routerWriter }

func (w panicker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return w.ResponseWriter.(http.Hijacker).Hijack()
}

func TestAHijackThatPanicsLeavesNoFieldOfTheSwitch(t *testing.T) {
	u := newUpstream(t)
	p := newProxy(t, u.url)
	addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			if recover() != nil { // as recovery middleware does
				w.WriteHeader(http.StatusInternalServerError)
			}
		}()
		p.ServeHTTP(panicker{routerWriter{hider{w}}}, r)
	}))
	u.answers(sampleSwitch)
	res, _ := ask(t, addr, sampleRequest)
	assert.Equal(t, 500, res.StatusCode)
	assert.Empty(t, res.Header["Sec-Websocket-Accept"])
	assert.Equal(t, wsproxy.Stats{}, p.Stats())
}

// A refuser says that it cannot, though what it wraps could.
type refuser struct{ unwrapper }

func (refuser) Hijack() (net.Conn, *bufio.ReadWriter, error) { return nil, nil, http.ErrNotSupported }

func TestAWrapperThatRefusesItselfIsNamed(t *testing.T) {
	u := newUpstream(t)
	p := newProxy(t, u.url)
	addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.ServeHTTP(refuser{unwrapper{w}}, r) }))
	u.answers(sampleSwitch)
	res, _ := ask(t, addr, sampleRequest)
	assert.Equal(t, 500, res.StatusCode)
	assert.Contains(t, body(t, res), "hijacking wsproxy_test.refuser")
}

func TestWhatCameForTheTunnelIsNoRequestAfterAPanic(t *testing.T) {
	u := newUpstream(t)
	p := newProxy(t, u.url, wsproxy.WithRewrite(func(*httputil.ProxyRequest) { panic("the user's") }))
	asked := make(chan string, 10)
	addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.URL.Path
		defer func() {
			if recover() != nil {
				w.WriteHeader(http.StatusInternalServerError)
			}
		}()
		p.ServeHTTP(w, r)
	}))
	res, client := ask(t, addr, sampleRequest+plainGet("/smuggled"))
	assert.Equal(t, 500, res.StatusCode)
	assert.True(t, res.Close)
	client.expectEOF(t, "")
	assert.Equal(t, "/chat", <-asked)
	assert.Empty(t, asked)
}

// A throughReader's conn and reader are one, so that nothing early is missed.
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

func TestAConnThatReadsThroughTheServersReaderGivesEachByteOnce(t *testing.T) {
	u := newUpstream(t)
	p := newProxy(t, u.url)
	addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.ServeHTTP(throughReader{w}, r) }))
	client := dial(t, addr)
	client.send(t, sampleRequest+"early")
	server := u.accept(t)
	server.request(t)
	server.send(t, sampleSwitch)
	assert.Equal(t, 101, client.answer(t).StatusCode)
	client.send(t, ", and later")
	server.expect(t, "early, and later")
	server.send(t, "back")
	client.expect(t, "back")
	client.CloseWrite()
	server.expectEOF(t, "")
}
