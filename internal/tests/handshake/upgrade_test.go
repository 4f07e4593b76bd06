package handshake_test

import (
	"strings"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

func TestTheHandshakeReachesTheUpstreamAsSent(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL)
	client := testkit.Dial(t, addr)
	client.Send(t, testkit.SampleRequestAnd("Sec-WebSocket-Protocol: chat, superchat", "Sec-WebSocket-Protocol: v2",
		"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-other", "Origin: http://example.com",
		"Authorization: Bearer abc", "Cookie: a=1; b=2", "Accept-Language: de"))
	server := u.Accept(t)
	assert.Equal(t, "GET /chat HTTP/1.1\r\nHost: server.example.com\r\n"+
		"Accept-Language: de\r\nAuthorization: Bearer abc\r\nConnection: upgrade\r\nCookie: a=1; b=2\r\nOrigin: http://example.com\r\n"+
		"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-other\r\n"+
		"Sec-WebSocket-Key: "+testkit.SampleKey+"\r\nSec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Protocol: v2\r\n"+
		"Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\nX-Forwarded-For: 127.0.0.1\r\n"+
		"X-Forwarded-Host: server.example.com\r\nX-Forwarded-Proto: http\r\nX-Real-Ip: 127.0.0.1\r\n\r\n",
		server.RawHeader(t), "no User-Agent or Accept-Encoding of the proxy's, and nothing lost")
	server.Send(t, testkit.SampleSwitchWith(t, "Upgrade: websocket\r\n", "Upgrade: WebSocket\r\nSec-WebSocket-Protocol: v2\r\nSec-WebSocket-Extensions: x-other\r\n"))
	res := client.Response(t)
	assert.Equal(t, 101, res.StatusCode)
	assert.Equal(t, []string{"v2"}, res.Header["Sec-Websocket-Protocol"])
	assert.Equal(t, []string{"x-other"}, res.Header["Sec-Websocket-Extensions"])
}

func TestAnotherProtocolIsForwardedByteForByte(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL, wsproxy.WithUpgrades("websocket", "spdy/3.1"))
	client := testkit.Dial(t, addr)
	client.Send(t, "POST /exec?command=sh HTTP/1.1\r\nHost: api.example.com\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"+
		"X-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n\r\n\x80\x03")
	server := u.Accept(t)
	got := server.Request(t)
	assert.Equal(t, "POST", got.Method)
	assert.Equal(t, "/exec?command=sh", got.RequestURI)
	assert.True(t, strings.EqualFold("SPDY/3.1", got.Header.Get("Upgrade")))
	assert.Equal(t, int64(0), got.ContentLength)
	assert.Equal(t, []string{"v4.channel.k8s.io"}, got.Header["X-Stream-Protocol-Version"])
	server.Send(t, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n\x00\x01\xff")
	res := client.Response(t)
	assert.Equal(t, 101, res.StatusCode)
	assert.True(t, strings.EqualFold("SPDY/3.1", res.Header.Get("Upgrade")))
	client.Expect(t, "\x00\x01\xff")
	server.Expect(t, "\x80\x03")
	client.Send(t, "GET / HTTP/1.1\r\n\r\n")
	server.Expect(t, "GET / HTTP/1.1\r\n\r\n")

	// Switching to the other allowed protocol is an error, too.
	client = testkit.Dial(t, addr)
	client.Send(t, "POST /exec HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n")
	server = u.Accept(t)
	server.Request(t)
	server.Send(t, testkit.SampleSwitch)
	assert.Equal(t, 502, client.Response(t).StatusCode)
}
