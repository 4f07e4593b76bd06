package wsproxy_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheHandshakeReachesTheUpstreamAsSent(t *testing.T) {
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url)
	client := dial(t, addr)
	client.send(t, sampleAnd("Sec-WebSocket-Protocol: chat, superchat", "Sec-WebSocket-Protocol: v2",
		"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-other", "Origin: http://example.com",
		"Authorization: Bearer abc", "Cookie: a=1; b=2", "Accept-Language: de"))
	server := u.accept(t)
	assert.Equal(t, "GET /chat HTTP/1.1\r\nHost: server.example.com\r\n"+
		"Accept-Language: de\r\nAuthorization: Bearer abc\r\nConnection: upgrade\r\nCookie: a=1; b=2\r\nOrigin: http://example.com\r\n"+
		"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-other\r\n"+
		"Sec-WebSocket-Key: "+sampleKey+"\r\nSec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Protocol: v2\r\n"+
		"Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\nX-Forwarded-For: 127.0.0.1\r\n"+
		"X-Forwarded-Host: server.example.com\r\nX-Forwarded-Proto: http\r\nX-Real-Ip: 127.0.0.1\r\n\r\n",
		server.rawHeader(t), "no User-Agent or Accept-Encoding of the proxy's, and nothing lost")
	server.send(t, switchWith(t, "Upgrade: websocket\r\n", "Upgrade: WebSocket\r\nSec-WebSocket-Protocol: v2\r\nSec-WebSocket-Extensions: x-other\r\n"))
	res := client.answer(t)
	assert.Equal(t, 101, res.StatusCode)
	assert.Equal(t, []string{"v2"}, res.Header["Sec-Websocket-Protocol"])
	assert.Equal(t, []string{"x-other"}, res.Header["Sec-Websocket-Extensions"])
}

// golang/go#80875: bytes that come with the handshake are lost or sent early.
func TestEarlyBytesWaitForTheSwitch(t *testing.T) {
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url)
	early := strings.Repeat("early ", 10_000) // more than any reader has buffered
	client := dial(t, addr)
	client.send(t, sampleRequest+early)
	server := u.accept(t)
	server.request(t)
	server.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	b := make([]byte, 1)
	n, err := server.Read(b)
	var timeout net.Error
	require.ErrorAs(t, err, &timeout, "%d bytes before the switch", n)
	require.True(t, timeout.Timeout())
	server.SetReadDeadline(time.Now().Add(patience))
	server.send(t, sampleSwitch)
	server.expect(t, early)
}

func TestAProtocolThatIsNoWebSocketPassesByteForByte(t *testing.T) {
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url, wsproxy.WithUpgrades("websocket", "spdy/3.1"))
	client := dial(t, addr)
	client.send(t, "POST /exec?command=sh HTTP/1.1\r\nHost: api.example.com\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"+
		"X-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n\r\n\x80\x03")
	server := u.accept(t)
	got := server.request(t)
	assert.Equal(t, "POST", got.Method)
	assert.Equal(t, "/exec?command=sh", got.RequestURI)
	assert.True(t, strings.EqualFold("SPDY/3.1", got.Header.Get("Upgrade")))
	assert.Equal(t, int64(0), got.ContentLength)
	assert.Equal(t, []string{"v4.channel.k8s.io"}, got.Header["X-Stream-Protocol-Version"])
	server.send(t, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n\x00\x01\xff")
	res := client.answer(t)
	assert.Equal(t, 101, res.StatusCode)
	assert.True(t, strings.EqualFold("SPDY/3.1", res.Header.Get("Upgrade")))
	client.expect(t, "\x00\x01\xff")
	server.expect(t, "\x80\x03")
	client.send(t, "GET / HTTP/1.1\r\n\r\n")
	server.expect(t, "GET / HTTP/1.1\r\n\r\n")

	// An upstream that switches to the other allowed protocol is wrong too.
	client = dial(t, addr)
	client.send(t, "POST /exec HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n")
	server = u.accept(t)
	server.request(t)
	server.send(t, sampleSwitch)
	assert.Equal(t, 502, client.answer(t).StatusCode)
}

