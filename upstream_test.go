package wsproxy_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// faults are the ways in which a server fails before the 101 at once.
func faults(t testing.TB) map[string]string {
	return map[string]string{
		"refuses":       refusing(t),
		"hangs up":      scripted(t, "HTTP/1.1 101 Swi"),
		"is malformed":  scripted(t, "SSH-2.0-OpenSSH\r\n\r\n"),
		"hints, leaves": scripted(t, earlyHints),
		"bad 101":       scripted(t, strings.Replace(sampleSwitch, sampleAccept, "aaaa", 1)),
		"other upgrade": scripted(t, strings.Replace(sampleSwitch, "websocket", "h2c", 1)),
	}
}

func TestWhatFailsBeforeThe101GoesToTheNextServer(t *testing.T) {
	for name, addr := range faults(t) {
		t.Run(name, func(t *testing.T) {
			healthy := serve(t, switching("healthy"))
			u := newUpstreams(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: addr}, wsproxy.Server{Addr: healthy})
			p, proxy := serveProxy(t, "http://app.example", wsproxy.WithUpstream(u))
			client := dial(t, proxy)
			client.send(t, sampleRequest)
			res, _ := client.finalAnswer(t)
			tookOver(t, p, u, client, res)
		})
	}
}

// tookOver checks that the second of two servers, which is healthy, has the
// tunnel that the first failed to open, and ends it.
func tookOver(t testing.TB, p *wsproxy.Proxy, u *wsproxy.Upstream, client *peer, res *http.Response) {
	t.Helper()
	require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	require.Equal(t, "healthy", res.Header.Get("X-Server"))
	client.send(t, "hello")
	client.expect(t, "hello")
	states := u.Servers()
	assert.Equal(t, states[1].Addr, only(t, p).Server())
	assert.False(t, states[0].Available, "a failure counts")
	assert.Equal(t, 1, states[0].Fails)
	assert.Zero(t, states[0].Tunnels)
	assert.True(t, states[1].Available)
	assert.Equal(t, 1, states[1].Tunnels)
	client.Close()
	eventually(t, func() bool { return u.Servers()[1].Tunnels == 0 }, "the tunnel still counts")
}

func TestTheLastServersOwnAnswerReachesTheClient(t *testing.T) {
	busy := scripted(t, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\nX-From: busy\r\n\r\nbusy")
	u := newUpstreams(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: refusing(t)}, wsproxy.Server{Addr: busy})
	_, proxy := serveProxy(t, "http://app.example", wsproxy.WithUpstream(u))
	res, _ := ask(t, proxy, sampleRequest)
	require.Equal(t, 503, res.StatusCode)
	require.Equal(t, "busy", res.Header.Get("X-From"))
	require.Equal(t, "busy", body(t, res))
	eventually(t, func() bool { return u.Servers()[0].Tunnels+u.Servers()[1].Tunnels == 0 }, "a place is still taken")
	require.True(t, u.Servers()[1].Available, "a status is no failure")
}

func TestAnErrorNamesEveryServerTried(t *testing.T) {
	for _, request := range []string{sampleRequest, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"} {
		hung, down := serveTCP(t, thenSilent("")), refusing(t)
		errs := newFailures()
		u := newUpstreams(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: down}, wsproxy.Server{Addr: hung})
		_, proxy := serveProxy(t, "http://app.example", wsproxy.WithUpstream(u), wsproxy.WithReadTimeout(50*time.Millisecond), errs.option())
		res, _ := ask(t, proxy, request)
		require.Equal(t, http.StatusGatewayTimeout, res.StatusCode)
		err := errs.next(t).err
		assert.ErrorIs(t, err, wsproxy.ErrUpstreamTimeout, "the last one was late")
		assert.NotErrorIs(t, err, wsproxy.ErrUpstream)
		var netErr *net.OpError
		assert.True(t, errors.As(err, &netErr))
		assert.ErrorContains(t, err, "server "+down+": ")
		assert.ErrorContains(t, err, "; server "+hung+": ")
	}
}

