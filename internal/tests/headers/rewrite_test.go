package headers_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

func TestTheRequestTargetIsForwardedByteForByteAfterTheTargetsPath(t *testing.T) {
	parameters := "p0=0"
	for range 9_999 {
		parameters += "&p=%2F+%20"
	}
	u := testkit.NewUpstream(t)
	for _, test := range []struct{ base, uri, want string }{
		{"", "/", "/"},
		{"/", "/", "/"},
		{"", "/chat", "/chat"},
		{"/base", "/chat", "/base/chat"},
		{"/base/", "/chat", "/base/chat"},
		{"/base/", "/chat/", "/base/chat/"},
		{"/base", "/", "/base/"},
		{"/base", "//chat//", "/base//chat//"},
		{"", "//host/chat", "//host/chat"},
		{"", "/a%2Fb%2fc", "/a%2Fb%2fc"},
		{"/x%2Fy", "/a%2fb", "/x%2Fy/a%2fb"},
		{"/x%2Fy/", "/ab", "/x%2Fy/ab"},
		{"/base", "/%41%7e%c3%A9/!$&'()*+,;=:@~", "/base/%41%7e%c3%A9/!$&'()*+,;=:@~"},
		{"", "/a;b=1?c;d=2", "/a;b=1?c;d=2"},
		{"", "/?", "/?"},
		{"", "/a?", "/a?"},
		{"", "/a??b?", "/a??b?"},
		{"", "/a?x=1&x=2;y=%zz&%&=&&", "/a?x=1&x=2;y=%zz&%&=&&"},
		{"", `/a?"<>\^{|}[]` + "\xff", `/a?"<>\^{|}[]` + "\xff"},
		{"?k=1", "/a", "/a?k=1"},
		{"?k=1", "/a?", "/a?k=1"},
		{"/base?k=%zz;", "/a?x=%zz;", "/base/a?k=%zz;&x=%zz;"},
		{"", "/a?" + parameters, "/a?" + parameters},
		{"/base", "http://other.example/chat?x", "/base/chat?x"},
		{"/base", "http://user:pass@other.example?x", "/base/?x"},
	} {
		name := test.base + " and " + test.uri
		t.Run(name[:min(len(name), 80)], func(t *testing.T) {
			_, addr := testkit.ServeProxy(t, u.URL+test.base)
			testkit.BothKinds(t, func(t *testing.T, request func(string, ...string) string, _ func(http.Header) http.Header) {
				line, _, _ := strings.Cut(u.RawReceived(t, addr, request(test.uri)), "\r\n")
				assert.Equal(t, "GET "+test.want+" HTTP/1.1", line)
			})
		})
	}
}

// viaReverseProxy serves an httputil.ReverseProxy that uses p's header policy.
func viaReverseProxy(t testing.TB, p *wsproxy.Proxy) string {
	t.Helper()
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: -1}
	t.Cleanup(transport.CloseIdleConnections)
	return testkit.Serve(t, &httputil.ReverseProxy{Rewrite: p.Rewrite, Transport: transport})
}

func TestRewriteWithinAReverseProxySendsWhatTheProxySends(t *testing.T) {
	u := testkit.NewUpstream(t)
	for _, test := range []struct {
		name string
		opts []wsproxy.Option
	}{
		{"no options", nil},
		{"keepalive", []wsproxy.Option{wsproxy.WithKeepAlive()}},
		{"trust", []wsproxy.Option{wsproxy.WithTrustedProxies("127.0.0.1"), wsproxy.WithForwarded()}},
		{"distrust", []wsproxy.Option{wsproxy.WithTrustedProxies("10.0.0.1"), wsproxy.WithForwarded()}},
		{"hosts and fields", []wsproxy.Option{wsproxy.WithHost("app.example"), wsproxy.WithHeader("X-Set", "1"), wsproxy.WithHeader("Cookie", "")}},
		{"the target's host", []wsproxy.Option{wsproxy.WithTargetHost()}},
		{"a rewrite", []wsproxy.Option{wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) { pr.Out.Header.Set("X-Saw", pr.Out.Header.Get("X-Real-IP")) })}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, addr := testkit.ServeProxy(t, u.URL+"/base?k=1", test.opts...)
			own := viaReverseProxy(t, p)
			testkit.BothKinds(t, func(t *testing.T, request func(string, ...string) string, _ func(http.Header) http.Header) {
				asked := request("/a%2Fb?x=%zz;y&z", "User-Agent: x", "Cookie: a=1", "X-Set: client", "X_Set: alias", "X-Hop: 1", "Connection: X-Hop, X-Forwarded-For",
					"X-Real-IP: 203.0.113.1", "X_Real_IP: 203.0.113.1", "X-Forwarded-For: 203.0.113.2, 203.0.113.3", "X-Forwarded-Proto: https", "X-Forwarded-Port: 443", "Forwarded: for=203.0.113.4",
					"Keep-Alive: x", "Proxy-Authorization: x", "Sec-WebSocket-Protocol: chat", "Sec-WebSocket-Extensions: permessage-deflate")
				want, got := u.Received(t, addr, asked), u.Received(t, own, asked)
				assert.Equal(t, want.Header, got.Header)
				assert.Equal(t, want.Host, got.Host)
				assert.Equal(t, want.RequestURI, got.RequestURI)
			})
		})
	}
}

