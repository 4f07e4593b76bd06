package handshake_test

import (
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// What users of other proxies found with WebSockets over HTTP/2. Cases that need
// other people's programs are in interop/http2.

// envoyproxy/envoy#8547: the upstream got no Sec-WebSocket-Key, and a
// Content-Length of 0, and answered 400.
//
// kgateway-dev/kgateway#14305: it got a CONNECT without an Upgrade field, and
// answered 426. caddyserver/caddy#6567 has the same rewrite.
func TestAServerOfRFC6455AcceptsTheUpgradeMadeOfACONNECT(t *testing.T) {
	u := testkit.NewUpstream(t)
	got := switching(t, u, "")
	s := serveHTTP2(t, u, nil).Connect(t, "/echo", nil)
	assert.Equal(t, 200, s.Response.StatusCode)
	r := <-got
	assert.Equal(t, "GET /echo HTTP/1.1", r.Method+" "+r.RequestURI+" "+r.Proto)
	assert.Len(t, r.Header["Sec-Websocket-Key"], 1)
	assert.Equal(t, []string{"13"}, r.Header["Sec-Websocket-Version"])
	assert.Equal(t, []string{"websocket"}, r.Header["Upgrade"])
	assert.Equal(t, []string{"upgrade"}, r.Header["Connection"])
	assert.NotContains(t, r.Header, "Content-Length")
	assert.Empty(t, r.TransferEncoding)
	assert.NotContains(t, r.Header, ":protocol")
}

// kgateway-dev/kgateway#14305: an upstream's 426, which names a field that HTTP/2
// does not have, must not end the connection of all the others.
func TestAnUpstreamsDemandForAnUpgradeLeavesTheConnectionOpen(t *testing.T) {
	u := testkit.NewUpstream(t)
	c := serveHTTP2(t, u, nil)
	client, server := c.Tunnel(t, u)
	u.Respond("HTTP/1.1 426 Upgrade Required\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\nContent-Length: 22\r\n\r\nmissing Upgrade header")
	res := c.Connect(t, "/", nil).Response
	assert.Equal(t, 426, res.StatusCode)
	assert.Equal(t, "missing Upgrade header", testkit.Body(t, res))
	client.Send(t, "hello")
	server.Expect(t, "hello")
	assert.Equal(t, 501, c.Connect(t, "/", func(r *http.Request) { r.Header[":protocol"] = []string{"other"} }).Response.StatusCode)
	assert.Equal(t, 1, c.Dials, "connections")
}

// caddyserver/caddy#6567 flushes the 200 before the first byte, and then after
// each write. A client may wait for either before it sends.
func TestEachMessageOfAnUpstreamIsFlushed(t *testing.T) {
	u := testkit.NewUpstream(t)
	client, server := serveHTTP2(t, u, nil).Tunnel(t, u) // which waits for the 200
	for range 3 {
		server.Send(t, "?")
		client.Expect(t, "?")
		client.Send(t, "!")
		server.Expect(t, "!")
	}
}

// caddyserver/caddy#6740: the rewrite applied to every extended CONNECT, whatever
// its :protocol (RFC 9298, RFC 9484, WebTransport).
func TestAnExtendedCONNECTForAnotherProtocolIsNoWebSocket(t *testing.T) {
	u := testkit.NewUpstream(t)
	c := serveHTTP2(t, u, nil)
	for _, protocol := range []string{"connect-udp", "connect-ip", "webtransport", "websockets", "websocket, h2c"} {
		res := c.Connect(t, "/", func(r *http.Request) { r.Header[":protocol"] = []string{protocol} }).Response
		assert.Equal(t, 501, res.StatusCode, ":protocol %q", protocol)
	}
	assert.Empty(t, u.Conns, "the upstream was dialed")
	assert.Equal(t, 1, c.Dials, "connections")
}

// envoyproxy/envoy#38645: beside other streams only a connection's first
// WebSocket opened. The upstream got broken requests for the others, and answered
// 400 and 404.
func TestEveryStreamOfAConnectionBecomesAWebSocket(t *testing.T) {
	u := testkit.NewUpstream(t)
	c := serveHTTP2(t, u, nil)
	c.Tunnel(t, u)
	u.Script(func(server *testkit.Peer) {
		r := server.Request(t)
		if r.Method == "POST" {
			body, _ := io.ReadAll(r.Body)
			server.Send(t, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body))
			return
		}
		assert.Equal(t, "websocket", r.Header.Get("Upgrade"))
		assert.Equal(t, "/chat", r.URL.Path)
		server.Send(t, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
			"Sec-WebSocket-Accept: "+testkit.Accept(r.Header.Get("Sec-Websocket-Key"))+"\r\n\r\n")
		io.Copy(server, server)
	})
	var all sync.WaitGroup
	for i := range 40 {
		all.Go(func() {
			if i%2 == 0 {
				r, s := c.Request(t, "/page")
				r.Method, r.Header = "POST", http.Header{}
				go func() {
					io.WriteString(s, fmt.Sprint("page ", i))
					s.CloseWrite()
				}()
				res, err := c.RoundTrip(r)
				if assert.NoError(t, err) {
					text, _ := io.ReadAll(res.Body)
					assert.Equal(t, fmt.Sprint("200 page ", i), fmt.Sprint(res.StatusCode, " ", string(text)))
				}
				return
			}
			r, s := c.Request(t, "/chat")
			res, err := c.RoundTrip(r)
			if !assert.NoError(t, err) || !assert.Equal(t, 200, res.StatusCode) {
				return
			}
			s.Response = res
			io.WriteString(s, fmt.Sprintf("socket %02d", i))
			got := make([]byte, 9)
			_, err = io.ReadFull(s, got)
			assert.NoError(t, err)
			assert.Equal(t, fmt.Sprintf("socket %02d", i), string(got))
		})
	}
	all.Wait()
	assert.Equal(t, 1, c.Dials, "connections")
}

// haproxy/haproxy#2244: Firefox behind a proxy sent no Sec-WebSocket-Version
// (Mozilla's bug 1848013). The refusal says which one, and ends nothing else.
func TestAStreamWithoutAVersionIsToldTheVersion(t *testing.T) {
	u := testkit.NewUpstream(t)
	c := serveHTTP2(t, u, nil)
	client, server := c.Tunnel(t, u)
	res := c.Connect(t, "/", func(r *http.Request) { delete(r.Header, "Sec-Websocket-Version") }).Response
	assert.Equal(t, 426, res.StatusCode)
	assert.Equal(t, []string{"13"}, res.Header["Sec-Websocket-Version"])
	assert.Contains(t, testkit.Body(t, res), "Sec-WebSocket-Version")
	client.Send(t, "hello")
	server.Expect(t, "hello")
	require.Empty(t, u.Conns, "the upstream was dialed")
	assert.Equal(t, 1, c.Dials, "connections")
}
