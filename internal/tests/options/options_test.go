package options_test

import (
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestByDefaultAHandshakeIsSentAsTheRecipeSendsIt(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL)
	raw := u.RawReceived(t, addr, "GET /chat?x=1 HTTP/1.1\r\nhost: server.example.com:8080\r\nUPGRADE: WebSocket\r\nconnection: keep-alive, UPGRADE\r\n"+
		"sec-websocket-key: "+testkit.SampleKey+"\r\nSEC-WEBSOCKET-VERSION: 13\r\nsec-websocket-protocol: chat, superchat\r\nSec-Websocket-Extensions: permessage-deflate\r\n"+
		"cookie: a=1\r\norigin: http://a.example\r\nx-real-ip: 203.0.113.9\r\nx-forwarded-for: 203.0.113.9\r\n\r\n")
	require.Equal(t, "GET /chat?x=1 HTTP/1.1\r\nHost: server.example.com:8080\r\nConnection: upgrade\r\nCookie: a=1\r\nOrigin: http://a.example\r\n"+
		"Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Key: "+testkit.SampleKey+"\r\nSec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n"+
		"X-Forwarded-For: 203.0.113.9, 127.0.0.1\r\nX-Forwarded-Host: server.example.com:8080\r\nX-Forwarded-Proto: http\r\nX-Real-Ip: 127.0.0.1\r\n\r\n", raw)
}

func TestByDefaultTheUpstreamGetsTheFieldsOfTheRecipeAndNoOthers(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL)
	testkit.BothKinds(t, func(t *testing.T, request func(string, ...string) string, header func(http.Header) http.Header) {
		r := u.Received(t, addr, request("/"))
		assert.Equal(t, header(nil), r.Header)
		assert.Equal(t, "server.example.com", r.Host)
	})
}

func TestWithKeepAliveReusesConnectionsForPlainRequests(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL, wsproxy.WithKeepAlive())
	client := testkit.Dial(t, addr)
	var server *testkit.Peer
	for range 3 {
		client.Send(t, testkit.PlainGet("/"))
		if server == nil {
			server = u.Accept(t)
		}
		raw := server.RawHeader(t)
		assert.NotContains(t, strings.ToLower(raw), "connection:")
		server.Send(t, testkit.ResponseOK)
		assert.Equal(t, "ok", testkit.Body(t, client.Response(t)))
	}
	raw := u.RawReceived(t, addr, testkit.UpgradeGet("/"))
	assert.Contains(t, raw, "\r\nConnection: upgrade\r\n", "upgrades are not concerned, and have a connection of their own")
}

func TestWithoutKeepAliveEachPlainRequestUsesANewConnection(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL)
	client := testkit.Dial(t, addr)
	for range 3 {
		client.Send(t, testkit.PlainGet("/", "Connection: keep-alive"))
		server := u.Accept(t)
		assert.Contains(t, server.RawHeader(t), "\r\nConnection: close\r\n")
		server.Send(t, testkit.ResponseOK)
		assert.Equal(t, "ok", testkit.Body(t, client.Response(t)))
		server.ExpectEOF(t, "")
	}
}

func TestWithUpgradesReplacesTheListOfProtocols(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL, wsproxy.WithUpgrades("tcp"), wsproxy.WithUpgrades("spdy/3.1", "websocket"))

	// Another protocol may use any method and skips the checks of RFC 6455.
	client := testkit.Dial(t, addr)
	client.Send(t, "POST /exec HTTP/1.1\r\nHost: a\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n")
	server := u.Accept(t)
	r := server.Request(t)
	assert.Equal(t, "POST", r.Method)
	assert.Equal(t, []string{"spdy/3.1"}, r.Header["Upgrade"])
	server.Send(t, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\n\r\nhello")
	require.Equal(t, http.StatusSwitchingProtocols, client.Response(t).StatusCode)
	client.Expect(t, "hello")
	client.Send(t, "\x00\xff")
	server.Expect(t, "\x00\xff")

	testkit.Tunnel(t, addr, u)
	r = u.Received(t, addr, testkit.PlainGet("/", "Upgrade: tcp", "Connection: Upgrade"))
	assert.Empty(t, r.Header["Upgrade"], "the last list given replaces the others")
}