func TestFieldsOfMiddlewareAppearInTheSwitch(t *testing.T) {
	u := newUpstream(t)
	p := newProxy(t, u.url)
	addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Request-Id", "7")
		w.Header().Add("Set-Cookie", "m=1")
		w.Header().Set("Connection", "keep-alive")
		w.Header().Set("X-Split", "a\r\nX-Injected: 1")
		p.ServeHTTP(w, r)
	}))
	client := dial(t, addr)
	client.send(t, sampleRequest)
	server := u.accept(t)
	server.request(t)
	server.send(t, switchWith(t, "Upgrade: websocket\r\n", "Upgrade: websocket\r\nSet-Cookie: u=2\r\n"))
	res := client.answer(t)
	assert.Equal(t, 101, res.StatusCode)
	assert.Equal(t, []string{"7"}, res.Header["X-Request-Id"])
	assert.Equal(t, []string{"m=1", "u=2"}, res.Header["Set-Cookie"])
	assert.Equal(t, []string{"Upgrade"}, res.Header["Connection"])
	assert.Empty(t, res.Header["X-Injected"])
}

func TestAClientThatLeavesDuringTheDialEndsIt(t *testing.T) {
	errs := newFailures()
	dialing := make(chan struct{})
	p, addr := serveProxy(t, "http://upstream.example.com", errs.option(), wsproxy.WithConnectTimeout(0),
		wsproxy.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
			close(dialing)
			<-ctx.Done()
			return nil, ctx.Err()
		}))
	client := dial(t, addr)
	client.send(t, sampleRequest)
	<-dialing
	client.Close()
	err := errs.next(t).err
	assert.Equal(t, 499, wsproxy.StatusCode(err))
	assert.ErrorIs(t, err, context.Canceled)
	assert.NotErrorIs(t, err, wsproxy.ErrUpstream, "the upstream is blamed")
	assert.Equal(t, wsproxy.Stats{}, p.Stats())
}

func TestAClientThatLeavesWhileTheUpstreamThinksFreesIt(t *testing.T) {
	for name, opts := range map[string][]wsproxy.Option{
		"with timeouts":    nil,
		"without timeouts": {wsproxy.WithReadTimeout(0), wsproxy.WithSendTimeout(0), wsproxy.WithConnectTimeout(0)},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			errs := newFailures()
			p, addr := serveProxy(t, u.url, append(opts, errs.option())...)
			client := dial(t, addr)
			client.send(t, sampleRequest)
			server := u.accept(t)
			server.request(t)
			client.Close()
			assert.Empty(t, server.gone(t, "the upstream's"))
			err := errs.next(t).err
			assert.Equal(t, 499, wsproxy.StatusCode(err))
			assert.NotErrorIs(t, err, wsproxy.ErrUpstream, "the upstream is blamed")
			assert.Equal(t, wsproxy.Stats{}, p.Stats())
		})
	}
}

func TestTheContextOfARequestEndsItsHandshake(t *testing.T) {
	reason := errors.New("quota used up")
	for _, c := range []struct {
		name   string
		end    func(context.Context) (context.Context, context.CancelFunc)
		status int
		is     error
	}{
		{"cancelled with a cause", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancelCause(ctx)
			return ctx, func() { cancel(reason) }
		}, 499, reason},
		{"past its deadline", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithTimeout(ctx, 30*time.Millisecond)
			return ctx, func() { <-ctx.Done(); cancel() }
		}, 504, wsproxy.ErrUpstreamTimeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := newUpstream(t)
			errs := newFailures()
			p := newProxy(t, u.url, errs.option())
			ends := make(chan context.CancelFunc, 1)
			addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx, end := c.end(r.Context())
				ends <- end
				p.ServeHTTP(w, r.WithContext(ctx))
			}))
			client := dial(t, addr)
			client.send(t, sampleRequest)
			server := u.accept(t)
			server.request(t)
			(<-ends)()
			assert.Empty(t, server.gone(t, "the upstream's"))
			assert.Equal(t, c.status, client.answer(t).StatusCode)
			err := errs.next(t).err
			assert.Equal(t, c.status, wsproxy.StatusCode(err))
			assert.ErrorIs(t, err, c.is)
		})
	}
}

