package servers_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/netutil"
)

// limited returns a change that limits a server to n connections.
func limited(n int, secure bool) func(*httptest.Server) {
	return func(s *httptest.Server) {
		s.Listener = netutil.LimitListener(s.Listener, n)
		if secure {
			s.TLS = new(tls.Config)
		}
	}
}

// clientTLS returns the configuration for a front's clients, nil without TLS.
func (f *front) clientTLS() *tls.Config {
	if f.TLS == nil {
		return nil
	}
	config := f.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.ServerName = "127.0.0.1"
	return config
}

const plainRequest = "GET /plain HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"

// eachLimited runs a test for both modes, with and without TLS.
func eachLimited(t *testing.T, test func(t *testing.T, f *front, p *wsproxy.Proxy, ended <-chan wsproxy.Ending)) {
	upstream := newUpstream(t)
	for _, mode := range modes {
		for _, secure := range []bool{false, true} {
			name := mode.name
			if secure {
				name += " over TLS"
			}
			t.Run(name, func(t *testing.T) {
				ended := make(chan wsproxy.Ending, 10)
				p := testkit.NewProxy(t, upstream, append(mode.opts, wsproxy.WithUpgrades("websocket", "tcp"),
					testkit.OnClose(func(_ *wsproxy.Tunnel, e wsproxy.Ending) { ended <- e }))...)
				test(t, serve(t, p, limited(1, secure)), p, ended)
			})
		}
	}
}

func TestATunnelHoldsItsSlotInALimitListenerUntilItEnds(t *testing.T) {
	eachLimited(t, func(t *testing.T, f *front, p *wsproxy.Proxy, ended <-chan wsproxy.Ending) {
		for _, c := range []struct {
			name   string
			target string
			end    func(client *raw)
			reason wsproxy.Reason
		}{
			{"the client closes", "/", func(client *raw) { client.Close() }, wsproxy.ReasonClientClosed},
			{"the client half-closes", "/", func(client *raw) { client.finish(t, "") }, wsproxy.ReasonClientClosed},
			{"the upstream closes", "/bye", func(client *raw) {
				client.Write([]byte("x"))
				client.Read(make([]byte, 1))
				client.Close()
			}, wsproxy.ReasonUpstreamClosed},
			{"Tunnel.Close", "/", func(*raw) {
				for tunnel := range p.Tunnels() {
					assert.NoError(t, tunnel.Close(1000, ""))
				}
			}, wsproxy.ReasonKilled},
			{"Shutdown", "/", func(*raw) {
				ctx, cancel := context.WithCancel(context.Background())
				cancel()
				p.Shutdown(ctx)
			}, wsproxy.ReasonShutdown}, // last, because it refuses new tunnels
		} {
			client := dial(t, "tcp", f.addr, tcpRequest(c.target), f.clientTLS())
			client.switched(t)
			second, err := net.Dial("tcp", f.addr) // waits in the kernel's queue
			require.NoError(t, err, c.name)
			t.Cleanup(func() { second.Close() })
			config := f.clientTLS()
			if config != nil {
				second = tls.Client(second, config)
			}
			second.SetDeadline(time.Now().Add(50 * time.Millisecond))
			_, err = second.Read(make([]byte, 1))
			assert.ErrorIs(t, err, os.ErrDeadlineExceeded, "a connection over the limit is served before %s", c.name)
			second.Close()

			c.end(client)
			select {
			case ending := <-ended:
				assert.Equal(t, c.reason, ending.Reason, c.name)
			case <-time.After(testkit.Patience):
				require.Fail(t, "the tunnel stays", c.name)
			}
			res, err := http.ReadResponse(dial(t, "tcp", f.addr, plainRequest, config).br, nil)
			require.NoError(t, err, "the next connection after %s", c.name)
			assert.Equal(t, 200, res.StatusCode)
		}
	})
}

func TestBehindALimitListenerEveryByteArrives(t *testing.T) {
	eachLimited(t, func(t *testing.T, f *front, _ *wsproxy.Proxy, ended <-chan wsproxy.Ending) {
		conn, _ := dialWebSocket(t, f.URL, f.http1())
		talk(t, conn)
		assert.NoError(t, conn.Close(1000, ""))
		<-ended
		client := dial(t, "tcp", f.addr, tcpRequest("/")+"early, ", f.clientTLS())
		client.switched(t)
		assert.Equal(t, "11 bytes: early, late", client.finish(t, "late"))
		<-ended
		client = dial(t, "tcp", f.addr, tcpRequest("/last"), f.clientTLS())
		client.switched(t)
		got, err := io.ReadAll(client)
		assert.NoError(t, err)
		assert.Equal(t, "last words", string(got))
	})
}
