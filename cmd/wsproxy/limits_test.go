package main

import (
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

// silence accepts connections and sends nothing.
func silence(t *testing.T) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "localhost:0") // the system accepts for us
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// endedByTheProxy waits for the log line of a tunnel that the proxy itself has
// ended. Such a tunnel was logged at debug level only.
func (c *command) endedByTheProxy(t *testing.T, reasonAndHint string) {
	t.Helper()
	c.stderr.Await(t, `level=INFO msg="the proxy ended a tunnel" `+reasonAndHint+` route=/ id=`)
}

func TestConnectTimeoutBoundsTheWayToTheTarget(t *testing.T) {
	c := start(t, "-connect-timeout", "20ms", "https://"+silence(t)) // a TLS handshake without an answer
	code, _ := c.get(t, "/", "")
	require.Equal(t, http.StatusGatewayTimeout, code)
}

func TestReadTimeoutEndsASilentTunnel(t *testing.T) {
	t.Parallel()
	url, conns := switches(t)
	c := start(t, "-read-timeout", "2s", "-close-timeout", "500ms", url)
	client, _ := c.tunnel(t, conns) // its 101 must arrive within the timeout, too
	client.ended(t)
	c.endedByTheProxy(t, `reason="read timeout" hint="nothing crossed the tunnel for -read-timeout 2s; raise it, or set -ping below it"`)
}

func TestSendTimeoutEndsATunnelWhoseClientStopsReading(t *testing.T) {
	url, conns := switches(t)
	c := start(t, "-send-timeout", "50ms", "-read-timeout", "0", url)
	_, server := c.tunnel(t, conns)
	var err error
	for flood := make([]byte, 1<<20); err == nil; {
		_, err = server.Write(flood)
	}
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the tunnel stays open")
	c.endedByTheProxy(t, `reason="send timeout" hint="an end read nothing for -send-timeout 50ms; raise it"`)
}

func TestBodyTimeoutIsA408(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	c := start(t, "-body-timeout", "50ms", url)
	_, res := c.ask(t, "/", "Content-Length: 10\r\n")
	require.Equal(t, http.StatusRequestTimeout, res.StatusCode)
}

func TestCloseTimeoutBoundsTheSecondSideOfATunnel(t *testing.T) {
	url, conns := switches(t)
	c := start(t, "-close-timeout", "20ms", "-read-timeout", "0", url)
	client, server := c.tunnel(t, conns)
	client.SetDeadline(time.Now().Add(testkit.Patience / 2)) // less than the default
	require.NoError(t, client.Conn.(*net.TCPConn).CloseWrite())
	n, err := server.Read(make([]byte, 1))
	require.Zero(t, n)
	require.ErrorIs(t, err, io.EOF)
	client.ended(t) // although the server has not closed its side
}

func TestMaxLifetimeEndsATunnel(t *testing.T) {
	t.Parallel()
	url, conns := switches(t)
	c := start(t, "-max-lifetime", "1s", "-close-timeout", "500ms", url)
	client, _ := c.tunnel(t, conns)
	client.ended(t)
	c.endedByTheProxy(t, `reason="max lifetime" hint="the tunnel reached -max-lifetime 1s; raise it"`)
}

func TestPingFindsAnEndThatIsGone(t *testing.T) {
	t.Parallel()
	url, conns := switches(t)
	c := start(t, "-ping", "500ms", "-ping-timeout", "1s", "-close-timeout", "500ms", "-read-timeout", "0", url)
	client, server := c.tunnel(t, conns)
	for _, end := range []*peer{client, server} {
		opcode, _ := end.frame(t)
		require.Equal(t, byte(pings), opcode)
	}
	client.ended(t)
	server.ended(t)
	c.endedByTheProxy(t, `reason="ping timeout" hint="an end did not answer a ping for -ping-timeout 1s; raise it, or switch pings off with -ping 0"`)
}

func TestMaxTunnelsRefusesOneMore(t *testing.T) {
	url, conns := switches(t)
	for _, flag := range []string{"-max-tunnels", "-max-tunnels-per-ip"} {
		c := start(t, "-trusted-proxy", "127.0.0.1", "-listen", "127.0.0.1:0", flag, "1", url)
		client, _ := c.tunnel(t, conns)
		_, res := c.ask(t, "/", upgradeFields)
		require.Equal(t, http.StatusServiceUnavailable, res.StatusCode, flag)
		require.NotEmpty(t, res.Header.Get("Retry-After"))

		other, res := c.ask(t, "/", upgradeFields+"X-Forwarded-For: 192.0.2.1\r\n")
		if flag == "-max-tunnels" {
			require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
		} else {
			require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode, "another client's address")
			(<-conns).Close()
		}
		other.Close()
		client.Close()
	}
}

func TestMaxMessageSizeHoldsForBothDirections(t *testing.T) {
	url, conns := switches(t)
	c := start(t, "-max-message-size", "5", url)
	tooBig := func(send func(client, server *peer)) {
		client, server := c.tunnel(t, conns)
		client.sendFrame(t, text, "12345")
		_, payload := server.frame(t)
		require.Equal(t, "12345", payload)
		server.reply(t, text, "54321")
		_, payload = client.frame(t)
		require.Equal(t, "54321", payload)
		send(client, server)
		for _, end := range []*peer{client, server} {
			opcode, payload := end.frame(t)
			require.Equal(t, byte(closes), opcode)
			require.Equal(t, "\x03\xf1", payload[:2], "1009")
		}
		client.Close()
		server.Close()
	}
	tooBig(func(client, _ *peer) { client.sendFrame(t, text, "123456") })
	tooBig(func(_, server *peer) { server.reply(t, text, "123456") })
	c.endedByTheProxy(t, `reason=limit hint="a message was larger than -max-message-size 5; raise it"`)
}

// Without the flag the server accepted a header of 1 MiB. Unless the tunnel is
// detached, net/http keeps that for as long as the tunnel is open: 1.7 MB, or
// 10.7 MB if the fields are empty.
func TestMaxHeaderBytesBoundsARequestsHeader(t *testing.T) {
	url, _ := switches(t)
	for _, test := range []struct {
		args       []string
		fits, over int
	}{
		{nil, 60 << 10, 70 << 10},
		{[]string{"-max-header-bytes", "8192"}, 11 << 10, 14 << 10}, // net/http adds 4096
		{[]string{"-max-header-bytes", "1048576"}, 1000 << 10, 1030 << 10},
	} {
		c := start(t, append(test.args, url)...)
		for size, want := range map[int]int{
			test.fits: http.StatusSwitchingProtocols,
			test.over: http.StatusRequestHeaderFieldsTooLarge,
		} {
			_, res := c.ask(t, "/", upgradeFields+"X-Long: "+strings.Repeat("x", size)+"\r\n")
			require.Equal(t, want, res.StatusCode, "%v: %d bytes", test.args, size)
		}
	}
}
