package headers_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path"
	"regexp"
	"strings"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// /websocket/%2e%2e/admin matched the prefix of a route, and on the upstream it
// lies outside of it. nginx refuses such paths only if they leave the root.
func TestAPathWithADotSegmentIsRefused(t *testing.T) {
	u := testkit.NewUpstream(t)
	errs := testkit.NewFailures()
	_, addr := testkit.ServeProxy(t, u.URL+"/base")
	_, handled := testkit.ServeProxy(t, u.URL+"/base", errs.Option())
	for _, target := range []string{
		"/websocket/%2e%2e/admin", "/websocket/../admin", "/websocket/..%2fadmin", `/websocket/..%5cadmin`, "/websocket/..;x/admin",
		"/websocket/.", "/%2e/", "http://a/websocket/../admin", "x:/../y", "x:../y", "x:%2e%2e/y", "//../a",
	} {
		for _, request := range []func(string, ...string) string{testkit.PlainGet, testkit.UpgradeGet} {
			res, _ := testkit.Do(t, addr, request(target))
			require.Equal(t, 400, res.StatusCode, target)
			assert.Contains(t, testkit.Body(t, res), `want no segment "." or ".."`)
			res, _ = testkit.Do(t, handled, request(target))
			require.Equal(t, 400, res.StatusCode, target)
			err := errs.Next(t).Err
			assert.Equal(t, 400, wsproxy.StatusCode(err))
			assert.NotErrorIs(t, err, wsproxy.ErrUpstream)
		}
	}
	assert.Empty(t, u.Conns, "a refused path reached the upstream")
}

func TestASegmentThatOnlyLooksLikeADotSegmentIsForwarded(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL+"/base/../x")
	for _, target := range []string{"/.well-known/x", "/..a/b../...", "/%252e%252e/a", "/a?/../b", "/a;b=../c"} {
		for _, request := range []func(string, ...string) string{testkit.PlainGet, testkit.UpgradeGet} {
			line, _, _ := strings.Cut(u.RawReceived(t, addr, request(target)), "\r\n")
			assert.Equal(t, "GET /base/../x"+target+" HTTP/1.1", line, "the target's own path is as configured")
		}
	}
}

// A user's plain handler may handle dot segments as it likes.
func TestAPlainHandlerGetsPathsWithDots(t *testing.T) {
	page, u := testkit.NewUpstream(t), testkit.NewUpstream(t)
	to, err := url.Parse(page.URL)
	require.NoError(t, err)
	_, addr := testkit.ServeProxy(t, u.URL, wsproxy.WithPlainHandler(&httputil.ReverseProxy{
		Transport: &http.Transport{DisableKeepAlives: true},
		Rewrite:   func(pr *httputil.ProxyRequest) { pr.SetURL(to) },
	}))
	assert.Contains(t, page.RawReceived(t, addr, testkit.PlainGet("/a/%2e%2e/b")), "GET /a/%2e%2e/b ")
	res, _ := testkit.Do(t, addr, testkit.UpgradeGet("/a/%2e%2e/b"))
	assert.Equal(t, 400, res.StatusCode)
}

// GET * went upstream as GET /*. Only OPTIONS may use it (RFC 9112, section
// 3.2.4), and net/http responds to that itself.
func TestOnlyOPTIONSMayRequestAnAsterisk(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL)
	for _, request := range []string{testkit.PlainGet("*"), testkit.UpgradeGet("*"), strings.Replace(testkit.PlainGet("*"), "GET", "POST", 1)} {
		res, _ := testkit.Do(t, addr, request)
		assert.Equal(t, 400, res.StatusCode)
		assert.Contains(t, testkit.Body(t, res), `target "*", want a path`)
	}
	assert.Empty(t, u.Conns)
}

// An accepted path stays below the target's, however a server resolves it.
func FuzzDotSegments(f *testing.F) {
	for _, sent := range []string{
		"/", "//a///b", "/...", "/..a/a../.a/a./a..b", "/%2ea/a%2E/%2e%2e%2e", "/a%2fb%5Cc", `/a\b`, "/a;b/;..", "/;../a", "/%252e%252e/a", "/%c0%ae%c0%ae/a", "/%2e%20/a",
		"/.", "/..", "/a/./b", "/a/../b", "//..//", "/%2E%2e/a", "/.%2e/a", "/a/..%2fadmin", `/a/..\admin`, "/a%5C..", "/..;a=b/admin", "/%2e%2e%3Ba%2fadmin", "/;/../a", "/a%5c%2e%2e;x=%5cadmin",
		"x:../y", "x:/../y", "http://a/../y?/../",
	} {
		f.Add(sent)
	}
	parameters := regexp.MustCompile(`;[^/]*`)
	var out *url.URL
	p := testkit.NewProxy(f, "http://upstream.example/base",
		wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) { out = pr.Out.URL }),
		wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("not dialed") }))
	f.Fuzz(func(t *testing.T, sent string) {
		u, err := url.ParseRequestURI(sent)
		if err != nil {
			return
		}
		out = nil
		in := &http.Request{Method: "GET", URL: u, RequestURI: sent, ProtoMajor: 1, ProtoMinor: 1, Host: "a", Header: http.Header{}}
		p.ServeHTTP(httptest.NewRecorder(), in)
		if out == nil {
			return // refused
		}
		wire, err := url.ParseRequestURI(out.RequestURI())
		require.NoError(t, err)
		seen := strings.ReplaceAll(wire.Path, `\`, "/")
		for _, read := range []string{seen, parameters.ReplaceAllString(seen, "")} {
			require.True(t, strings.HasPrefix(path.Clean(read)+"/", "/base/"), "%q leaves the target's path as %q", sent, read)
		}
	})
}
