package lifecycle_test

import (
	"maps"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A gauge that is added to at one place and subtracted from at another drifts
// (traefik/traefik#4226), and one that knows only the present servers loses the
// tunnels of former ones.
func TestLiveTunnelsAreCountedByServerIncludingFormerOnes(t *testing.T) {
	a, b := testkit.NewUpstream(t), testkit.NewUpstream(t)
	u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: a.Addr})
	proxy, addr := testkit.ServeProxy(t, "http://chat", wsproxy.WithUpstream(u))
	live := func() map[string]int {
		stats := proxy.Stats()
		servers := maps.Collect(stats.LiveByServer())
		sum := 0
		for _, n := range servers {
			sum += n
		}
		assert.Equal(t, stats.Live, sum)
		return servers
	}
	assert.Equal(t, map[string]int{a.Addr: 0}, live())

	client := testkit.Dial(t, addr)
	a.Handshake(t, client)
	require.NoError(t, u.SetServers(wsproxy.Server{Addr: b.Addr}))
	b.Handshake(t, testkit.Dial(t, addr))
	other := testkit.Dial(t, addr)
	b.Handshake(t, other)
	assert.Equal(t, map[string]int{a.Addr: 1, b.Addr: 2}, live())

	for tunnel := range proxy.Tunnels() {
		if tunnel.Server() == a.Addr {
			tunnel.Cut()
		}
	}
	testkit.Eventually(t, func() bool { return proxy.Stats().Live == 2 }, "the tunnel stays")
	assert.Equal(t, map[string]int{b.Addr: 2}, live(), "without tunnels, a former server is gone")
}

func TestAProxyWithoutAnUpstreamCountsByItsTarget(t *testing.T) {
	assert.Equal(t, map[string]int{"127.0.0.1:80": 0},
		maps.Collect(testkit.NewProxy(t, "http://127.0.0.1").Stats().LiveByServer()))
	assert.Equal(t, map[string]int{"unix:/run/app.sock": 0},
		maps.Collect(testkit.NewProxy(t, "http://unix:/run/app.sock").Stats().LiveByServer()))
}

// A rate over a counter misses its first increment unless the counter was there
// before it, with a zero.
func TestCountsByReasonAndStatusHaveZerosFromTheBeginning(t *testing.T) {
	proxy, addr := testkit.ServeProxy(t, "http://"+testkit.RefusingAddr(t))
	closed := maps.Collect(proxy.Stats().ClosedByReason())
	assert.Len(t, closed, 12)
	for reason, n := range closed {
		assert.NotContains(t, reason.String(), "reason ", "a reason without a name")
		assert.Zero(t, n)
	}
	refused := maps.Collect(proxy.Stats().RefusedByStatus())
	assert.Equal(t, map[int]int64{400: 0, 403: 0, 405: 0, 426: 0, 499: 0, 500: 0, 501: 0, 502: 0, 503: 0, 504: 0}, refused)

	response, _ := testkit.Do(t, addr, testkit.SampleRequest)
	assert.Equal(t, http.StatusBadGateway, response.StatusCode)
	testkit.Eventually(t, func() bool { return proxy.Stats().Refused(502) == 1 }, "no refusal counted")
	refused = maps.Collect(proxy.Stats().RefusedByStatus())
	assert.EqualValues(t, 1, refused[502])
	assert.Len(t, refused, 10)
}

// The iterators stop when the loop does, and are sorted.
func TestCountsAreInOrder(t *testing.T) {
	stats := testkit.NewProxy(t, "http://127.0.0.1").Stats()
	for reason := range stats.ClosedByReason() {
		assert.Equal(t, wsproxy.ReasonClientClosed, reason)
		break
	}
	last := 0
	for status := range stats.RefusedByStatus() {
		assert.Greater(t, status, last)
		if last = status; last == 403 {
			break
		}
	}
	assert.Equal(t, 403, last)
	for range (wsproxy.Stats{}).LiveByServer() {
		assert.Fail(t, "a server of the zero Stats")
	}
}

// A hook needs the duration when the tunnel opens. The Ending, which has it too,
// comes hours later.
func TestOnOpenIsToldHowLongTheHandshakeTook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		took := make(chan time.Duration, 1)
		r := testkit.NewMemRig(t, nil, testkit.OnOpen(func(tunnel *wsproxy.Tunnel, _ *http.Request) { took <- tunnel.Handshake() }))
		client := r.SendHandshake(t)
		server := <-r.Upstreams
		defer server.Close()
		server.Request(t)
		time.Sleep(3 * time.Second)
		server.Send(t, testkit.SampleSwitch)
		client.WantSwitch(t)
		assert.Equal(t, 3*time.Second, <-took)
	})
}
