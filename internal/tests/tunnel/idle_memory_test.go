package tunnel_test

import (
	"runtime"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

// Measured: 17 kB for a tunnel over sockets, including both ends in the test,
// and 13 kB more for each side with TLS, most of it in crypto/tls. One pooled
// buffer in one flow would add 33 kB.
func TestAnIdleTunnelHoldsNoBuffer(t *testing.T) {
	testkit.OverLinks(t, testkit.OwnSocket, func(t *testing.T, l testkit.Link) {
		n, most := 200, int64(24<<10)
		sizes := []int{100, 40_000, 1, 511, 513, 512, 600}
		if !l.Wrapped && !testkit.Portable {
			// The last message exactly fills the small array with which a
			// source without a buffer waits. It must not make the source wait
			// with a full buffer. A connection that is neither a socket nor TLS
			// has no other way to learn whether more bytes are coming.
			sizes = append(sizes, 512)
		}
		if l.TLSClient || l.TLSUpstream {
			n, sizes = 40, append(sizes[:1], sizes[2:]...) // TLS keeps its buffer after a large record
		}
		for _, secure := range []bool{l.TLSClient, l.TLSUpstream} {
			if secure {
				most += 13 << 10
			}
		}
		r := l.Start(t, nil, wsproxy.WithDetached())
		before := heapInUse()
		var clients, servers []*testkit.Peer
		for range n {
			client, server := r.Tunnel(t)
			clients, servers = append(clients, client), append(servers, server)
		}
		for _, size := range sizes {
			message := string(testkit.Noise(1, size))
			for i := range n {
				clients[i].Send(t, message)
				servers[i].Expect(t, message)
				servers[i].Send(t, message)
				clients[i].Expect(t, message)
			}
		}
		each := (heapInUse() - before) / int64(n)
		runtime.KeepAlive([][]*testkit.Peer{clients, servers})
		assert.Less(t, each, most, "bytes of heap for an idle tunnel and its ends")
		assert.Equal(t, n, r.Proxy.Stats().Live)
	})
}

func TestAProxyWithoutTunnelsHoldsNoBuffer(t *testing.T) {
	u := testkit.NewUpstream(t)
	var addrs []string
	for range 16 {
		_, addr := testkit.ServeProxy(t, u.URL)
		addrs = append(addrs, addr)
	}
	before := heapInUse()
	var ends []*testkit.Peer
	for _, addr := range addrs { // all at once, so that no proxy can reuse another's buffer
		client, server := testkit.Tunnel(t, addr, u)
		ends = append(ends, client, server)
	}
	for _, end := range ends {
		end.Close()
	}
	testkit.Eventually(t, func() bool { return heapInUse() < before+1<<20 }, "the proxies hold more than before their tunnels")
}

// A loop kept its buffer while it waited: 300 proxies with an idle tunnel each
// held 156 MB.
func TestAProxyWithAnIdleTunnelHoldsNoBuffer(t *testing.T) {
	const proxies = 32
	u := testkit.NewUpstream(t)
	before := heapInUse()
	var ends []*testkit.Peer
	for range proxies {
		_, addr := testkit.ServeProxy(t, u.URL)
		client, server := testkit.Tunnel(t, addr, u)
		client.Send(t, "hello")
		server.Expect(t, "hello")
		ends = append(ends, client, server)
	}
	testkit.Eventually(t, func() bool { return (heapInUse()-before)/proxies < 128<<10 }, "an idle proxy holds more than 128 KiB")
	runtime.KeepAlive(ends)
}