func TestWithUpgradesChecksWebSocketHandshakesInAnySpelling(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL, wsproxy.WithUpgrades("WebSocket"))
	res, _ := testkit.Do(t, addr, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
	assert.Equal(t, http.StatusMethodNotAllowed, res.StatusCode)
	r := u.Received(t, addr, testkit.UpgradeGet("/", "Connection: Sec-WebSocket-Key"))
	assert.Equal(t, []string{testkit.SampleKey}, r.Header["Sec-Websocket-Key"])
}

func TestWithOriginsRefusesOtherOrigins(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL, wsproxy.WithOrigins("evil.example"), wsproxy.WithOrigins("https://good.example", "*.good.example"))
	for _, lines := range [][]string{{"Origin: https://good.example"}, {"Origin: http://a.good.example"}, nil} {
		u.RawReceived(t, addr, testkit.UpgradeGet("/", lines...))
	}
	for _, lines := range [][]string{{"Origin: https://evil.example"}, {"Origin: null"}, {"Origin:"}, {"Origin: https://good.example", "Origin: https://evil.example"}} {
		res, client := testkit.Do(t, addr, testkit.UpgradeGet("/", lines...))
		assert.Equal(t, http.StatusForbidden, res.StatusCode, "%q", lines)
		assert.Contains(t, testkit.Body(t, res), "origin not allowed")
		client.ExpectEOF(t, "")
	}
	u.RawReceived(t, addr, testkit.PlainGet("/", "Origin: https://evil.example")) // WithOrigins does not apply to plain requests; CORS does
	assert.Empty(t, u.Conns, "a refused upgrade does not reach the upstream")
}

func TestWithHostAndWithTargetHostSetTheHostThatIsSent(t *testing.T) {
	u := testkit.NewUpstream(t)
	for _, test := range []struct {
		name string
		opts []wsproxy.Option
		want string
	}{
		{"WithHost", []wsproxy.Option{wsproxy.WithHost("app.example:8080")}, "app.example:8080"},
		{"WithTargetHost", []wsproxy.Option{wsproxy.WithTargetHost()}, u.Addr},
		{"WithHost after WithTargetHost", []wsproxy.Option{wsproxy.WithTargetHost(), wsproxy.WithHost("app.example")}, "app.example"},
		{"WithTargetHost after WithHost", []wsproxy.Option{wsproxy.WithHost("app.example"), wsproxy.WithTargetHost()}, u.Addr},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, addr := testkit.ServeProxy(t, u.URL, test.opts...)
			testkit.BothKinds(t, func(t *testing.T, request func(string, ...string) string, header func(http.Header) http.Header) {
				r := u.Received(t, addr, request("/"))
				assert.Equal(t, test.want, r.Host)
				assert.Equal(t, header(nil), r.Header, "X-Forwarded-Host stays the client's")
			})
		})
	}
}

func TestWithHeaderSetsAndRemovesFieldsAndOverridesOthers(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL, wsproxy.WithHeader("X-Set", "first"), wsproxy.WithHeader("Cookie", ""), wsproxy.WithHeader("X-Other", "1"),
		wsproxy.WithHeader("x-set", "last"), wsproxy.WithHeader("X-Forwarded-Proto", "https"), wsproxy.WithHeader("X-Real-IP", ""))
	testkit.BothKinds(t, func(t *testing.T, request func(string, ...string) string, header func(http.Header) http.Header) {
		r := u.Received(t, addr, request("/", "X-Set: client", "X-SET: client", "X_Set: alias", "Cookie: a=1", "Connection: X-Set, X-Other", "X-Kept: 1"))
		assert.Equal(t, header(http.Header{"X-Set": {"last"}, "X-Other": {"1"}, "X-Kept": {"1"}, "X-Forwarded-Proto": {"https"}, "X-Real-Ip": nil}), r.Header)
	})
}

