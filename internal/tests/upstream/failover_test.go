package upstream_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// faults are the ways in which a server fails at once, before the 101.
func faults(t testing.TB) map[string]string {
	return map[string]string{
		"refuses":       testkit.RefusingAddr(t),
		"hangs up":      testkit.ServeResponse(t, "HTTP/1.1 101 Swi"),
		"is malformed":  testkit.ServeResponse(t, "SSH-2.0-OpenSSH\r\n\r\n"),
		"hints, leaves": testkit.ServeResponse(t, earlyHints),
		"bad 101":       testkit.ServeResponse(t, strings.Replace(testkit.SampleSwitch, testkit.SampleAccept, "aaaa", 1)),
		"other upgrade": testkit.ServeResponse(t, strings.Replace(testkit.SampleSwitch, "websocket", "h2c", 1)),
	}
}

func TestARequestThatFailsBeforeThe101GoesToTheNextServer(t *testing.T) {
	for name, addr := range faults(t) {
		t.Run(name, func(t *testing.T) {
			healthy := testkit.Serve(t, testkit.Echo("healthy"))
			u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: addr}, wsproxy.Server{Addr: healthy})
			p, proxy := testkit.ServeProxy(t, "http://app.example", wsproxy.WithUpstream(u))
			client := testkit.Dial(t, proxy)
			client.Send(t, testkit.SampleRequest)
			res, _ := finalResponse(t, client)
			tookOver(t, p, u, client, res)
		})
	}
}

// tookOver checks that the healthy second server has the tunnel that the first
// one failed to open, and ends the tunnel.
func tookOver(t testing.TB, p *wsproxy.Proxy, u *wsproxy.Upstream, client *testkit.Peer, res *http.Response) {
	t.Helper()
	require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	require.Equal(t, "healthy", res.Header.Get("X-Server"))
	client.Send(t, "hello")
	client.Expect(t, "hello")
	states := u.Servers()
	assert.Equal(t, states[1].Addr, testkit.OnlyTunnel(t, p).Server())
	assert.False(t, states[0].Available, "a failure counts")
	assert.Equal(t, 1, states[0].Fails)
	assert.Zero(t, states[0].Tunnels)
	assert.True(t, states[1].Available)
	assert.Equal(t, 1, states[1].Tunnels)
	client.Close()
	testkit.Eventually(t, func() bool { return u.Servers()[1].Tunnels == 0 }, "the tunnel still counts")
}

func TestTheLastServersResponseReachesTheClient(t *testing.T) {
	busy := testkit.ServeResponse(t, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\nX-From: busy\r\n\r\nbusy")
	u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: testkit.RefusingAddr(t)}, wsproxy.Server{Addr: busy})
	_, proxy := testkit.ServeProxy(t, "http://app.example", wsproxy.WithUpstream(u))
	res, _ := testkit.Do(t, proxy, testkit.SampleRequest)
	require.Equal(t, 503, res.StatusCode)
	require.Equal(t, "busy", res.Header.Get("X-From"))
	require.Equal(t, "busy", testkit.Body(t, res))
	testkit.Eventually(t, func() bool { return u.Servers()[0].Tunnels+u.Servers()[1].Tunnels == 0 }, "a place is still taken")
	require.True(t, u.Servers()[1].Available, "a status is not a failure")
}

func TestAnErrorNamesEveryServerTried(t *testing.T) {
	for _, request := range []string{testkit.SampleRequest, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"} {
		hung, down := testkit.ServeTCP(t, testkit.ThenSilent("")), testkit.RefusingAddr(t)
		errs := testkit.NewFailures()
		u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: down}, wsproxy.Server{Addr: hung})
		_, proxy := testkit.ServeProxy(t, "http://app.example", wsproxy.WithUpstream(u), wsproxy.WithReadTimeout(50*time.Millisecond), errs.Option())
		res, _ := testkit.Do(t, proxy, request)
		require.Equal(t, http.StatusGatewayTimeout, res.StatusCode)
		err := errs.Next(t).Err
		assert.ErrorIs(t, err, wsproxy.ErrUpstreamTimeout, "the last one was late")
		assert.NotErrorIs(t, err, wsproxy.ErrUpstream)
		var netErr *net.OpError
		assert.True(t, errors.As(err, &netErr))
		assert.ErrorContains(t, err, "server "+down+": ")
		assert.ErrorContains(t, err, "; server "+hung+": ")
	}
}

func TestNoStatusCountsAsAFailure(t *testing.T) {
	for _, status := range []string{"400 Bad Request", "401 Unauthorized", "404 Not Found", "429 Too Many Requests", "500 Internal Server Error",
		"502 Bad Gateway", "503 Service Unavailable", "504 Gateway Timeout"} {
		addr := testkit.ServeResponse(t, "HTTP/1.1 "+status+"\r\nContent-Length: 0\r\n\r\n")
		u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: addr}, wsproxy.Server{Addr: testkit.RefusingAddr(t), Backup: true})
		_, proxy := testkit.ServeProxy(t, "http://app.example", wsproxy.WithUpstream(u))
		for _, request := range []string{testkit.SampleRequest, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"} {
			res, _ := testkit.Do(t, proxy, request)
			require.Equal(t, status, res.Status)
			require.Zero(t, u.Servers()[0].Fails, status)
		}
	}
}

