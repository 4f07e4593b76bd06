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

// An agedConn has a read deadline that cannot be cleared once expire is called,
// like a connection whose listener limits its age.
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
// returns the connection for the proxy and a function that makes its deadline
// pass.
var agedLinks = []struct {
	testkit.Link
	wrap func(conn net.Conn) (_ net.Conn, expire func())
}{
	{testkit.Link{Name: "wrapped"}, func(conn net.Conn) (net.Conn, func()) {
		aged := &agedConn{WrappedConn: testkit.WrappedConn{Conn: conn}}
		return aged, aged.expire
	}},
	{testkit.Link{Name: "TLS client to wrapped upstream", TLSClient: true, Wrapped: true}, func(conn net.Conn) (net.Conn, func()) {
		return conn, func() { conn.SetReadDeadline(inThePast) }
	}},
	{testkit.Link{Name: "socket to wrapped upstream", Wrapped: true}, func(conn net.Conn) (net.Conn, func()) {
		return conn, func() { conn.SetReadDeadline(inThePast) }
	}},
}

// eachAged opens a tunnel over each link. expire makes the deadline of the
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
				testkit.StartTLS(s)
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

// endsByDeadline reads what the server receives until the tunnel ends.
func endsByDeadline(t *testing.T, ended testkit.Endings, server *testkit.Peer) {
	t.Helper()
	_, err := io.Copy(io.Discard, server)
	assert.NotErrorIs(t, err, testkit.ErrDeadline, "the tunnel stays open")
	ending := ended.Next(t)
	assert.Equal(t, wsproxy.ReasonClientClosed, ending.Reason)
	assert.ErrorIs(t, ending.Err, os.ErrDeadlineExceeded)
}

// The relay mistook every deadline for the one with which it interrupts its own
// reads. It cleared the deadline and read again, in a busy loop if the listener
// had set it again. httputil.ReverseProxy ends the copy with the error.
func TestAReadDeadlineSetByTheListenerEndsTheTunnel(t *testing.T) {
	eachAged(t, func(t *testing.T, _ *testkit.Rig, ended testkit.Endings, client, server *testkit.Peer, expire func()) {
		client.Send(t, "hello")
		server.Expect(t, "hello")
		expire()
		endsByDeadline(t, ended, server)
	})
}

// crypto/tls may hold bytes that need no read of the socket. The relay sets a
// deadline of its own to read them all.
func TestAReadDeadlineThatPassesWhileTheRelayWritesEndsTheTunnel(t *testing.T) {
	eachAged(t, func(t *testing.T, r *testkit.Rig, ended testkit.Endings, client, server *testkit.Peer, expire func()) {
		copied := make(chan struct{})
		go func() {
			defer close(copied)
			io.Copy(client, testkit.Zeros{})
		}()
		awaitStall(t, r.Proxy)
		ticker := time.NewTicker(500 * time.Millisecond)
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for expire(); ; expire() { // again, as on a busy machine the stall may have been none, and the read under way
				select {
				case <-stop:
					return
				case <-ticker.C:
				}
			}
		}()
		endsByDeadline(t, ended, server)
		ticker.Stop()
		close(stop)
		<-stopped
		client.Close()
		<-copied
	})
}
