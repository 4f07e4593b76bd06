package wsproxy

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"example.com/wsproxy/internal/syntax"
	"github.com/stretchr/testify/require"
)

// keyPattern is 16 bytes in base64. The last of its 22 digits holds two bits
// and, in the example that RFC 6455, section 4.1, prints, a stray third.
var keyPattern = regexp.MustCompile(`^[A-Za-z0-9+/]{22}==$`)

// A handshake is accepted if and only if RFC 6455, section 4.2.1, accepts it.
// The upstream then gets one request for the same target.
func FuzzCheckRequest(f *testing.F) {
	handshake := func(line string, fields ...string) {
		f.Add([]byte(line + "\r\n" + strings.Join(fields, "\r\n") + "\r\n\r\n"))
	}
	sample := []string{"Host: server.example.com", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"}
	for _, line := range []string{
		"GET /chat HTTP/1.1", "GET /chat HTTP/1.0", "POST /chat HTTP/1.1", "get / HTTP/1.1", "GET / HTTP/1.2", "GET //a//b?x=%zz;y&&? HTTP/1.1", "GET /a%2Fb? HTTP/1.1",
		"GET http://other.example/chat?x HTTP/1.1", "GET * HTTP/1.1", "GET x:http://internal/admin HTTP/1.1", "GET x:admin HTTP/1.1", "GET http://[fe80::1%25%20x]/ HTTP/1.1", `GET /"<>\^{|}#x?#y HTTP/1.1`,
	} {
		handshake(line, sample...)
	}
	handshake("POST / HTTP/5.1", sample[:3]...) // no stream, as it has no :protocol
	handshake("GET / HTTP/1.1", append(sample, "Content-Length: 0")...)
	handshake("GET / HTTP/1.1", append(sample, "Content-Length: 1", "", "x")...)
	handshake("GET / HTTP/1.1", append(sample, "Transfer-Encoding: chunked", "", "0", "")...)
	handshake("GET / HTTP/1.1", append(sample, "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")...)
	handshake("GET / HTTP/1.1", append(sample, "Connection: Sec-WebSocket-Key, Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: chat", "X-A: \ta\tb \xff ")...)
	handshake("GET / HTTP/1.1", "Host: a:80", "upgrade: h2c, WebSocket", "connection: keep-alive,\tupgrade ", "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==", "sec-websocket-version: 13")
	handshake("GET / HTTP/1.1", "Host:", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAB==", "Sec-WebSocket-Version: 013")
	handshake("GET / HTTP/1.1", "Host: a", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC==", "Sec-WebSocket-Version: 13")

	p, err := New("http://upstream.example")
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, raw []byte) {
		in, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			return
		}
		protocol := requestedProtocol(in, []string{"websocket"})
		if protocol == "" {
			return
		}
		require.Regexp(t, `(?i)(^|[,\n])[ \t]*websocket[ \t]*($|[,\n])`, strings.Join(in.Header["Upgrade"], "\n"))
		require.Regexp(t, `(?i)(^|[,\n])[ \t]*upgrade[ \t]*($|[,\n])`, strings.Join(in.Header["Connection"], "\n"))
		version, key := in.Header.Values("Sec-WebSocket-Version"), in.Header.Values("Sec-WebSocket-Key")
		legal := in.Method == "GET" && in.ProtoAtLeast(1, 1) &&
			in.ContentLength == 0 && in.TransferEncoding == nil && slices.Equal(version, []string{"13"}) && len(key) == 1 && keyPattern.MatchString(key[0]) &&
			in.RequestURI != "*" && !syntax.HasDotSegment(in.URL.Path)
		err = checkRequest(in, protocol)
		if in.URL.Opaque == "" && syntax.IsHost(in.Host) { // otherwise the request is not valid HTTP
			require.Equal(t, legal, err == nil, "RFC 6455 and the proxy disagree: %v", err)
		}
		if err != nil {
			require.ErrorIs(t, err, ErrBadHandshake)
			require.Contains(t, []int{400, 405, 426}, StatusCode(err))
			return
		}
		require.True(t, legal)
		in.RemoteAddr = "192.0.2.7:1234"
		sent := p.outgoingRequest(context.Background(), in, protocol)
		wire, err := appendRequest(nil, sent)
		if err != nil {
			require.ErrorIs(t, err, ErrUpstream)
			require.False(t, served(in.Header), "a request that net/http's server accepts cannot be sent: %v", err)
			return
		}
		rest := bufio.NewReader(bytes.NewReader(wire))
		got, err := http.ReadRequest(rest)
		require.NoError(t, err, "%q", wire)
		left, err := io.ReadAll(rest)
		require.NoError(t, err)
		require.Empty(t, left, "more than one request was sent: %q", wire)
		require.Equal(t, "GET", got.Method)
		require.Equal(t, "HTTP/1.1", got.Proto)
		require.Equal(t, in.Host, got.Host)
		require.Equal(t, "/"+strings.TrimPrefix(in.URL.Path, "/"), got.URL.Path, "%q", wire)
		require.Equal(t, in.URL.RawQuery, got.URL.RawQuery, "%q", wire)
		require.Zero(t, got.ContentLength)
		require.Empty(t, got.TransferEncoding)
		require.Equal(t, key, got.Header["Sec-Websocket-Key"])
		require.Equal(t, []string{"websocket"}, got.Header["Upgrade"])
		require.Equal(t, []string{"upgrade"}, got.Header["Connection"])
		require.Equal(t, []string{"192.0.2.7"}, got.Header["X-Real-Ip"])
		for name := range got.Header {
			ours := slices.Contains([]string{"Upgrade", "Connection", "X-Real-Ip", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"}, name)
			require.True(t, ours || in.Header[name] != nil, "an unexpected field: %s", name)
		}
	})
}

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
			require.True(t, syntax.IsToken(name), "an invalid name: %q", name)
			require.True(t, name == "Upgrade" || name == "Connection" || len(values) == len(res.Header[name]), "an unexpected field: %s", name)
			require.False(t, slices.Contains([]string{"Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Content-Length"}, name), "a field of the hop or of a body: %s", name)
		}
	})
}
