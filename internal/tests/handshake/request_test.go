package handshake_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestABadHandshakeGetsAClearResponse(t *testing.T) {
	for _, c := range []struct {
		name    string
		request string
		status  int
		says    []string
		header  http.Header
	}{
		{"a method other than GET", testkit.SampleRequestWith(t, "GET", "POST"),
			405, []string{`"POST"`, "GET"}, http.Header{"Allow": {"GET"}}},
		{"HTTP/1.0", testkit.SampleRequestWith(t, "HTTP/1.1", "HTTP/1.0"),
			400, []string{`"HTTP/1.0"`, "HTTP/1.1"}, nil},
		{"no key", testkit.SampleRequestWith(t, "Sec-WebSocket-Key: "+testkit.SampleKey+"\r\n", ""),
			400, []string{"0 Sec-WebSocket-Key", "want 1"}, nil},
		{"two keys", testkit.SampleRequestAnd("Sec-WebSocket-Key: " + testkit.SampleKey),
			400, []string{"2 Sec-WebSocket-Key", "want 1"}, nil},
		{"an empty key", testkit.SampleRequestWith(t, testkit.SampleKey, ""),
			400, []string{`Sec-WebSocket-Key ""`, "16 bytes"}, nil},
		{"a short key", testkit.SampleRequestWith(t, testkit.SampleKey, "c2hvcnQ="),
			400, []string{`"c2hvcnQ="`, "16 bytes", "base64"}, nil},
		{"a key that is not base64", testkit.SampleRequestWith(t, testkit.SampleKey, "!!!!!!!!!!!!!!!!!!!!!!!!"),
			400, []string{`"!!!!!!!!!!!!!!!!!!!!!!!!"`, "16 bytes", "base64"}, nil},
		{"a key without its padding", testkit.SampleRequestWith(t, testkit.SampleKey, "dGhlIHNhbXBsZSBub25jZQ"),
			400, []string{`"dGhlIHNhbXBsZSBub25jZQ"`, "16 bytes", "base64"}, nil},
		{"a key in quotes and markup", testkit.SampleRequestWith(t, testkit.SampleKey, `"<script>alert(1)</script>`),
			400, []string{`"\"<script>`, "16 bytes"}, nil},
		{"an old version", testkit.SampleRequestWith(t, "Version: 13", "Version: 8"),
			426, []string{`"8"`, "want 13"}, http.Header{"Sec-Websocket-Version": {"13"}, "Upgrade": {"websocket"}}},
		{"no version", testkit.SampleRequestWith(t, "Sec-WebSocket-Version: 13\r\n", ""),
			426, []string{`Sec-WebSocket-Version ""`, "want 13"}, http.Header{"Sec-Websocket-Version": {"13"}, "Upgrade": {"websocket"}}},
		{"two versions", testkit.SampleRequestAnd("Sec-WebSocket-Version: 8"),
			426, []string{`"13, 8"`, "want 13"}, http.Header{"Sec-Websocket-Version": {"13"}, "Upgrade": {"websocket"}}},
		{"a body", testkit.SampleRequestAnd("Content-Length: 5") + "hello",
			400, []string{"body", "want none"}, nil},
		{"a chunked body", testkit.SampleRequestAnd("Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n\r\n",
			400, []string{"body", "want none"}, nil},
		{"an empty chunked body", testkit.SampleRequestAnd("Transfer-Encoding: chunked") + "0\r\n\r\n",
			400, []string{"body", "want none"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := testkit.NewUpstream(t)
			p, addr := testkit.ServeProxy(t, u.URL)
			res, client := testkit.Do(t, addr, c.request)
			require.Equal(t, c.status, res.StatusCode)
			text := testkit.Body(t, res)
			for _, part := range c.says {
				assert.Contains(t, text, part, "the response does not say what is wrong")
			}
			for name, values := range c.header {
				assert.Equal(t, values, res.Header[name], "field %s", name)
			}
			assert.True(t, res.Close, "the response does not announce the end of the connection")
			assert.Empty(t, client.Rest(t, "the client's"), "bytes after the response")
			assert.Zero(t, p.Stats().Handshakes, "handshakes still counted")

			errs := testkit.NewFailures()
			_, addr = testkit.ServeProxy(t, u.URL, errs.Option())
			res, _ = testkit.Do(t, addr, c.request)
			assert.Equal(t, c.status, res.StatusCode, "status with an error handler of the user's")
			for name, values := range c.header {
				assert.Equal(t, values, res.Header[name], "field %s with an error handler of the user's", name)
			}
			err := errs.Next(t).Err
			assert.ErrorIs(t, err, wsproxy.ErrBadHandshake)
			assert.Equal(t, c.status, wsproxy.StatusCode(err))
			assert.Empty(t, u.Conns, "a bad handshake reached the upstream")
		})
	}
}

func TestARequestWithABodyIsRefusedBeforeTheBodyArrives(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL)
	res, _ := testkit.Do(t, addr, testkit.SampleRequestAnd("Content-Length: 5"))
	assert.Equal(t, 400, res.StatusCode)
	assert.Contains(t, testkit.Body(t, res), "body")
	assert.Empty(t, u.Conns, "a bad handshake reached the upstream")
}

func TestALongBadValueIsShortenedInTheResponse(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL)
	res, _ := testkit.Do(t, addr, testkit.SampleRequestWith(t, testkit.SampleKey, strings.Repeat("k", 100_000)))
	require.Equal(t, 400, res.StatusCode)
	assert.Less(t, len(testkit.Body(t, res)), 500)
}

