package wsproxy_test

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
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
		after  time.Duration
		status int
		is     error
	}{
		{"cancelled with a cause", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancelCause(ctx)
			return ctx, func() { cancel(reason) }
		}, 0, 499, reason},
		{"past its deadline", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			return ctx, func() { <-ctx.Done(); cancel() }
		}, 5 * time.Second, 504, wsproxy.ErrUpstreamTimeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				errs := newFailures()
				ends := make(chan context.CancelFunc, 1)
				r := newMemRig(t, &http.Server{ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
					ctx, end := c.end(ctx)
					ends <- end
					return ctx
				}}, errs.option())
				client := r.ask(t)
				server := <-r.upstreams
				server.request(t)
				start := time.Now()
				(<-ends)()
				assert.Empty(t, server.gone(t, "the upstream's"))
				assert.Equal(t, c.status, client.answer(t).StatusCode)
				err := errs.next(t).err
				assert.Equal(t, c.status, wsproxy.StatusCode(err))
				assert.ErrorIs(t, err, c.is)
				assert.Equal(t, c.after, time.Since(start), "the handshake ends after")
			})
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

// timeouts_test.go has this in fake time, which real sockets do not know.
func TestTheServersTimeoutsDoNotConcernATunnel(t *testing.T) {
	const long = 2 * time.Second // enough for a handshake, whatever else the machine does
	u := newUpstream(t)
	s := httptest.NewUnstartedServer(newProxy(t, u.url))
	s.Config.ReadTimeout, s.Config.ReadHeaderTimeout, s.Config.WriteTimeout, s.Config.IdleTimeout = long, long, long, long
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.Start()
	t.Cleanup(s.Close)
	client, server := tunnel(t, s.Listener.Addr().String(), u)
	time.Sleep(long + long/4) // nothing happens at the end of a limit that must not strike
	client.send(t, "there")
	server.expect(t, "there")
	server.send(t, "back")
	client.expect(t, "back")
}

// The read timeout of the handshake and the send timeout of its request are
// over with the 101: what a tunnel has is the proxy's own clock.
func TestTheTimeoutsOfTheHandshakeEndWithIt(t *testing.T) {
	certificate, trusted := testCertificate(t)
	for name, opt := range map[string]wsproxy.Option{
		"read timeout": wsproxy.WithReadTimeout(time.Minute),
		"send timeout": wsproxy.WithSendTimeout(time.Minute),
	} {
		for scheme, answering := range map[string]func(*peer) *peer{
			"http": func(server *peer) *peer { return server },
			"https": func(server *peer) *peer {
				return newPeer(tls.Server(server.Conn, &tls.Config{Certificates: []tls.Certificate{certificate}}))
			},
		} {
			t.Run(name+" over "+scheme, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newMemRigTo(t, scheme+"://example.com", nil, trusted, opt)
					client := r.ask(t)
					server := answering(<-r.upstreams)
					t.Cleanup(func() { server.Close() })
					server.request(t)
					server.send(t, sampleSwitch)
					require.Equal(t, 101, client.answer(t).StatusCode)
					for range 5 { // the client alone is heard of, and the tunnel is never idle
						time.Sleep(45 * time.Second)
						client.send(t, "there")
						server.expect(t, "there")
					}
					server.send(t, "back")
					client.expect(t, "back")
				})
			})
		}
	}
}

// A server's ReadTimeout is meant for the request. It must not end a handshake
// whose request is complete, for as long as the upstream may take.
func TestTheServersReadTimeoutDoesNotEndAHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMemRig(t, &http.Server{ReadTimeout: time.Second})
		client := r.ask(t)
		server := <-r.upstreams
		server.request(t)
		time.Sleep(30 * time.Second)
		server.send(t, sampleSwitch)
		assert.Equal(t, 101, client.answer(t).StatusCode)
		client.Close()
		server.Close()
	})
}
