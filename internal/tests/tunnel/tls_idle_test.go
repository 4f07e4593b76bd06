package tunnel_test

import (
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http/httptest"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func secureLink(l testkit.Link) bool { return l.TLSClient || l.TLSUpstream }

// crews reports whether TLS tunnels are driven by the loops' crews here.
func crews() bool {
	return runtime.GOOS == "linux" && runtime.GOARCH != "386" && runtime.GOARCH != "s390x" && !testkit.Portable
}

// Each flow of a tunnel with TLS held a goroutine: 8 to 10 kB, and 18.7 kB for an
// idle tunnel with its tls.Conn.
func TestAnIdleTLSTunnelHoldsNoGoroutine(t *testing.T) {
	if !crews() {
		t.Skip("a goroutine reads each connection here")
	}
	testkit.OverLinks(t, secureLink, func(t *testing.T, l testkit.Link) {
		r := l.Start(t, nil, wsproxy.WithDetached())
		r.Tunnel(t) // its loop and workers stay
		const tunnels = 40
		before := runtime.NumGoroutine()
		for range tunnels {
			client, server := r.Tunnel(t)
			for range 3 {
				client.Send(t, "ping")
				server.Expect(t, "ping")
				server.Send(t, "pong")
				client.Expect(t, "pong")
			}
		}
		most := before + 3*runtime.GOMAXPROCS(0) // loops and their idle workers
		testkit.Eventually(t, func() bool { return runtime.NumGoroutine() <= most },
			"%d goroutines for %d idle tunnels", runtime.NumGoroutine()-before, tunnels)
		assert.Equal(t, tunnels+1, r.Proxy.Stats().Live)
	})
}

// exchange sends messages each way over all tunnels at once and returns the first
// error.
func exchange(clients, servers []*testkit.Peer, messages int) error {
	var all sync.WaitGroup
	failed := make(chan error, 2*len(clients))
	for _, end := range slices.Concat(clients, servers) {
		end.SetDeadline(time.Now().Add(3 * testkit.Patience))
	}
	one := func(to, from *testkit.Peer, name string) {
		for n := range messages {
			want := fmt.Sprintf("%s %d|", name, n)
			if _, err := io.WriteString(to, want); err != nil {
				failed <- err
				return
			}
			got := make([]byte, len(want))
			if _, err := io.ReadFull(from, got); err != nil || string(got) != want {
				failed <- fmt.Errorf("read %q, want %q: %w", got, want, err)
				return
			}
		}
	}
	for i := range clients {
		all.Go(func() { one(clients[i], servers[i], fmt.Sprint("up ", i)) })
		all.Go(func() { one(servers[i], clients[i], fmt.Sprint("down ", i)) })
	}
	all.Wait()
	close(failed)
	return <-failed
}

func TestIdleTLSTunnelsThatAreAllBusyAtOnce(t *testing.T) {
	t.Parallel()
	testkit.OverLinks(t, secureLink, func(t *testing.T, l testkit.Link) {
		r := l.Start(t, nil, wsproxy.WithDetached(), wsproxy.WithReadTimeout(0)) // 1,000 handshakes may take long
		var clients, servers []*testkit.Peer
		for range testkit.Scale(30, 1000) {
			client, server := r.Tunnel(t)
			clients, servers = append(clients, client), append(servers, server)
		}
		for range 3 {
			require.NoError(t, exchange(clients, servers, 5))
		}
	})
}

// A descriptor's number is used again at once. An event or a call that is meant for
// the tunnel that had it before must not reach the next one.
func TestTLSTunnelsThatAreCutWhileTheyRunLeaveOthersAlone(t *testing.T) {
	t.Parallel()
	testkit.OverLinks(t, secureLink, func(t *testing.T, l testkit.Link) {
		r := l.Start(t, nil, wsproxy.WithDetached())
		var clients, servers []*testkit.Peer
		for range 8 {
			client, server := r.Tunnel(t)
			clients, servers = append(clients, client), append(servers, server)
		}
		var over atomic.Bool
		result := make(chan error, 1)
		go func() {
			var err error
			for err == nil && !over.Load() {
				err = exchange(clients, servers, 3)
			}
			result <- err
		}()
		for range testkit.Scale(10, 200) {
			client, server := r.Tunnel(t)
			var ends sync.WaitGroup
			for _, end := range []*testkit.Peer{client, server} {
				ends.Go(func() { io.Copy(end, testkit.Zeros{}) })
				ends.Go(func() { io.Copy(io.Discard, end) })
			}
			switch rand.N(3) {
			case 0:
				for tunnel := range r.Proxy.Tunnels() {
					if tunnel.ID() > 8 {
						tunnel.Cut()
					}
				}
			case 1:
				client.Reset()
			case 2:
				server.Reset()
			}
			ends.Wait()
		}
		over.Store(true)
		assert.NoError(t, <-result)
	})
}

// A deadline that code around the proxy sets on the socket below TLS ends the
// tunnel. While nothing reads the socket it does so when the next bytes arrive.
func TestAPassedDeadlineEndsATLSTunnelWithTheNextBytes(t *testing.T) {
	t.Parallel()
	ended := testkit.NewEndings()
	r := tlsClient.Start(t, nil, ended.Option())
	conns := make(chan net.Conn, 1)
	s := httptest.NewUnstartedServer(r.Proxy)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.Listener = testkit.WrapListener{Listener: s.Listener, Wrap: func(conn net.Conn) net.Conn {
		conns <- conn
		return conn
	}}
	s.TLS, _ = testkit.TLS()
	s.StartTLS()
	t.Cleanup(s.Close)
	r.Addr = s.Listener.Addr().String()
	client, server := r.Tunnel(t)
	client.Send(t, "hello")
	server.Expect(t, "hello")
	(<-conns).SetReadDeadline(inThePast)
	io.WriteString(client, "more") // fails if the tunnel has ended already
	ending := ended.Next(t)
	assert.Equal(t, wsproxy.ReasonClientClosed, ending.Reason)
	assert.ErrorIs(t, ending.Err, os.ErrDeadlineExceeded)
}
