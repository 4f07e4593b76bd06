package headers_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"sync/atomic"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

// A spoiling change makes a request that HTTP/1.1 cannot carry. The error
// contains names, for the operator, and no value called secret.
type spoiling struct {
	change func(*http.Request)
	names  string
}

var (
	spoiledFields = map[string]spoiling{
		"a line break in a value": {func(r *http.Request) { r.Header["X-Token"] = []string{"secret\r\nX-Injected: 1"} }, "X-Token"},
		"a NUL in a value":        {func(r *http.Request) { r.Header["X-Token"] = []string{"fine", "secret\x00"} }, "X-Token"},
		"a DEL in a value":        {func(r *http.Request) { r.Header["X-Token"] = []string{"secret\x7f"} }, "X-Token"},
		"a space in a name":       {func(r *http.Request) { r.Header["X Token"] = []string{"secret"} }, `"X Token"`},
		"a line break in a name":  {func(r *http.Request) { r.Header["X\r\nToken"] = []string{"secret"} }, `"X\r\nToken"`},
		"a colon in a name":       {func(r *http.Request) { r.Header["X-Token:"] = []string{"secret"} }, `"X-Token:"`},
		"an empty name":           {func(r *http.Request) { r.Header[""] = []string{"secret"} }, `""`},
	}
	spoiledHosts = map[string]spoiling{
		"a space in the host":      {func(r *http.Request) { r.Host = "a b" }, `"a b"`},
		"a line break in the host": {func(r *http.Request) { r.Host = "a\r\nX-Injected: 1" }, `"a\r\nX-Injected: 1"`},
	}
	spoiledMethods = map[string]spoiling{
		"a space in the method":      {func(r *http.Request) { r.Method = "GE T" }, `"GE T"`},
		"a line break in the method": {func(r *http.Request) { r.Method = "GET / HTTP/1.1\r\n" }, `"GET / HTTP/1.1\r\n"`},
	}
	spoiledTargets = map[string]spoiling{
		"a space in the query":             {func(r *http.Request) { r.URL.RawQuery = "token=secret HTTP/1.0" }, `"/chat"`},
		"a tab in the query":               {func(r *http.Request) { r.URL.RawQuery = "token=secret\t" }, `"/chat"`},
		"a control character in the query": {func(r *http.Request) { r.URL.RawQuery = "token=secret\x01" }, `"/chat"`},
		"a line break in the query":        {func(r *http.Request) { r.URL.RawQuery = "token=secret\r\nX-Injected: 1" }, `"/chat"`},
	}
)

var (
	plainOrUpgrade = []func(string, ...string) string{testkit.PlainGet, testkit.UpgradeGet}
	plainAlone     = []func(string, ...string) string{testkit.PlainGet}
)

func TestARequestThatARewriteMakesUnsendableIsNotForwarded(t *testing.T) {
	for _, part := range []struct {
		spoiled  map[string]spoiling
		requests []func(string, ...string) string
	}{
		{spoiledFields, plainOrUpgrade}, {spoiledHosts, plainOrUpgrade}, {spoiledMethods, plainOrUpgrade}, {spoiledTargets, plainOrUpgrade},
	} {
		for name, c := range part.spoiled {
			t.Run(name, func(t *testing.T) {
				for _, request := range part.requests {
					checkNotForwarded(t, request("/chat"), c.names, func(h http.Handler) http.Handler { return h },
						wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) { c.change(pr.Out) }))
				}
			})
		}
	}
}

func TestARequestThatMiddlewareMakesUnsendableIsNotForwarded(t *testing.T) {
	for _, part := range []struct {
		spoiled  map[string]spoiling
		requests []func(string, ...string) string
	}{
		{spoiledFields, plainOrUpgrade}, {spoiledTargets, plainOrUpgrade}, {spoiledMethods, plainAlone}, {spoiledHosts, plainAlone},
	} {
		for name, c := range part.spoiled {
			t.Run(name, func(t *testing.T) {
				for _, request := range part.requests {
					checkNotForwarded(t, request("/chat"), c.names, func(h http.Handler) http.Handler {
						return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
							c.change(r)
							h.ServeHTTP(w, r)
						})
					})
				}
			})
		}
	}
}

// checkNotForwarded checks that no server receives a request sent to a proxy
// within middleware, and that no server is marked down.
func checkNotForwarded(t *testing.T, request, names string, middleware func(http.Handler) http.Handler, opts ...wsproxy.Option) {
	t.Helper()
	var dials atomic.Int32
	servers := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: "192.0.2.1:80"}, wsproxy.Server{Addr: "192.0.2.2:80"})
	errs := testkit.NewFailures()
	p := testkit.NewProxy(t, "http://app.example", append(opts, errs.Option(), wsproxy.WithUpstream(servers),
		wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) {
			dials.Add(1)
			return nil, errors.New("dialed")
		}))...)
	res, _ := testkit.Do(t, testkit.Serve(t, middleware(p)), request)
	assert.Equal(t, http.StatusBadGateway, res.StatusCode)
	err := errs.Next(t).Err
	assert.ErrorIs(t, err, wsproxy.ErrUpstream)
	assert.Equal(t, http.StatusBadGateway, wsproxy.StatusCode(err))
	assert.ErrorContains(t, err, names)
	assert.NotContains(t, err.Error(), "secret")
	assert.Zero(t, dials.Load(), "servers dialed")
	for _, server := range servers.Servers() {
		assert.Zero(t, server.Fails, "failures of a server that was not asked")
	}
}
