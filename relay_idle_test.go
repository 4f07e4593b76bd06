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
