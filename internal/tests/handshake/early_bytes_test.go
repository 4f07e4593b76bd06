package handshake_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

func TestEarlyBytesOfBothSidesAreForwarded(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL)
	client := testkit.Dial(t, addr)
	client.Send(t, testkit.SampleRequest+"early")
	server := u.Accept(t)
	server.Request(t)
	server.Send(t, testkit.SampleSwitch+"glued")
	require.Equal(t, http.StatusSwitchingProtocols, client.Response(t).StatusCode)
	client.Expect(t, "glued")
	server.Expect(t, "early")
	require.NoError(t, client.CloseWrite())
	server.ExpectEOF(t, "")
	_, err := io.WriteString(server, "late")
	require.NoError(t, err)
	server.Close()
	client.ExpectEOF(t, "late")
}

// golang/go#80875: bytes that come with the handshake are lost or sent early.
func TestEarlyBytesWaitForTheSwitch(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL)
	early := strings.Repeat("early ", 10_000) // more than any reader has buffered
	client := testkit.Dial(t, addr)
	client.Send(t, testkit.SampleRequest+early)
	server := u.Accept(t)
	server.Request(t)
	server.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	b := make([]byte, 1)
	n, err := server.Read(b)
	var timeout net.Error
	require.ErrorAs(t, err, &timeout, "%d bytes before the switch", n)
	require.True(t, timeout.Timeout())
	server.SetReadDeadline(time.Now().Add(testkit.Patience))
	server.Send(t, testkit.SampleSwitch)
	server.Expect(t, early)
}

// The goroutine of the handshake writes the 101, and the loop what the client's
// socket has no room for, before all other bytes of the upstream.
func TestALarge101ReachesAClientThatReadsLate(t *testing.T) {
	t.Parallel()
	u := testkit.NewUpstream(t)
	p, err := wsproxy.New(u.URL)
	require.NoError(t, err)
	t.Cleanup(func() { p.Close() })
	s := httptest.NewUnstartedServer(p)
	s.Config.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		c.(*net.TCPConn).SetWriteBuffer(8 << 10)
		return ctx
	}
	s.Start()
	t.Cleanup(s.Close)
	client := testkit.Dial(t, s.Listener.Addr().String())
	client.Send(t, testkit.SampleRequest)
	server := u.Accept(t)
	server.Request(t)
	value := strings.Repeat("x", 1000)
	large := strings.Repeat("X-Large: "+value+"\r\n", 100)
	server.Send(t, strings.Replace(testkit.SampleSwitch, "Upgrade: websocket\r\n", "Upgrade: websocket\r\n"+large, 1))
	bytes := strings.Repeat("behind the 101 ", 1000)
	go io.WriteString(server, bytes)
	res := client.Response(t)
	require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	require.Len(t, res.Header["X-Large"], 100)
	client.Expect(t, bytes)
	client.Send(t, "answer")
	server.Expect(t, "answer")
}