func TestNoStatusCounts(t *testing.T) {
	for _, status := range []string{"400 Bad Request", "401 Unauthorized", "404 Not Found", "429 Too Many Requests", "500 Internal Server Error",
		"502 Bad Gateway", "503 Service Unavailable", "504 Gateway Timeout"} {
		addr := scripted(t, "HTTP/1.1 "+status+"\r\nContent-Length: 0\r\n\r\n")
		u := newUpstreams(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: addr}, wsproxy.Server{Addr: refusing(t), Backup: true})
		_, proxy := serveProxy(t, "http://app.example", wsproxy.WithUpstream(u))
		for _, request := range []string{sampleRequest, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"} {
			res, _ := ask(t, proxy, request)
			require.Equal(t, status, res.Status)
			require.Zero(t, u.Servers()[0].Fails, status)
		}
	}
}

func TestAClientThatLeavesDoesNotCount(t *testing.T) {
	for _, request := range []string{sampleRequest, anyGet, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf"} {
		hung := newUpstream(t)
		u := newUpstreams(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: hung.addr}, wsproxy.Server{Addr: refusing(t), Backup: true})
		failed := make(chan error, 1)
		_, proxy := serveProxy(t, "http://app.example", wsproxy.WithUpstream(u),
			wsproxy.WithErrorHandler(func(_ http.ResponseWriter, _ *http.Request, err error) { failed <- err }))
		client := dial(t, proxy)
		client.send(t, request)
		hung.accept(t).request(t)
		client.Close()
		require.Equal(t, 499, wsproxy.StatusCode(<-failed))
		assert.Zero(t, u.Servers()[0].Fails)
		assert.Zero(t, u.Servers()[1].Fails, "nor is another one tried")
	}
}

func TestTheMostTunnelsOfAServerAreExact(t *testing.T) {
	const places, clients = 7, 100
	addr := serve(t, switching("a"))
	u := newUpstreams(t, wsproxy.RoundRobin(),
		wsproxy.Server{Addr: addr, MaxTunnels: places}, wsproxy.Server{Addr: refusing(t), Down: true})
	refused := make(chan error, clients)
	p, proxy := serveProxy(t, "http://app.example", wsproxy.WithUpstream(u),
		wsproxy.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, err error) {
			refused <- err
			http.Error(w, "", wsproxy.StatusCode(err))
		}))
	var all sync.WaitGroup
	statuses := make(chan int, clients)
	for range clients {
		client := dial(t, proxy)
		all.Go(func() {
			io.WriteString(client, sampleRequest)
			if res, err := http.ReadResponse(client.br, nil); assert.NoError(t, err) {
				statuses <- res.StatusCode
			}
		})
	}
	all.Wait()
	close(statuses)
	count := map[int]int{}
	for status := range statuses {
		count[status]++
	}
	require.Equal(t, map[int]int{101: places, 503: clients - places}, count)
	require.ErrorIs(t, <-refused, wsproxy.ErrNoServer)
	require.Equal(t, places, u.Servers()[0].Tunnels)
	require.Equal(t, places, p.Stats().Live)
	res, _ := ask(t, proxy, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	require.Equal(t, 200, res.StatusCode, "plain requests are not limited")
}

