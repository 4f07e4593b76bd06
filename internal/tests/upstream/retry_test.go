package upstream_test

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A pickFunc is a user's Policy.
type pickFunc func(servers []*wsproxy.Candidate) *wsproxy.Candidate

func (f pickFunc) Pick(_ *http.Request, _ netip.Addr, servers []*wsproxy.Candidate) *wsproxy.Candidate {
	return f(servers)
}

// busyServers returns two servers that respond with 503 and report each
// request.
func busyServers(t *testing.T) (servers []wsproxy.Server, requests chan string) {
	t.Helper()
	requests = make(chan string, 100)
	for range 2 {
		servers = append(servers, wsproxy.Server{Addr: testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			requests <- r.Method + " " + r.Header.Get("Upgrade")
			w.WriteHeader(http.StatusServiceUnavailable)
		}))})
	}
	return servers, requests
}

func TestANonIdempotentUpgradeIsSentToOneServer(t *testing.T) {
	servers, requests := busyServers(t)
	u, err := wsproxy.NewUpstream(wsproxy.RoundRobin(), servers...)
	require.NoError(t, err)
	_, addr := testkit.ServeProxy(t, "http://group", wsproxy.WithUpstream(u), wsproxy.WithUpgrades("websocket", "tcp"), wsproxy.WithRetryStatus(503))
	res, _ := testkit.Do(t, addr, "POST /exec HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
	assert.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	assert.Len(t, requests, 1)
	assert.Equal(t, "POST tcp", <-requests)

	res, _ = testkit.Do(t, addr, testkit.SampleRequest)
	assert.Equal(t, http.StatusServiceUnavailable, res.StatusCode, "the last server's response")
	assert.Len(t, requests, 2)
}

// A dial without a descriptor or a local port says nothing about the server.
func TestALocalShortageOfResourcesMarksNoServerDown(t *testing.T) {
	wants := []syscall.Errno{syscall.EMFILE, syscall.EADDRNOTAVAIL}
	if runtime.GOOS == "windows" {
		wants = []syscall.Errno{10024, 10055}
	}
	for _, want := range wants {
		t.Run(want.Error(), func(t *testing.T) { testStarved(t, want) })
	}
}

func testStarved(t *testing.T, want error) {
	u, err := wsproxy.NewUpstream(wsproxy.RoundRobin(),
		wsproxy.Server{Addr: testkit.Serve(t, testkit.Echo("a"))}, wsproxy.Server{Addr: testkit.Serve(t, testkit.Echo("b"))})
	require.NoError(t, err)
	var starved atomic.Bool
	_, addr := testkit.ServeProxy(t, "http://group", wsproxy.WithUpstream(u),
		wsproxy.WithDialContext(func(ctx context.Context, network, addr string) (net.Conn, error) {
			if starved.Load() {
				return nil, &net.OpError{Op: "dial", Net: network, Err: os.NewSyscallError("socket", want)}
			}
			return new(net.Dialer).DialContext(ctx, network, addr)
		}))
	starved.Store(true)
	res, _ := testkit.Do(t, addr, testkit.SampleRequest)
	require.Equal(t, http.StatusBadGateway, res.StatusCode)
	starved.Store(false)
	for range 2 {
		res, _ = testkit.Do(t, addr, testkit.SampleRequest)
		require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode, "with resources again")
	}
}

func TestAPolicyThatPanicsDuringARetryLeaksNoSlot(t *testing.T) {
	servers, requests := busyServers(t)
	u, err := wsproxy.NewUpstream(pickFunc(func(servers []*wsproxy.Candidate) *wsproxy.Candidate {
		return servers[1] // with one server this panics
	}), servers...)
	require.NoError(t, err)
	p, addr := testkit.ServeProxy(t, "http://group", wsproxy.WithUpstream(u), wsproxy.WithRetryStatus(503))
	client := testkit.Dial(t, addr)
	client.Send(t, testkit.SampleRequest)
	client.ExpectEOF(t, "") // net/http closes the connection after a panic
	assert.Len(t, requests, 1)
	testkit.Eventually(t, func() bool { return testkit.Counted(p) == testkit.Counts{} }, "the handshake is still counted")
	for _, s := range u.Servers() {
		assert.Zero(t, s.Tunnels, s.Addr)
	}
}
