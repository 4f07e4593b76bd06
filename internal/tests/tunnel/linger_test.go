package tunnel_test

import (
	"context"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// lingering runs a test over links whose upstream connections have SO_LINGER
// set, with two tunnels that have sent more than their server reads. The tunnels
// of all links wait together.
func lingering(t *testing.T, want wsproxy.Reason, opt wsproxy.Option, test func(t *testing.T, r *testkit.Rig, ended testkit.Endings, clients []*testkit.Peer)) {
	testkit.OverLinksAtOnce(t, func(l testkit.Link) bool { return !l.Unix && !l.Wrapped }, func(t *testing.T, l testkit.Link) func(*testing.T) {
		ended := testkit.NewEndings()
		r := l.Start(t, nil, ended.Option(), opt,
			wsproxy.WithDialContext(func(ctx context.Context, network, addr string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, network, addr)
				if err == nil {
					err = conn.(*net.TCPConn).SetLinger(int(3 * testkit.Patience / time.Second))
				}
				return conn, err
			}))
		var clients, servers []*testkit.Peer
		for range 2 {
			client, server := r.Tunnel(t)
			clients, servers = append(clients, client), append(servers, server)
			go io.Copy(client, testkit.Zeros{}) // until the tunnel ends
		}
		return func(t *testing.T) {
			test(t, r, ended, clients)
			for _, server := range servers {
				server.Reset()
			}
			for range servers {
				assert.Equal(t, want, ended.Next(t).Reason)
			}
		}
	})
}

// awaitClosed waits until all clients' connections are closed.
func awaitClosed(t *testing.T, clients []*testkit.Peer) {
	t.Helper()
	for _, client := range clients {
		_, err := io.Copy(io.Discard, client)
		require.NotErrorIs(t, err, testkit.ErrDeadline, "a tunnel is not closed")
	}
}

// With SO_LINGER, close(2) waits for the peer, on a non-blocking socket too: the
// echo of another tunnel on the same loop took 6.06 s for a linger of 6 s.
func TestALingeringConnectionDelaysNoOtherTunnel(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))            // one loop for all
	timeout := wsproxy.WithSendTimeout(500 * time.Millisecond) // also of the handshake
	lingering(t, wsproxy.ReasonSendTimeout, timeout, func(t *testing.T, r *testkit.Rig, ended testkit.Endings, clients []*testkit.Peer) {
		awaitClosed(t, clients)
		client, server := r.Tunnel(t)
		client.Send(t, "ping")
		server.Expect(t, "ping")
		server.Send(t, "pong")
		client.Expect(t, "pong")
		assert.Empty(t, ended, "tunnels whose connections are closed already show nothing")
	})
}

// The portable relay closed one such connection after another.
func TestCloseClosesLingeringConnectionsAtOnce(t *testing.T) {
	t.Parallel()
	none := wsproxy.WithSendTimeout(0)
	lingering(t, wsproxy.ReasonKilled, none, func(t *testing.T, r *testkit.Rig, _ testkit.Endings, clients []*testkit.Peer) {
		awaitStall(t, r.Proxy)
		require.NoError(t, r.Proxy.Close())
		awaitClosed(t, clients)
	})
}
