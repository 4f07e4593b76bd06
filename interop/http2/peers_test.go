package http2_test

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/talk"
	"github.com/pires/go-proxyproto"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
)

// haproxy/haproxy#3355: a :protocol on another method was ignored.
func TestAProtocolOnAnotherMethodIsRefused(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, f := serveFramer(t, u, nil)
	for _, method := range []string{"GET", "POST", "OPTIONS", "connect"} {
		id := f.request(t, true, ":method", method, ":protocol", "websocket", ":scheme", "https", ":path", "/chat",
			":authority", "server.example.com", "sec-websocket-version", "13")
		assert.Contains(t, []string{"400", ""}, f.status(t, id), "%s: a refusal or a reset", method)
	}
	id := f.connect(t, false) // the connection is whole
	u.Accept(t).Switch(t, "")
	assert.Equal(t, "200", f.status(t, id))
	assert.Empty(t, u.Conns)
}

// haproxy/haproxy#3355: the fix for that reset every extended CONNECT of a client
// whose own SETTINGS have no ENABLE_CONNECT_PROTOCOL, as no browser's have. RFC
// 8441, section 3, asks that of the server alone.
func TestAClientNeedNotAnnounceExtendedCONNECT(t *testing.T) {
	const enableConnectProtocol = 8
	for name, settings := range map[string][]http2.Setting{
		"nothing": nil,
		"1":       {{ID: enableConnectProtocol, Val: 1}},
		"0":       {{ID: enableConnectProtocol, Val: 0}},
	} {
		t.Run(name, func(t *testing.T) {
			u := testkit.NewUpstream(t)
			f := dialFramer(t, testkit.ServeHTTP2(t, testkit.NewProxy(t, u.URL), nil), settings...)
			id := f.connect(t, false)
			server := u.Accept(t)
			server.Switch(t, "")
			assert.Equal(t, "200", f.status(t, id))
			require.NoError(t, f.WriteData(id, false, []byte("hello")))
			server.Expect(t, "hello")
		})
	}
}

// caddyserver/caddy#7305: over HTTP/3 the upstream got a CONNECT and answered 404.
func TestAnUpstreamGetsAnUpgradeForAWebSocketOverHTTP3(t *testing.T) {
	u := testkit.NewUpstream(t)
	s := dialHTTP3(t, talk.ServeHTTP3(t, testkit.NewProxy(t, u.URL))).open(t, "/api/websocket")
	server := u.Accept(t)
	r := server.Switch(t, "")
	assert.Equal(t, "GET /api/websocket HTTP/1.1", r.Method+" "+r.RequestURI+" "+r.Proto)
	assert.Equal(t, "websocket", r.Header.Get("Upgrade"))
	assert.Equal(t, "upgrade", r.Header.Get("Connection"))
	assert.NotEmpty(t, r.Header.Get("Sec-Websocket-Key"))
	assert.NotContains(t, r.Header, ":protocol")
	res, err := s.ReadResponse()
	require.NoError(t, err)
	assert.Equal(t, 200, res.StatusCode)
	assert.NotContains(t, res.Header, "Upgrade")
}

// haproxy/haproxy#2244: WebSockets over HTTP/2 failed behind a listener that
// reads PROXY headers, because the client left Sec-WebSocket-Version out there.
func TestAPROXYListenerTakesWebSocketsOverHTTP2(t *testing.T) {
	u := testkit.NewUpstream(t)
	s := httptest.NewUnstartedServer(testkit.NewProxy(t, u.URL))
	s.Listener = &proxyproto.Listener{Listener: s.Listener}
	s.EnableHTTP2, s.Config.HTTP2 = true, wsproxy.HTTP2Config()
	s.StartTLS()
	t.Cleanup(s.Close)
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	_, err = proxyproto.HeaderProxyFromAddrs(2, &net.TCPAddr{IP: net.IPv4(203, 0, 113, 7), Port: 4711},
		&net.TCPAddr{IP: net.IPv4(192, 0, 2, 80), Port: 443}).WriteTo(conn)
	require.NoError(t, err)
	config := s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.NextProtos, config.InsecureSkipVerify = []string{"h2"}, true
	f := newFramer(t, tls.Client(conn, config))

	id := f.request(t, true, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":path", "/chat", ":authority", "a")
	assert.Equal(t, "426", f.status(t, id))
	id = f.connect(t, false)
	server := u.Accept(t)
	assert.Equal(t, "203.0.113.7", server.Switch(t, "").Header.Get("X-Real-Ip"))
	assert.Equal(t, "200", f.status(t, id))
	require.NoError(t, f.WriteData(id, false, []byte("hello")))
	server.Expect(t, "hello")
}
