package frames_test

import (
	"net/http"
	"strings"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// refusedBy requests a tunnel that must be refused because of a limit.
func refusedBy(t testing.TB, r *testkit.Rig, request string) {
	t.Helper()
	res, _ := testkit.Do(t, r.Addr, request)
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	require.Equal(t, "1", res.Header.Get("Retry-After"))
}

func TestOneTunnelMoreThanMaxTunnelsIsRefused(t *testing.T) {
	failures, ended := make(chan error, 10), testkit.NewEndings()
	r := testkit.PlainLink.Start(t, nil, ended.Option(), wsproxy.WithMaxTunnels(3),
		wsproxy.WithErrorHandler(func(w http.ResponseWriter, r *http.Request, err error) {
			failures <- err
			w.WriteHeader(wsproxy.StatusCode(err))
		}))
	client, server := r.Tunnel(t)
	r.Tunnel(t)
	asking := r.Dial(t)
	asking.Send(t, testkit.SampleRequest)
	asked := r.Upstream.Accept(t)
	asked.Request(t)
	refusedBy(t, r, testkit.SampleRequest) // a handshake under way counts
	assert.ErrorIs(t, <-failures, wsproxy.ErrTooManyTunnels)

	asked.Send(t, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
	assert.Equal(t, http.StatusForbidden, asking.Response(t).StatusCode)
	testkit.Eventually(t, func() bool { return r.Proxy.Stats().Handshakes == 0 }, "the handshake that failed still counts")
	r.Tunnel(t)
	refusedBy(t, r, testkit.SampleRequest)

	client.Close()
	server.ExpectEOF(t, "")
	server.Close()
	ended.Next(t)
	testkit.Eventually(t, func() bool { return r.Proxy.Stats().Live == 2 }, "the tunnel that has ended still counts")
	r.Tunnel(t)
	refusedBy(t, r, testkit.SampleRequest)
	assert.EqualValues(t, 4, r.Proxy.Stats().Opened)
}

func TestTunnelsAreLimitedForEachClientAddress(t *testing.T) {
	r := testkit.PlainLink.Start(t, nil, wsproxy.WithMaxTunnelsPerIP(2), wsproxy.WithTrustedProxies("127.0.0.0/8"))
	from := func(list string) string {
		return strings.Replace(testkit.SampleRequest, "\r\n\r\n", "\r\nX-Forwarded-For: "+list+"\r\n\r\n", 1)
	}
	open := func(list string) (client, server *testkit.Peer) {
		client = r.Dial(t)
		client.Send(t, from(list))
		server = r.Upstream.Accept(t)
		server.Request(t)
		server.Send(t, testkit.SampleSwitch)
		require.Equal(t, http.StatusSwitchingProtocols, client.Response(t).StatusCode)
		return client, server
	}
	client, server := open("192.0.2.1")
	open("203.0.113.9, 192.0.2.1") // an address that the client claims is ignored
	refusedBy(t, r, from("192.0.2.1"))
	refusedBy(t, r, from("198.51.100.1, 192.0.2.1, 127.0.0.1"))
	open("192.0.2.2")
	client.Close()
	server.Close()
	testkit.Eventually(t, func() bool { return r.Proxy.Stats().Live == 2 }, "the tunnel stays open")
	open("192.0.2.1")
	refusedBy(t, r, from("192.0.2.1"))
}

func TestAnUntrustedClientCannotChooseTheAddressThatItsTunnelsAreCountedBy(t *testing.T) {
	r := testkit.PlainLink.Start(t, nil, wsproxy.WithMaxTunnelsPerIP(1))
	r.Tunnel(t)
	refusedBy(t, r, strings.Replace(testkit.SampleRequest, "\r\n\r\n", "\r\nX-Forwarded-For: 192.0.2.1\r\nX-Real-IP: 192.0.2.1\r\n\r\n", 1))
}
