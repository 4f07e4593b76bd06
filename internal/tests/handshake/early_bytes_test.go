package handshake_test

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

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
