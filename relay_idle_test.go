package wsproxy_test

import (
	"runtime"
	"testing"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
)

// Measured are 17 kB for a tunnel over sockets, with both ends of the test's, and
// 13 kB more for each side that has TLS, most of it crypto/tls's own: one buffer
// of the pool in one flow would be 33 kB more.
func TestAnIdleTunnelHoldsNoBuffer(t *testing.T) {
	overLinks(t, nil, func(t *testing.T, l link) {
		n, most := 200, int64(24<<10)
		sizes := []int{100, 40_000, 1, 511, 513, 512, 600}
		if !l.wrapped && !portable {
			// The last message just fills what a source without a buffer waits
			// with: that must not make it wait with one. A connection that is
			// neither a socket nor TLS has no other way to learn whether more
			// is coming.
			sizes = append(sizes, 512)
		}
		if l.tlsClient || l.tlsUpstream {
			n, sizes = 40, append(sizes[:1], sizes[2:]...) // TLS keeps what a large record took
		}
		for _, secure := range []bool{l.tlsClient, l.tlsUpstream} {
			if secure {
				most += 13 << 10
			}
		}
		r := l.start(t, nil, wsproxy.WithDetached())
		before := heapInUse()
		var clients, servers []*peer
		for range n {
			client, server := r.tunnel(t)
			clients, servers = append(clients, client), append(servers, server)
		}
		for _, size := range sizes {
			message := string(noise(1, size))
			for i := range n {
				clients[i].send(t, message)
				servers[i].expect(t, message)
				servers[i].send(t, message)
				clients[i].expect(t, message)
			}
		}
		each := (heapInUse() - before) / int64(n)
		runtime.KeepAlive([][]*peer{clients, servers})
		assert.Less(t, each, most, "bytes of heap for an idle tunnel and its ends")
		assert.Equal(t, n, r.p.Stats().Live)
	})
}

func TestAProxyWithoutTunnelsHoldsNoBuffer(t *testing.T) {
	u := newUpstream(t)
	var addrs []string
	for range 16 {
		_, addr := serveProxy(t, u.url)
		addrs = append(addrs, addr)
	}
	before := heapInUse()
	var ends []*peer
	for _, addr := range addrs { // all at once, so that none can use another's buffer again
		client, server := tunnel(t, addr, u)
		ends = append(ends, client, server)
	}
	for _, end := range ends {
		end.Close()
	}
	eventually(t, func() bool { return heapInUse() < before+1<<20 }, "the proxies hold more than before their tunnels")
}

// A loop kept its buffer while it waited: 300 proxies with an idle tunnel each
// held 156 MB.
func TestAProxyWithAnIdleTunnelHoldsNoBuffer(t *testing.T) {
	const proxies = 32
	u := newUpstream(t)
	before := heapInUse()
	var ends []*peer
	for range proxies {
		_, addr := serveProxy(t, u.url)
		client, server := tunnel(t, addr, u)
		client.send(t, "hello")
		server.expect(t, "hello")
		ends = append(ends, client, server)
	}
	eventually(t, func() bool { return (heapInUse()-before)/proxies < 128<<10 }, "an idle proxy holds more than 128 KiB")
	runtime.KeepAlive(ends)
}
