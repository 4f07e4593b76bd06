package wsproxy

import (
	"bufio"
	"bytes"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// A tunnel opens only with the protocol and the accept key that the handshake
// requires (RFC 6455, section 4.1), and the client gets exactly one 101 for it.
func FuzzCheckResponse(f *testing.F) {
	const key, accept = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
	for _, response := range []string{
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept + "\r\n\r\nglued",
		"HTTP/1.1 101\r\nupgrade: WEBSOCKET\r\nConnection: Upgrade, X-Hop\r\nX-Hop: 1\r\nsec-websocket-accept: " + accept + " \r\nContent-Length: 5\r\nSet-Cookie: a\r\n\r\n",
		"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\nSec-WebSocket-Accept: " + accept + "\r\n\r\n",
		"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nX Y: 1\r\nConnection : X\r\nSec-WebSocket-Accept: " + accept + "\r\n\r\n",
		"HTTP/1.0 101 x\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + accept + "\r\n\r\n",
		"HTTP/1.1 101 x\r\nUpgrade: websocket, h2c\r\nSec-WebSocket-Accept: " + accept + "\r\n\r\n",
		"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + accept + "\r\nSec-WebSocket-Accept: x\r\n\r\n",
		"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: keep-alive\r\nConnection: ,\tUPGRADE\r\nSec-WebSocket-Accept: " + accept + "\r\n\r\n",
		"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: upgrade,close\r\nSec-WebSocket-Accept: " + accept + "\r\n\r\n",
		"HTTP/1.1 101 x\r\nUpgrade: h2c\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", "", "HTTP/", "\x00",
	} {
		f.Add([]byte(response))
	}
	p, err := New("http://upstream.example", WithModifyResponse(func(*http.Response) error { return nil }))
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, raw []byte) {
		asked := &http.Request{Method: "GET", Header: http.Header{"Upgrade": {"websocket"}, "Sec-Websocket-Key": {key}}}
		res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(raw)), asked)
		if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
			return
		}
		upgrade := res.Header.Values("Upgrade")
		legal := res.ProtoMajor == 1 && res.ProtoMinor >= 1 && len(upgrade) == 1 && len(upgrade[0]) == len("websocket") && strings.EqualFold(upgrade[0], "websocket") &&
			slices.Equal(res.Header.Values("Sec-WebSocket-Accept"), []string{accept}) &&
			connectionOption("upgrade", res.Header) && !connectionOption("close", res.Header)
		err = checkSwitch(res, asked)
		require.Equal(t, legal, err == nil, "RFC 6455 and the proxy disagree: %v", err)
		if err != nil {
			require.ErrorIs(t, err, ErrUpstream)
			require.Equal(t, http.StatusBadGateway, StatusCode(err))
			return
		}
		require.NoError(t, p.modifySwitch(res))
		wire := bufio.NewReader(bytes.NewReader(appendSwitch(nil, res.Header, "websocket")))
		got, err := http.ReadResponse(wire, asked)
		require.NoError(t, err)
		require.Zero(t, wire.Buffered(), "the client gets more than one response")
		require.Equal(t, http.StatusSwitchingProtocols, got.StatusCode)
		require.Equal(t, []string{"websocket"}, got.Header["Upgrade"])
		require.Equal(t, []string{"Upgrade"}, got.Header["Connection"])
		require.Equal(t, []string{accept}, got.Header["Sec-Websocket-Accept"])
		for name, values := range got.Header {
			require.True(t, isToken(name), "an invalid name: %q", name)
			require.True(t, name == "Upgrade" || name == "Connection" || len(values) == len(res.Header[name]), "an unexpected field: %s", name)
			require.False(t, slices.Contains([]string{"Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Content-Length"}, name), "a field of the hop or of a body: %s", name)
		}
	})
}
