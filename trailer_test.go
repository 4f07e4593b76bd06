package wsproxy_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"testing"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An upstream may merge trailer fields into the header (CVE-2013-5704).
func TestTrailersCannotBringWhatAHeaderCouldNot(t *testing.T) {
	u := newUpstream(t)
	p, addr := serveProxy(t, u.url, wsproxy.WithHeader("X-Set", "by the proxy"), wsproxy.WithHeader("X-Unset", ""))
	own := httptest.NewServer(&httputil.ReverseProxy{Rewrite: p.Rewrite})
	t.Cleanup(own.Close)
	for name, addr := range map[string]string{"of a Proxy": addr, "of a ReverseProxy with its Rewrite": own.Listener.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			client := dial(t, addr)
			client.send(t, "POST / HTTP/1.1\r\nHost: a\r\nConnection: close, X-Hop\r\nTrailer: X-Sum, X-Real-IP\r\nTransfer-Encoding: chunked\r\n\r\n"+
				"2\r\nup\r\n0\r\nX-Sum: 41\r\nX-Late: 42\r\n"+strings.Join([]string{
				"X-Real-IP: 192.0.2.1", "X_Real_IP: 192.0.2.1", "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Prefix: /admin", "Forwarded: for=192.0.2.1",
				"Host: b", "Connection: keep-alive", "Upgrade: h2c", "TE: trailers", "Sec-WebSocket-Key: x", "Expect: 100-continue",
				"X-Hop: 1", "X-Set: by the client", "X_Set: by the client", "X-Unset: by the client",
			}, "\r\n")+"\r\n\r\n")
			req := u.accept(t).request(t)
			assert.Equal(t, http.Header{"X-Sum": nil}, req.Trailer, "announced")
			up, err := io.ReadAll(req.Body)
			require.NoError(t, err)
			assert.Equal(t, "up", string(up))
			assert.Equal(t, http.Header{"X-Sum": {"41"}, "X-Late": {"42"}}, req.Trailer)
		})
	}
}
