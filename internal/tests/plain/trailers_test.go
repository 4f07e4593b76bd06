package plain_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An upstream may merge trailer fields into the header (CVE-2013-5704).
func TestTrailersCannotAddFieldsThatAHeaderCouldNot(t *testing.T) {
	u := testkit.NewUpstream(t)
	p, addr := testkit.ServeProxy(t, u.URL, wsproxy.WithHeader("X-Set", "by the proxy"), wsproxy.WithHeader("X-Unset", ""))
	own := httptest.NewServer(&httputil.ReverseProxy{Rewrite: p.Rewrite})
	t.Cleanup(own.Close)
	for name, addr := range map[string]string{"of a Proxy": addr, "of a ReverseProxy with its Rewrite": own.Listener.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			client := testkit.Dial(t, addr)
			client.Send(t, "POST / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Hop\r\nTrailer: X-Sum, X-Real-IP\r\nTransfer-Encoding: chunked\r\n\r\n"+
				"2\r\nup\r\n0\r\nX-Sum: 41\r\nX-Late: 42\r\n"+strings.Join([]string{
				"X-Real-IP: 192.0.2.1", "X_Real_IP: 192.0.2.1", "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Prefix: /admin", "Forwarded: for=192.0.2.1",
				"Host: b", "Connection: keep-alive", "Upgrade: h2c", "TE: trailers", "Sec-WebSocket-Key: x", "Expect: 100-continue",
				"X-Hop: 1", "X-Set: by the client", "X_Set: by the client", "X-Unset: by the client",
			}, "\r\n")+"\r\n\r\n")
			req := u.Accept(t).Request(t)
			assert.Equal(t, http.Header{"X-Sum": nil}, req.Trailer, "announced")
			up, err := io.ReadAll(req.Body)
			require.NoError(t, err)
			assert.Equal(t, "up", string(up))
			assert.Equal(t, http.Header{"X-Sum": {"41"}}, req.Trailer)
		})
	}
}

// sendTrailers sends fields in the trailer, announced or not, and returns the
// trailer that u receives.
func sendTrailers(t *testing.T, u *testkit.Upstream, addr string, lines []string, announced string, fields ...string) http.Header {
	t.Helper()
	client := testkit.Dial(t, addr)
	client.Send(t, "POST / HTTP/1.1\r\nHost: a\r\n"+strings.Join(append(lines, ""), "\r\n")+announced+"Transfer-Encoding: chunked\r\n\r\n"+
		"2\r\nup\r\n0\r\n"+strings.Join(fields, "\r\n")+"\r\n\r\n")
	server := u.Accept(t)
	req := server.Request(t)
	_, err := io.ReadAll(req.Body)
	require.NoError(t, err)
	server.Send(t, testkit.ResponseOKClose)
	assert.Equal(t, 200, client.Response(t).StatusCode)
	return req.Trailer
}

// A client's trailer field with the name of a field that WithRewrite or
// middleware set reached the upstream beside that field.
func TestATrailerCannotRepeatAFieldThatIsSet(t *testing.T) {
	u := testkit.NewUpstream(t)
	rewritten := testkit.NewProxy(t, u.URL, wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) {
		pr.Out.Header.Set("X-User", "alice")
		delete(pr.Out.Trailer, "X-Dropped")
	}))
	plain := testkit.NewProxy(t, u.URL)
	for name, h := range map[string]http.Handler{
		"by WithRewrite": rewritten,
		"by WithRewrite in the user's ReverseProxy": &httputil.ReverseProxy{Rewrite: rewritten.Rewrite},
		"by a ReverseProxy's Rewrite": &httputil.ReverseProxy{Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.Header.Set("X-User", "alice")
			plain.Rewrite(pr)
			delete(pr.Out.Trailer, "X-Dropped")
		}},
		"by middleware": http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set("X-User", "alice")
			delete(r.Trailer, "X-Dropped")
			plain.ServeHTTP(w, r)
		}),
	} {
		t.Run(name, func(t *testing.T) {
			addr := testkit.Serve(t, h)
			fields := []string{"X-Sum: 41", "X-User: mallory", "X_User: mallory", "X-Dropped: 1"}
			const announced = "Trailer: X-Sum, X-User, X_User, X-Dropped\r\n"
			assert.Equal(t, http.Header{"X-Sum": {"41"}}, sendTrailers(t, u, addr, nil, announced, fields...))
			assert.Equal(t, http.Header{"X-Sum": {"41"}}, sendTrailers(t, u, addr, []string{"Connection: X-User"}, announced, fields...),
				"a field that the client has removed from the header")
		})
	}
}

func TestAnUnannouncedTrailerIsNotForwarded(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL)
	assert.Equal(t, http.Header{"X-Sum": {"41"}}, sendTrailers(t, u, addr, nil, "Trailer: X-Sum\r\n", "X-Sum: 41", "X-Late: 42"))
	assert.Empty(t, sendTrailers(t, u, addr, nil, "", "X-Late: 42"))
}