func TestAClientThatDisconnectsCausesNoFailure(t *testing.T) {
	for _, request := range []string{testkit.SampleRequest, anyGet, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf"} {
		hung := testkit.NewUpstream(t)
		u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: hung.Addr}, wsproxy.Server{Addr: testkit.RefusingAddr(t), Backup: true})
		failed := make(chan error, 1)
		_, proxy := testkit.ServeProxy(t, "http://app.example", wsproxy.WithUpstream(u),
			wsproxy.WithErrorHandler(func(_ http.ResponseWriter, _ *http.Request, err error) { failed <- err }))
		client := testkit.Dial(t, proxy)
		client.Send(t, request)
		hung.Accept(t).Request(t)
		client.Close()
		require.Equal(t, 499, wsproxy.StatusCode(<-failed))
		assert.Zero(t, u.Servers()[0].Fails)
		assert.Zero(t, u.Servers()[1].Fails, "nor is another one tried")
	}
}

func TestMaxTunnelsOfAServerIsExact(t *testing.T) {
	const places, clients = 7, 100
	addr := testkit.Serve(t, testkit.Echo("a"))
	u := testkit.Servers(t, wsproxy.RoundRobin(),
		wsproxy.Server{Addr: addr, MaxTunnels: places}, wsproxy.Server{Addr: testkit.RefusingAddr(t), Down: true})
	refused := make(chan error, clients)
	p, proxy := testkit.ServeProxy(t, "http://app.example", wsproxy.WithUpstream(u),
		wsproxy.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, err error) {
			refused <- err
			http.Error(w, "", wsproxy.StatusCode(err))
		}))
	var all sync.WaitGroup
	statuses := make(chan int, clients)
	for range clients {
		client := testkit.Dial(t, proxy)
		all.Go(func() {
			io.WriteString(client, testkit.SampleRequest)
			if res, err := http.ReadResponse(client.Reader, nil); assert.NoError(t, err) {
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
	res, _ := testkit.Do(t, proxy, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	require.Equal(t, 200, res.StatusCode, "plain requests are not limited")
}

func TestPlainRequestsAreRetriedOnlyIfThatIsSafe(t *testing.T) {
	const get, post = "GET / HTTP/1.1\r\nHost: h.example:1\r\n\r\n", "POST / HTTP/1.1\r\nHost: h.example:1\r\nContent-Length: 4\r\n\r\nbody"
	const keyed = "POST / HTTP/1.1\r\nHost: h.example:1\r\nContent-Length: 0\r\nIdempotency-Key: 1\r\n\r\n"
	const put = "PUT / HTTP/1.1\r\nHost: h.example:1\r\nContent-Length: 0\r\n\r\n"
	const stalled = "POST / HTTP/1.1\r\nHost: h.example:1\r\nContent-Length: 8\r\n\r\nbody"
	busy := "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"
	for _, test := range []struct {
		name, request, addr string
		status              int
		body                string
		fails               int
	}{
		{"GET, refused", get, testkit.RefusingAddr(t), 200, "healthy got GET h.example:1 ", 1},
		{"GET, 503", get, testkit.ServeResponse(t, busy), 503, "busy", 0},
		{"GET, truncated", get, testkit.ServeResponse(t, "HTTP/1.1 200"), 200, "healthy got GET h.example:1 ", 1},
		{"GET, 101", get, testkit.ServeResponse(t, testkit.SampleSwitch), 200, "healthy got GET h.example:1 ", 1},
		{"POST, refused", post, testkit.RefusingAddr(t), 200, "healthy got POST h.example:1 body", 1},
		{"POST, 503", post, testkit.ServeResponse(t, busy), 503, "busy", 0},
		{"POST, truncated", post, testkit.ServeResponse(t, "HTTP/1.1 200"), 502, "Bad Gateway\n", 1},
		{"POST, truncated before the end of its body", stalled, testkit.ServeResponse(t, "HTTP/1.1 200"), 502, "Bad Gateway\n", 1},
		{"POST with a key, truncated", keyed, testkit.ServeResponse(t, "HTTP/1.1 200"), 200, "healthy got POST h.example:1 ", 1},
		{"PUT, truncated", put, testkit.ServeResponse(t, "HTTP/1.1 200"), 502, "Bad Gateway\n", 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: test.addr}, wsproxy.Server{Addr: testkit.Serve(t, testkit.Echo("healthy"))})
			_, proxy := testkit.ServeProxy(t, "http://app.example", wsproxy.WithUpstream(u))
			res, _ := testkit.Do(t, proxy, test.request)
			require.Equal(t, test.status, res.StatusCode)
			require.Equal(t, test.body, testkit.Body(t, res))
			require.Equal(t, test.fails, u.Servers()[0].Fails)
		})
	}
}

func TestAnUnsendableRequestMarksNoServerDown(t *testing.T) {
	addr := testkit.Serve(t, testkit.Echo("a"))
	u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: addr}, wsproxy.Server{Addr: testkit.RefusingAddr(t), Backup: true})
	_, proxy := testkit.ServeProxy(t, "http://app.example", wsproxy.WithUpstream(u))
	res, _ := testkit.Do(t, proxy, "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nno chunk\r\n")
	require.Equal(t, http.StatusBadRequest, res.StatusCode)
	require.Zero(t, u.Servers()[0].Fails)
	require.Zero(t, u.Servers()[1].Fails)
}

func TestPlainRequestsReuseEachServersConnections(t *testing.T) {
	var dials atomic.Int64
	u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: testkit.Serve(t, testkit.Echo("a"))}, wsproxy.Server{Addr: testkit.Serve(t, testkit.Echo("b"))})
	_, proxy := testkit.ServeProxy(t, "http://app.example", wsproxy.WithUpstream(u), wsproxy.WithKeepAlive(),
		wsproxy.WithDialContext(func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials.Add(1)
			return new(net.Dialer).DialContext(ctx, network, addr)
		}))
	for i := range 6 {
		res, _ := testkit.Do(t, proxy, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		require.Equal(t, "ab"[i%2:i%2+1]+" got GET h ", testkit.Body(t, res))
	}
	require.EqualValues(t, 2, dials.Load())
}
