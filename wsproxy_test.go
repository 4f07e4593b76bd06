package wsproxy_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEarlyBytesOfBothSidesAreForwarded(t *testing.T) {
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url)
	client := dial(t, addr)
	client.send(t, sampleRequest+"early")
	server := u.accept(t)
	server.request(t)
	server.send(t, sampleSwitch+"glued")
	require.Equal(t, http.StatusSwitchingProtocols, client.answer(t).StatusCode)
	client.expect(t, "glued")
	server.expect(t, "early")
	require.NoError(t, client.CloseWrite())
	server.expectEOF(t, "")
	_, err := io.WriteString(server, "late")
	require.NoError(t, err)
	server.Close()
	client.expectEOF(t, "late")
}
