//go:build unix && !wsproxy_portable

package wsproxy_test

import (
	"testing"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
)

// The last message just fills what a source without a buffer waits with: that
// must not make it wait with one. (A connection that is neither a socket nor
// TLS has no other way to learn whether more is coming; so do sockets with
// the build tag wsproxy_portable.)
func TestAnIdleTunnelHoldsNoBuffer(t *testing.T) {
	overLinks(t, func(l link) bool { return !l.wrapped }, func(t *testing.T, l link) {
		n := 200
		if l.tlsClient || l.tlsUpstream {
			n = 40
		}
		r := l.start(t, nil, wsproxy.WithDetached())
		var clients, servers []*peer
		for range n {
			client, server := r.tunnel(t)
			clients, servers = append(clients, client), append(servers, server)
		}
		exchange := func(size int) {
			message := string(noise(1, size))
			for i := range n {
				clients[i].send(t, message)
				servers[i].expect(t, message)
				servers[i].send(t, message)
				clients[i].expect(t, message)
			}
		}
		exchange(100) // TLS has buffers of its own, which stay
		before := heapInUse()
		for _, size := range []int{1, 511, 513, 600, 512} {
			exchange(size)
		}
		each := (heapInUse() - before) / int64(n)
		assert.Less(t, each, int64(4<<10), "bytes of heap that a tunnel holds more than before its messages")
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