func TestPlainRequestsAreSentTwiceOnlyWhereNothingIsLost(t *testing.T) {
	const get, post = "GET / HTTP/1.1\r\nHost: h.example:1\r\n\r\n", "POST / HTTP/1.1\r\nHost: h.example:1\r\nContent-Length: 4\r\n\r\nbody"
	const keyed = "POST / HTTP/1.1\r\nHost: h.example:1\r\nContent-Length: 0\r\nIdempotency-Key: 1\r\n\r\n"
	const put = "PUT / HTTP/1.1\r\nHost: h.example:1\r\nContent-Length: 0\r\n\r\n"
	busy := "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"
	for _, test := range []struct {
		name, request, addr string
		status              int
		body                string
		fails               int
	}{
		{"GET, refused", get, refusing(t), 200, "healthy got GET h.example:1 ", 1},
		{"GET, 503", get, scripted(t, busy), 503, "busy", 0},
		{"GET, cut", get, scripted(t, "HTTP/1.1 200"), 200, "healthy got GET h.example:1 ", 1},
		{"GET, 101", get, scripted(t, sampleSwitch), 200, "healthy got GET h.example:1 ", 1},
		{"POST, refused", post, refusing(t), 200, "healthy got POST h.example:1 body", 1},
		{"POST, 503", post, scripted(t, busy), 503, "busy", 0},
		{"POST, cut", post, scripted(t, "HTTP/1.1 200"), 502, "Bad Gateway\n", 1},
		{"POST with a key, cut", keyed, scripted(t, "HTTP/1.1 200"), 200, "healthy got POST h.example:1 ", 1},
		{"PUT, cut", put, scripted(t, "HTTP/1.1 200"), 502, "Bad Gateway\n", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			u := newUpstreams(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: test.addr}, wsproxy.Server{Addr: serve(t, switching("healthy"))})
			_, proxy := serveProxy(t, "http://app.example", wsproxy.WithUpstream(u))
			res, _ := ask(t, proxy, test.request)
			require.Equal(t, test.status, res.StatusCode)
			require.Equal(t, test.body, body(t, res))
			require.Equal(t, test.fails, u.Servers()[0].Fails)
		})
	}
}

func TestAFaultOfTheRequestIsNoServersFault(t *testing.T) {
	addr := serve(t, switching("a"))
	u := newUpstreams(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: addr}, wsproxy.Server{Addr: refusing(t), Backup: true})
	_, proxy := serveProxy(t, "http://app.example", wsproxy.WithUpstream(u))
	res, _ := ask(t, proxy, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n")
	require.Equal(t, http.StatusBadRequest, res.StatusCode)
	require.Zero(t, u.Servers()[0].Fails)
	require.Zero(t, u.Servers()[1].Fails)
}

func TestPlainRequestsReuseEachServersConnections(t *testing.T) {
	var dials atomic.Int64
	u := newUpstreams(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: serve(t, switching("a"))}, wsproxy.Server{Addr: serve(t, switching("b"))})
	_, proxy := serveProxy(t, "http://app.example", wsproxy.WithUpstream(u), wsproxy.WithKeepAlive(),
		wsproxy.WithDialContext(func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials.Add(1)
			return new(net.Dialer).DialContext(ctx, network, addr)
		}))
	for i := range 6 {
		res, _ := ask(t, proxy, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		require.Equal(t, "ab"[i%2:i%2+1]+" got GET h ", body(t, res))
	}
	require.EqualValues(t, 2, dials.Load())
}

func TestServersOnUnixSocketsTakeUpgradesAndPlainRequests(t *testing.T) {
	path := filepath.Join(t.TempDir(), "app.sock")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: switching("unix")}}
	s.Start()
	t.Cleanup(s.Close)
	u := newUpstreams(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: "unix:" + path})
	p, proxy := serveProxy(t, "http://app.example", wsproxy.WithUpstream(u), wsproxy.WithKeepAlive())
	res, _ := ask(t, proxy, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	require.Equal(t, "unix got GET a ", body(t, res))
	res, client := ask(t, proxy, sampleRequest)
	require.Equal(t, "unix", res.Header.Get("X-Server"))
	for tunnel := range p.Tunnels() {
		require.Equal(t, "unix:"+path, tunnel.Server())
	}
	client.Close()
}