func TestWithTrustedProxiesTrustsOnlyNamedPeers(t *testing.T) {
	u := testkit.NewUpstream(t)
	claims := []string{"X-Real-IP: 203.0.113.1", "X-Forwarded-For: 203.0.113.2, 203.0.113.3", "X-Forwarded-For: 10.0.0.1",
		"X-Forwarded-Proto: https", "X-Forwarded-Host: public.example", "X-Forwarded-Port: 443", "Forwarded: for=203.0.113.4"}
	_, trusting := testkit.ServeProxy(t, u.URL, wsproxy.WithTrustedProxies("10.0.0.0/8", "127.0.0.1"))
	_, distrusting := testkit.ServeProxy(t, u.URL, wsproxy.WithTrustedProxies("10.0.0.0/8"))
	testkit.BothKinds(t, func(t *testing.T, request func(string, ...string) string, header func(http.Header) http.Header) {
		assert.Equal(t, header(http.Header{"X-Real-Ip": {"203.0.113.3"}, "X-Forwarded-For": {"203.0.113.2, 203.0.113.3, 10.0.0.1, 127.0.0.1"},
			"X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"public.example"}, "X-Forwarded-Port": {"443"}, "Forwarded": {"for=203.0.113.4"}}),
			u.Received(t, trusting, request("/", claims...)).Header)
		assert.Equal(t, header(nil), u.Received(t, distrusting, request("/", claims...)).Header)
	})
}

func TestWithForwardedAddsTheFieldOfRFC7239(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL, wsproxy.WithForwarded())
	testkit.BothKinds(t, func(t *testing.T, request func(string, ...string) string, header func(http.Header) http.Header) {
		assert.Equal(t, header(http.Header{"Forwarded": {"for=203.0.113.4, for=127.0.0.1;host=server.example.com;proto=http"}}),
			u.Received(t, addr, request("/", "Forwarded: for=203.0.113.4", "Connection: Forwarded")).Header)
	})
}

func TestWithRewriteRunsLastAndCannotChangeTheServerOrTheHandshake(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL+"/base", wsproxy.WithHeader("X-Set", "option"), wsproxy.WithHost("app.example"),
		wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) {
			pr.Out.Header.Set("X-Saw", pr.Out.Header.Get("X-Set")+" "+pr.Out.Header.Get("X-Real-IP")+" "+pr.Out.Host+" "+pr.Out.URL.Path+" "+pr.In.URL.Path)
			pr.Out.Header.Set("X-Set", "rewrite")
			pr.Out.Header.Del("X-Forwarded-For")
			pr.Out.URL.Scheme, pr.Out.URL.Host = "https", "evil.example:1"
			pr.Out.URL.Path, pr.Out.URL.RawQuery = "/rewritten", "q"
			pr.Out.Host = "rewritten.example"
			if pr.Out.Header.Get("Upgrade") != "" {
				pr.Out.Header.Set("Sec-WebSocket-Key", "bad")
				pr.Out.Header.Del("Sec-WebSocket-Version")
				pr.Out.Header.Set("Upgrade", "h2c")
				pr.Out.Header.Set("Connection", "close")
			}
		}))
	testkit.BothKinds(t, func(t *testing.T, request func(string, ...string) string, header func(http.Header) http.Header) {
		r := u.Received(t, addr, request("/path?a"))
		assert.Equal(t, header(http.Header{"X-Saw": {"option 127.0.0.1 app.example /base/path /path"}, "X-Set": {"rewrite"}, "X-Forwarded-For": nil}), r.Header)
		assert.Equal(t, "/rewritten?q", r.RequestURI)
		assert.Equal(t, "rewritten.example", r.Host)
	})
}

func TestWithPlainHandlerReceivesPlainRequestsUnchanged(t *testing.T) {
	u := testkit.NewUpstream(t)
	requests := make(chan *http.Request, 1)
	_, addr := testkit.ServeProxy(t, u.URL+"/base", wsproxy.WithPlainHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests <- r
		w.WriteHeader(http.StatusTeapot)
	})))
	res, _ := testkit.Do(t, addr, testkit.PlainGet("/a%2Fb?x=%zz", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk", "Connection: Upgrade, HTTP2-Settings, X-Hop", "X-Hop: 1", "X-Real-IP: 203.0.113.9"))
	assert.Equal(t, http.StatusTeapot, res.StatusCode)
	r := <-requests
	assert.Equal(t, http.Header{"Connection": {"X-Hop"}, "X-Hop": {"1"}, "X-Real-Ip": {"203.0.113.9"}}, r.Header, "less an upgrade that is not to be forwarded")
	assert.Equal(t, "/a%2Fb?x=%zz", r.RequestURI)
	assert.Equal(t, "/a%2Fb", r.URL.EscapedPath())
	testkit.Tunnel(t, addr, u)
}
