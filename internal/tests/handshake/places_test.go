package handshake_test

import (
	"net"
	"net/http"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

// The Proxy's place for a tunnel was given back when the response came, and the
// server's when it had ended. So one client with WithMaxTunnelsPerIP(1) could
// take all places of a server with upgrades that do not switch.
func TestAResponseThatIsNoSwitchHoldsNoPlaceOfTheServer(t *testing.T) {
	closed := make(chan struct{}, 10)
	answer := testkit.ThenSilent("HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nhello")
	endless := testkit.ServeTCP(t, func(conn net.Conn) {
		answer(conn)
		closed <- struct{}{}
	})
	u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: endless, MaxTunnels: 2})
	_, proxy := testkit.ServeProxy(t, "http://app.example", wsproxy.WithUpstream(u), wsproxy.WithMaxTunnelsPerIP(1))
	var clients []*testkit.Peer
	for range 5 {
		res, client := testkit.Do(t, proxy, testkit.SampleRequest)
		assert.Equal(t, http.StatusOK, res.StatusCode)
		assert.Zero(t, u.Servers()[0].Tunnels)
		clients = append(clients, client)
	}
	for _, client := range clients {
		client.Close()
		testkit.Within(t, closed, "the upstream's connection is closed")
	}
	assert.Zero(t, u.Servers()[0].Tunnels, "places are given back once")
}