func TestTheCertificateIsForTheTargetWhicheverServerAnswers(t *testing.T) {
	s := httptest.NewUnstartedServer(switching("tls"))
	s.StartTLS() // its certificate names example.com
	t.Cleanup(s.Close)
	tlsConfig := s.Client().Transport.(*http.Transport).TLSClientConfig
	u := newUpstreams(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: s.Listener.Addr().String()})
	_, proxy := serveProxy(t, "https://example.com/", wsproxy.WithUpstream(u), wsproxy.WithTLSConfig(tlsConfig), wsproxy.WithTargetHost())
	res, _ := ask(t, proxy, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	require.Equal(t, "tls got GET example.com ", body(t, res))
	res, client := ask(t, proxy, sampleRequest)
	require.Equal(t, 101, res.StatusCode)
	client.Close()

	_, proxy = serveProxy(t, "https://other.example/", wsproxy.WithUpstream(u), wsproxy.WithTLSConfig(tlsConfig))
	res, _ = ask(t, proxy, sampleRequest)
	require.Equal(t, 502, res.StatusCode)
}

func TestOneUpstreamServesSeveralProxies(t *testing.T) {
	u := newUpstreams(t, wsproxy.LeastTunnels(), wsproxy.Server{Addr: serve(t, switching("a"))}, wsproxy.Server{Addr: serve(t, switching("b"))})
	_, first := serveProxy(t, "http://app.example", wsproxy.WithUpstream(u))
	_, second := serveProxy(t, "http://app.example", wsproxy.WithUpstream(u))
	for _, addr := range []string{first, second, second, first} {
		res, _ := ask(t, addr, sampleRequest)
		require.Equal(t, 101, res.StatusCode)
	}
	require.Equal(t, 2, u.Servers()[0].Tunnels)
	require.Equal(t, 2, u.Servers()[1].Tunnels)
}

func TestATunnelOutlivesItsServersPlaceInTheSet(t *testing.T) {
	a, b := serve(t, switching("a")), serve(t, switching("b"))
	u := newUpstreams(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: a})
	_, proxy := serveProxy(t, "http://app.example", wsproxy.WithUpstream(u))
	res, client := ask(t, proxy, sampleRequest)
	require.Equal(t, "a", res.Header.Get("X-Server"))
	require.NoError(t, u.SetServers(wsproxy.Server{Addr: b}))
	client.send(t, "hello")
	client.expect(t, "hello")
	res, _ = ask(t, proxy, sampleRequest)
	require.Equal(t, "b", res.Header.Get("X-Server"))
}

// Seed 004: the outer proxy ends TLS and sends its target's name, the inner
// one sets the fields again.
func TestTwoProxiesInARowGrowTheForwardedListByOneAHop(t *testing.T) {
	app := newUpstream(t)
	_, inner := serveProxy(t, app.url)
	innerPort := inner[strings.LastIndexByte(inner, ':'):]
	outerProxy := newProxy(t, "http://inner.example"+innerPort, wsproxy.WithTargetHost(),
		wsproxy.WithUpstream(newUpstreams(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: inner})))
	outer := httptest.NewTLSServer(outerProxy)
	t.Cleanup(outer.Close)
	t.Cleanup(func() { outerProxy.Close() })

	request, err := http.NewRequest("GET", outer.URL+"/chat", nil)
	require.NoError(t, err)
	request.Host = "wss.example"
	for name, value := range map[string]string{"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": sampleKey,
		"Sec-WebSocket-Version": "13", "X-Forwarded-For": "203.0.113.9", "X-Real-IP": "6.6.6.6"} {
		request.Header.Set(name, value)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	answered := make(chan error, 1)
	go func() {
		res, err := outer.Client().Do(request.WithContext(ctx))
		if err == nil {
			res.Body.Close()
			if res.StatusCode != 101 {
				err = errors.New(res.Status)
			}
		}
		answered <- err
	}()
	server := app.accept(t)
	got := server.request(t)
	server.send(t, sampleSwitch)
	require.NoError(t, <-answered)
	assert.Equal(t, "inner.example"+innerPort, got.Host, "the inner server is chosen by its own name")
	assert.Equal(t, "203.0.113.9, 127.0.0.1, 127.0.0.1", got.Header.Get("X-Forwarded-For"))
	assert.Equal(t, "127.0.0.1", got.Header.Get("X-Real-Ip"), "the inner one's peer, as $remote_addr is in nginx")
}
