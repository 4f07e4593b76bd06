package tunnel_test

import (
	"runtime"
	"testing"
	"weak"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
)

// A worker waits for the rest of a record. When that came, its event could make the
// worker wait once more, for bytes that it had already read: a goroutine and its
// buffer for as long as the tunnel was idle.
func TestATLSTunnelIdleAfterACutRecordHoldsNoGoroutine(t *testing.T) {
	if !crews() {
		t.Skip("a goroutine reads each connection here")
	}
	r := tlsClient.Start(t, nil, wsproxy.WithDetached())
	r.Tunnel(t) // its loop and workers stay
	const tunnels = 60
	before := runtime.NumGoroutine()
	type end struct {
		*records
		server *testkit.Peer
	}
	var ends []end
	for range tunnels {
		c, server := recordTunnel(t, r)
		ends = append(ends, end{c, server})
	}
	for range 10 {
		rest := make([][]byte, tunnels)
		for i, e := range ends {
			record := e.data("message")
			e.send(record[:len(record)/2])
			rest[i] = record[len(record)/2:]
		}
		testkit.Eventually(t, func() bool { return runtime.NumGoroutine() >= before+tunnels/2 }, "nothing waits")
		for i, e := range ends {
			e.send(rest[i])
		}
		for _, e := range ends {
			e.server.Expect(t, "message")
		}
	}
	most := before + 3*runtime.GOMAXPROCS(0) // loops and their idle workers
	testkit.Eventually(t, func() bool { return runtime.NumGoroutine() <= most },
		"more goroutines than without the %d idle tunnels", tunnels)
}

// The end of a crew's queue referred to the half that was queued last, and so to its
// tunnel, for as long as the Proxy had no other with TLS.
func TestAnEndedTunnelIsNotKept(t *testing.T) {
	testkit.OverLinks(t, nil, func(t *testing.T, l testkit.Link) {
		r := l.Start(t, nil, wsproxy.WithDetached())
		client, server := r.Tunnel(t)
		var tunnel weak.Pointer[wsproxy.Tunnel]
		for live := range r.Proxy.Tunnels() {
			tunnel = weak.Make(live)
		}
		client.Close()
		server.Close()
		testkit.Eventually(t, func() bool {
			runtime.GC()
			return tunnel.Value() == nil
		}, "the tunnel is kept")
		runtime.KeepAlive(r)
	})
}