// RFC 6455, section 4.1, prints this key for the bytes 1 to 16, and some
// clients send exactly it. Its unused bits are not zero, which a base64 decoder
// may accept (RFC 4648, section 3.5).
func TestTheKeyThatRFC6455PrintsIsAccepted(t *testing.T) {
	u := testkit.NewUpstream(t)
	u.Respond(testkit.ResponseOKClose)
	_, addr := testkit.ServeProxy(t, u.URL)
	res, _ := testkit.Do(t, addr, testkit.SampleRequestWith(t, testkit.SampleKey, "AQIDBAUGBwgJCgsMDQ4PEC=="))
	require.Equal(t, 200, res.StatusCode, "the RFC's own example is refused: %s", testkit.Body(t, res))
}

func TestOtherProtocolsAreNotForwarded(t *testing.T) {
	const settings = "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
	for _, c := range []struct{ name, lines string }{
		{"h2c", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n" + settings},
		{"h2c without settings", "Connection: upgrade\r\nUpgrade: h2c\r\n"},
		{"h2c in capitals", "Connection: UPGRADE, HTTP2-SETTINGS\r\nUpgrade: H2C\r\n" + settings},
		{"TLS and h2c", "Connection: Upgrade\r\nConnection: HTTP2-Settings\r\nUpgrade: TLS/1.2, h2c\r\n" + settings},
		{"websocket with a version", "Connection: Upgrade\r\nUpgrade: websocket/13\r\n"},
		{"websocket without the Connection option", "Connection: keep-alive\r\nUpgrade: websocket\r\n"},
		{"settings alone", "Connection: HTTP2-Settings\r\n" + settings},
		{"settings that Connection does not name", settings},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := testkit.NewUpstream(t)
			_, addr := testkit.ServeProxy(t, u.URL)
			client := testkit.Dial(t, addr)
			client.Send(t, "GET / HTTP/1.1\r\nHost: example.com\r\n"+c.lines+"\r\n")
			server := u.Accept(t)
			header := strings.ToLower(server.RawHeader(t))
			assert.NotContains(t, header, "\r\nupgrade:")
			assert.NotContains(t, header, "http2-settings")
			assert.Contains(t, header, "\r\nconnection: close\r\n")
			server.Send(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			assert.Equal(t, "ok", testkit.Body(t, client.Response(t)))
		})
	}
}

func TestOnlyTheAllowedProtocolAmongSeveralIsForwarded(t *testing.T) {
	for _, lines := range []string{
		"Upgrade: websocket, h2c",
		"Upgrade: h2c, websocket",
		"Upgrade: websocket\r\nUpgrade: h2c",
		"Upgrade: h2c\r\nUpgrade: ,WebSocket,",
	} {
		t.Run(lines, func(t *testing.T) {
			u := testkit.NewUpstream(t)
			_, addr := testkit.ServeProxy(t, u.URL)
			client := testkit.Dial(t, addr)
			client.Send(t, testkit.SampleRequestWith(t, "Upgrade: websocket", lines))
			server := u.Accept(t)
			header := server.RawHeader(t)
			assert.NotContains(t, strings.ToLower(header), "h2c")
			assert.Equal(t, 1, strings.Count(header, "\r\nUpgrade: websocket\r\n"), "in %s", header)
			server.Send(t, testkit.SampleSwitch)
			assert.Equal(t, 101, client.Response(t).StatusCode)
		})
	}
}

// CVE-2022-31813 and CVE-2024-45410: a client named the proxy's own fields in
// Connection, and they were removed as hop-by-hop.
func TestConnectionCannotRemoveFieldsThatTheProxySets(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL, wsproxy.WithHeader("X-Gate", "open"))
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprintf("plain=%v", plain), func(t *testing.T) {
			request := testkit.SampleRequestWith(t, "Connection: Upgrade", "Connection: Upgrade, X-Forwarded-For, Host, Sec-WebSocket-Key, "+
				"Cookie, X-Real-IP\r\nConnection: sec-websocket-version,upgrade, Connection, X-Forwarded-Proto, X-Gate\r\n"+
				"X-Forwarded-For: 203.0.113.7\r\nCookie: a=b")
			if plain {
				request = strings.Replace(request, "Upgrade: websocket", "Upgrade: h2c", 1)
			}
			client := testkit.Dial(t, addr)
			client.Send(t, request)
			server := u.Accept(t)
			got := server.Request(t)
			assert.Equal(t, "server.example.com", got.Host)
			assert.Equal(t, []string{"203.0.113.7, 127.0.0.1"}, got.Header["X-Forwarded-For"])
			assert.Equal(t, []string{"127.0.0.1"}, got.Header["X-Real-Ip"])
			assert.Equal(t, []string{"http"}, got.Header["X-Forwarded-Proto"])
			assert.Equal(t, []string{"open"}, got.Header["X-Gate"])
			assert.Empty(t, got.Header["Cookie"], "a field that the client itself makes hop-by-hop")
			if plain {
				server.Send(t, "HTTP/1.1 204 No Content\r\n\r\n")
				assert.Equal(t, 204, client.Response(t).StatusCode)
				return
			}
			assert.Equal(t, []string{"upgrade"}, got.Header["Connection"])
			assert.Equal(t, []string{"websocket"}, got.Header["Upgrade"])
			assert.Equal(t, []string{testkit.SampleKey}, got.Header["Sec-Websocket-Key"])
			assert.Equal(t, []string{"13"}, got.Header["Sec-Websocket-Version"])
			server.Send(t, testkit.SampleSwitch)
			assert.Equal(t, 101, client.Response(t).StatusCode)
		})
	}
}
