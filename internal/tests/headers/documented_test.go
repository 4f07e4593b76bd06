package headers_test

import (
	"context"
	"net/http"
	"net/http/httputil"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

// SECURITY.md and the doc comments name the client's fields that the proxy
// removes, for upgrades and plain requests alike. They once said "every
// forwarding field".

func TestTheDocumentedForwardingFieldsAreRemoved(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, open := testkit.ServeProxy(t, u.URL)
	_, distrusting := testkit.ServeProxy(t, u.URL, wsproxy.WithTrustedProxies("192.0.2.1"))
	removed := []string{
		"Forwarded", "X-Real-IP", "X-Forwarded-Host", "X-Forwarded-Proto",
		"X-Forwarded-Port", "X-Forwarded-Prefix", "X-Forwarded-Server", "X-Forwarded-Ssl", "X-Forwarded-User", "X-Forwarded-Uri",
		"X_Real_IP", "X.Forwarded.For", "X_Forwarded-Proto", "X_Forwarded_Port",
	}
	passing := []string{
		"True-Client-IP", "X-Client-IP", "Client-IP", "CF-Connecting-IP", "Fastly-Client-IP", "X-Cluster-Client-IP", "X-Envoy-External-Address",
		"X-Original-URL", "X-Original-Host", "X-Original-Forwarded-For", "X-Rewrite-URL", "X-Host", "X-Scheme", "X-Forwarded", "Via", "Front-End-Https",
	}
	var claims []string
	for _, name := range append(removed, passing...) {
		claims = append(claims, name+": claim")
	}
	testkit.BothKinds(t, func(t *testing.T, request func(string, ...string) string, header func(http.Header) http.Header) {
		want := http.Header{}
		for _, name := range passing {
			want[http.CanonicalHeaderKey(name)] = []string{"claim"}
		}
		assert.Equal(t, header(want), u.Received(t, distrusting, request("/", append(claims, "X-Forwarded-For: claim")...)).Header)
		want["X-Forwarded-For"] = []string{"claim, 127.0.0.1"}
		assert.Equal(t, header(want), u.Received(t, open, request("/", append(claims, "X-Forwarded-For: claim")...)).Header)
	})
}

// A client may name any field in Connection (RFC 9110, section 7.6.1), and a
// proxy that obeys cannot tell who set it: httputil.ReverseProxy does the same.
func TestConnectionRemovesFieldsOfMiddlewareButNoneOfWithRewrite(t *testing.T) {
	type user struct{}
	u := testkit.NewUpstream(t)
	p := testkit.NewProxy(t, u.URL, wsproxy.WithHeader("X-Fixed", "proxy"), wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) {
		pr.Out.Header.Set("X-User", pr.In.Context().Value(user{}).(string))
	}))
	addr := testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("X-Middleware", "alice")
		p.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), user{}, "alice")))
	}))
	testkit.BothKinds(t, func(t *testing.T, request func(string, ...string) string, header func(http.Header) http.Header) {
		kept := http.Header{"X-Middleware": {"alice"}, "X-User": {"alice"}, "X-Fixed": {"proxy"}}
		assert.Equal(t, header(kept), u.Received(t, addr, request("/")).Header)
		delete(kept, "X-Middleware")
		assert.Equal(t, header(kept), u.Received(t, addr, request("/", "X-User: mallory", "Connection: X-Middleware, X-User, X-Fixed")).Header)
	})
}
