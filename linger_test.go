package wsproxy_test

import (
	"context"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// lingering runs a test over links whose upstream's connection lingers, with two
// tunnels that have sent more than their server reads.
func lingering(t *testing.T, want wsproxy.Reason, opt wsproxy.Option, test func(t *testing.T, r *rig, ended endings, clients []*peer)) {
	overLinks(t, func(l link) bool { return !l.unix && !l.wrapped }, func(t *testing.T, l link) {
		ended := newEndings()
		r := l.start(t, nil, ended.hook(), opt,
			wsproxy.WithDialContext(func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, network, addr)
				if err == nil {
					err = conn.(*net.TCPConn).SetLinger(int(3 * patience / time.Second))
				}
				return conn, err
			}))
		var clients, servers []*peer
		for range 2 {
			client, server := r.tunnel(t)
			clients, servers = append(clients, client), append(servers, server)
			go io.Copy(client, endless{}) // until the tunnel ends
		}
		test(t, r, ended, clients)
		for _, server := range servers {
			abort(server)
		}
		for range servers {
			assert.Equal(t, want, ended.next(t).Reason)
		}
	})
}

// areCut waits until all clients' connections are closed.
func areCut(t *testing.T, clients []*peer) {
	t.Helper()
	for _, client := range clients {
		_, err := io.Copy(io.Discard, client)
		require.NotErrorIs(t, err, errDeadline, "a tunnel is not cut")
	}
}

// With SO_LINGER, close(2) waits for the peer, on a non-blocking socket too: the
// echo of another tunnel on the same loop took 6.06 s for a linger of 6 s.
func TestAConnectionThatLingersHoldsUpNoOtherTunnel(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // one loop for all
	timeout := wsproxy.WithSendTimeout(50 * time.Millisecond)
	lingering(t, wsproxy.SendTimeout, timeout, func(t *testing.T, r *rig, ended endings, clients []*peer) {
		areCut(t, clients)
		client, server := r.tunnel(t)
		client.send(t, "ping")
		server.expect(t, "ping")
		server.send(t, "pong")
		client.expect(t, "pong")
		assert.Empty(t, ended, "tunnels whose connections are closed already show nothing")
	})
}

// The portable relay closed one such connection after another.
func TestCloseCutsConnectionsThatLingerAtOnce(t *testing.T) {
	none := wsproxy.WithSendTimeout(0)
	lingering(t, wsproxy.Killed, none, func(t *testing.T, r *rig, _ endings, clients []*peer) {
		awaitStall(t, r.p)
		require.NoError(t, r.p.Close())
		areCut(t, clients)
	})
}