func TestRewriteWithinAReverseProxyForwardsOnlyAllowedUpgrades(t *testing.T) {
	u := testkit.NewUpstream(t)
	p := testkit.NewProxy(t, u.URL)
	addr := viaReverseProxy(t, p)
	for _, lines := range [][]string{
		{"Upgrade: h2c", "HTTP2-Settings: AAMAAABk", "Connection: Upgrade, HTTP2-Settings"},
		{"Upgrade: h2c", "HTTP2-Settings: AAMAAABk", "Connection: Upgrade"},
		{"Upgrade: spdy/3.1", "Connection: Upgrade"},
		{"Upgrade: websocket"},
	} {
		raw := strings.ToLower(u.RawReceived(t, addr, testkit.PlainGet("/", lines...)))
		assert.NotContains(t, raw, "upgrade", "for %q", lines)
		assert.NotContains(t, raw, "http2-settings", "for %q", lines)
		assert.Contains(t, raw, "\r\nconnection: close\r\n", "for %q", lines)
	}
	for _, lines := range [][]string{{"Upgrade: websocket, h2c"}, {"Upgrade: h2c", "Upgrade: websocket"}, {"Upgrade: WebSocket"}} {
		raw := u.RawReceived(t, addr, testkit.PlainGet("/", append(lines, "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABk")...))
		assert.Contains(t, raw, "\r\nUpgrade: websocket\r\n", "for %q", lines)
		assert.NotContains(t, strings.ToLower(raw), "h2c", "for %q", lines)
		assert.NotContains(t, strings.ToLower(raw), "http2-settings", "for %q", lines)
	}
	client, server := testkit.Tunnel(t, addr, u)
	client.Send(t, "ping")
	server.Expect(t, "ping")
}

func TestARewriteCanReplaceTheRequest(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL, wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) {
		out, _ := http.NewRequest(pr.Out.Method, pr.Out.URL.String(), nil)
		out.Header = pr.Out.Header
		pr.Out = out
	}))
	testkit.BothKinds(t, func(t *testing.T, request func(string, ...string) string, _ func(http.Header) http.Header) {
		assert.Equal(t, "/a", u.Received(t, addr, request("/a")).RequestURI)
	})
}

type contextKey struct{}

func TestTheContextThatARewriteSetsReachesTheTransportOfAReverseProxy(t *testing.T) {
	p := testkit.NewProxy(t, "http://app.example", wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) {
		pr.Out = pr.Out.WithContext(context.WithValue(pr.Out.Context(), contextKey{}, "set"))
	}))
	var got any
	own := &httputil.ReverseProxy{Rewrite: p.Rewrite, Transport: transportFunc(func(r *http.Request) (*http.Response, error) {
		got = r.Context().Value(contextKey{})
		return &http.Response{StatusCode: http.StatusNoContent, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
	})}
	own.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest("GET", "/", nil))
	assert.Equal(t, "set", got)
}

type transportFunc func(*http.Request) (*http.Response, error)

func (f transportFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestTheClientsRequestIsNotModified(t *testing.T) {
	u := testkit.NewUpstream(t)
	p := testkit.NewProxy(t, u.URL+"/base?k=1", wsproxy.WithHeader("X-Set", "1"), wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) {
		for _, values := range pr.Out.Header {
			values[0] = "changed"
		}
		pr.Out.URL.Path, pr.Out.URL.RawQuery, pr.Out.Host = "/changed", "changed", "changed.example"
	}))
	left := make(chan [2]*http.Request, 1)
	addr := testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		before := r.Clone(context.Background())
		p.ServeHTTP(w, r)
		left <- [2]*http.Request{before, r}
	}))
	testkit.BothKinds(t, func(t *testing.T, request func(string, ...string) string, _ func(http.Header) http.Header) {
		u.Received(t, addr, request("/a%2Fb?x=1", "X-Hop: 1", "Connection: X-Hop", "X-Forwarded-For: 203.0.113.1", "X-Many: 1", "X-Many: 2", "Te: trailers"))
		got := testkit.Within(t, left, "ServeHTTP does not return")
		assert.Equal(t, got[0].Header, got[1].Header)
		assert.Equal(t, got[0].URL, got[1].URL)
		assert.Equal(t, got[0].Host, got[1].Host)
		assert.Equal(t, got[0].RequestURI, got[1].RequestURI)
	})
}

// With a nil value, middleware keeps ReverseProxy from adding a field, and
// http.Header.Clone keeps it nil. The copy for an upgrade made it empty.
func TestRewriteSeesTheNilValuesOfMiddleware(t *testing.T) {
	u := testkit.NewUpstream(t)
	values := make(chan []string, 1)
	p, _ := testkit.ServeProxy(t, u.URL, wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) { values <- pr.Out.Header["X-Suppressed"] }))
	addr := testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header["X-Suppressed"] = nil
		p.ServeHTTP(w, r)
	}))
	testkit.BothKinds(t, func(t *testing.T, request func(string, ...string) string, _ func(http.Header) http.Header) {
		u.RawReceived(t, addr, request("/"))
		assert.Nil(t, <-values)
	})
}