func TestClosingTheProxyEndsAHandshake(t *testing.T) {
	u := newUpstream(t)
	errs := newFailures()
	p, addr := serveProxy(t, u.url, errs.option())
	client := dial(t, addr)
	client.send(t, sampleRequest)
	server := u.accept(t)
	server.request(t)
	assert.Equal(t, 1, p.Stats().Handshakes)
	require.NoError(t, p.Close())
	assert.Empty(t, server.gone(t, "the upstream's"))
	res := client.answer(t)
	assert.Equal(t, 503, res.StatusCode)
	assert.NotEmpty(t, res.Header["Retry-After"])
	assert.ErrorIs(t, errs.next(t).err, wsproxy.ErrShutdown)
	assert.Equal(t, wsproxy.Stats{}, p.Stats())

	res, _ = ask(t, addr, sampleRequest)
	assert.Equal(t, 503, res.StatusCode)
	assert.Empty(t, u.conns, "the upstream was dialed after Close")
}

// pass lets d go by. Nothing happens at the end of a limit that must not
// strike, so there is nothing to wait for.
func pass(d time.Duration) { time.Sleep(d) }

func TestTheServersTimeoutsDoNotConcernATunnel(t *testing.T) {
	const short = 300 * time.Millisecond
	u := newUpstream(t)
	s := httptest.NewUnstartedServer(newProxy(t, u.url))
	s.Config.ReadTimeout, s.Config.ReadHeaderTimeout, s.Config.WriteTimeout, s.Config.IdleTimeout = short, short, short, short
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.Start()
	t.Cleanup(s.Close)
	client, server := tunnel(t, s.Listener.Addr().String(), u)
	pass(short + short/2)
	client.send(t, "there")
	server.expect(t, "there")
	server.send(t, "back")
	client.expect(t, "back")
}

// The read timeout of the handshake and the send timeout of its request are
// over with the 101: what a tunnel has is the proxy's own clock.
func TestTheTimeoutsOfTheHandshakeEndWithIt(t *testing.T) {
	const short = 500 * time.Millisecond
	for name, opt := range map[string]wsproxy.Option{
		"read timeout": wsproxy.WithReadTimeout(short),
		"send timeout": wsproxy.WithSendTimeout(short),
	} {
		for scheme, serveUpstream := range map[string]func(testing.TB) (*upstream, []wsproxy.Option){
			"http":  func(t testing.TB) (*upstream, []wsproxy.Option) { return newUpstream(t), nil },
			"https": newTLSUpstream,
		} {
			t.Run(name+" over "+scheme, func(t *testing.T) {
				u, opts := serveUpstream(t)
				_, addr := serveProxy(t, u.url, append(opts, opt)...)
				client, server := tunnel(t, addr, u)
				for range 5 { // the client alone is heard of, and the tunnel is never idle
					pass(short / 4)
					client.send(t, "there")
					server.expect(t, "there")
				}
				server.send(t, "back")
				client.expect(t, "back")
			})
		}
	}
}

// A server's ReadTimeout is meant for the request. It must not end a handshake
// whose request is complete, for as long as the upstream may take.
func TestTheServersReadTimeoutDoesNotEndAHandshake(t *testing.T) {
	const short = 100 * time.Millisecond
	u := newUpstream(t)
	s := httptest.NewUnstartedServer(newProxy(t, u.url))
	s.Config.ReadTimeout = short
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.Start()
	t.Cleanup(s.Close)
	client := dial(t, s.Listener.Addr().String())
	client.send(t, sampleRequest)
	server := u.accept(t)
	server.request(t)
	pass(3 * short)
	io.WriteString(server, sampleSwitch)
	assert.Equal(t, 101, client.answer(t).StatusCode)
}
