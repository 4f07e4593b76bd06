package handshake_test

import (
	"crypto/tls"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// timeouts_test.go tests this in fake time, which real sockets do not follow.
func TestTheServersTimeoutsDoNotEndATunnel(t *testing.T) {
	t.Parallel()
	const long = 2 * time.Second // enough for a handshake on a busy machine
	u := testkit.NewUpstream(t)
	s := httptest.NewUnstartedServer(testkit.NewProxy(t, u.URL))
	s.Config.ReadTimeout, s.Config.ReadHeaderTimeout, s.Config.WriteTimeout, s.Config.IdleTimeout = long, long, long, long
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.Start()
	t.Cleanup(s.Close)
	client, server := testkit.Tunnel(t, s.Listener.Addr().String(), u)
	time.Sleep(long + long/4) // a limit that must not apply leaves no event to wait for
	client.Send(t, "there")
	server.Expect(t, "there")
	server.Send(t, "back")
	client.Expect(t, "back")
}

// The read and send timeouts of the handshake end with the 101. The tunnel's
// timeouts start anew.
func TestTheTimeoutsOfTheHandshakeEndWithIt(t *testing.T) {
	certificate, trusted := testkit.Certificate(t)
	for name, opt := range map[string]wsproxy.Option{
		"read timeout": wsproxy.WithReadTimeout(time.Minute),
		"send timeout": wsproxy.WithSendTimeout(time.Minute),
	} {
		for scheme, accepting := range map[string]func(*testkit.Peer) *testkit.Peer{
			"http": func(server *testkit.Peer) *testkit.Peer { return server },
			"https": func(server *testkit.Peer) *testkit.Peer {
				return testkit.NewPeer(tls.Server(server.Conn, &tls.Config{Certificates: []tls.Certificate{certificate}}))
			},
		} {
			t.Run(name+" over "+scheme, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := testkit.NewMemRigTo(t, scheme+"://example.com", nil, trusted, opt)
					client := r.SendHandshake(t)
					server := accepting(<-r.Upstreams)
					t.Cleanup(func() { server.Close() })
					server.Request(t)
					server.Send(t, testkit.SampleSwitch)
					require.Equal(t, 101, client.Response(t).StatusCode)
					for range 5 { // only the client sends, so the tunnel is never idle
						time.Sleep(45 * time.Second)
						client.Send(t, "there")
						server.Expect(t, "there")
					}
					server.Send(t, "back")
					client.Expect(t, "back")
				})
			})
		}
	}
}

// A server's ReadTimeout applies to the request. Once the request is complete
// it must not end the handshake, however long the upstream takes.
func TestTheServersReadTimeoutDoesNotEndAHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, &http.Server{ReadTimeout: time.Second})
		client := r.SendHandshake(t)
		server := <-r.Upstreams
		server.Request(t)
		time.Sleep(30 * time.Second)
		server.Send(t, testkit.SampleSwitch)
		assert.Equal(t, 101, client.Response(t).StatusCode)
		client.Close()
		server.Close()
	})
}
