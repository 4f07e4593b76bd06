package tunnel_test

import (
	"io"
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

var inThePast = time.Unix(1, 0)

// An agedConn has a read deadline that nobody takes away once expire is called,
// as that of a listener which limits the age of its connections.
type agedConn struct {
	testkit.WrappedConn
	mu  sync.Mutex
	old bool
}

func (c *agedConn) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.old = true
	c.WrappedConn.SetReadDeadline(inThePast)
}

func (c *agedConn) SetReadDeadline(at time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.old {
		at = inThePast
	}
	return c.WrappedConn.SetReadDeadline(at)
}

// agedLinks are the ways in which the portable relay reads a client. Each
// returns the client's connection as the proxy is to see it, and what has its
// deadline pass.
var agedLinks = []struct {
	testkit.Link
	wrap func(conn net.Conn) (_ net.Conn, expire func())
}{
	{testkit.Link{Name: "wrapped"}, func(conn net.Conn) (net.Conn, func()) {
		aged := &agedConn{WrappedConn: testkit.WrappedConn{Conn: conn}}
		return aged, aged.expire
	}},
	{testkit.Link{Name: "TLS client", TLSClient: true}, func(conn net.Conn) (net.Conn, func()) {
		return conn, func() { conn.SetReadDeadline(inThePast) }
	}},
	{testkit.Link{Name: "socket to TLS upstream", TLSUpstream: true}, func(conn net.Conn) (net.Conn, func()) {
		return conn, func() { conn.SetReadDeadline(inThePast) }
	}},
}

// eachAged opens a tunnel over each link. expire has the deadline of its
// client's connection pass.
func eachAged(t *testing.T, test func(t *testing.T, r *testkit.Rig, ended testkit.Endings, client, server *testkit.Peer, expire func())) {
	for _, l := range agedLinks {
		t.Run(l.Name, func(t *testing.T) {
			ended := testkit.NewEndings()
			r := l.Start(t, nil, ended.Option())
			expires := make(chan func(), 1)
			s := httptest.NewUnstartedServer(r.Proxy)
			s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
			s.Listener = testkit.WrapListener{Listener: s.Listener, Wrap: func(conn net.Conn) net.Conn {
				conn, expire := l.wrap(conn)
				expires <- expire
				return conn
			}}
			if l.TLSClient {
				serverTLS, _ := testkit.TLS()
				s.TLS = serverTLS
				s.StartTLS()
			} else {
				s.Start()
			}
			t.Cleanup(func() {
				s.CloseClientConnections()
				s.Close()
			})
			r.Addr = s.Listener.Addr().String()
			client, server := r.Tunnel(t)
			test(t, r, ended, client, server, <-expires)
		})
	}
}

// endsByDeadline reads what the server gets until the tunnel ends.
func endsByDeadline(t *testing.T, ended testkit.Endings, server *testkit.Peer) {
	t.Helper()
	_, err := io.Copy(io.Discard, server)
	assert.NotErrorIs(t, err, testkit.ErrDeadline, "the tunnel goes on")
	ending := ended.Next(t)
	assert.Equal(t, wsproxy.ReasonClientClosed, ending.Reason)
	assert.ErrorIs(t, ending.Err, os.ErrDeadlineExceeded)
}

// The relay took every deadline for the one by which it interrupts its own
// reads, took it away and read again: at once, if a listener set it anew.
// httputil.ReverseProxy ends the copying with the error.
func TestAReadDeadlineSetByTheListenerEndsTheTunnel(t *testing.T) {
	eachAged(t, func(t *testing.T, _ *testkit.Rig, ended testkit.Endings, client, server *testkit.Peer, expire func()) {
		client.Send(t, "hello")
		server.Expect(t, "hello")
		expire()
		endsByDeadline(t, ended, server)
	})
}

// crypto/tls may then have bytes that it needs no read of the socket for, and
// the relay sets a deadline of its own to get them all.
func TestAReadDeadlineThatPassesWhileTheRelayWritesEndsTheTunnel(t *testing.T) {
	eachAged(t, func(t *testing.T, r *testkit.Rig, ended testkit.Endings, client, server *testkit.Peer, expire func()) {
		copied := make(chan struct{})
		go func() {
			defer close(copied)
			io.Copy(client, testkit.Zeros{})
		}()
		awaitStall(t, r.Proxy)
		expire()
		endsByDeadline(t, ended, server)
		client.Close()
		<-copied
	})
}
