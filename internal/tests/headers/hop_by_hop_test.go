package headers_test

import (
	"net/http"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

// httputil forwards hop-by-hop fields of a 1xx (golang/go#81319).
func TestInformationalResponsesLoseHopByHopFields(t *testing.T) {
	for kind, request := range map[string]string{"plain": testkit.PlainRequest, "upgrade": testkit.SampleRequest} {
		t.Run(kind, func(t *testing.T) {
			u := testkit.NewUpstream(t)
			u.Respond("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\nConnection: X-Hop\r\nX-Hop: 1\r\nUpgrade: h2c\r\nKeep-Alive: timeout=5\r\n" +
				"Proxy-Authenticate: Basic\r\nProxy-Connection: close\r\nTE: trailers\r\nTrailer: X\r\n\r\n" + testkit.ResponseOKClose)
			p := testkit.NewProxy(t, u.URL)
			client := testkit.Dial(t, testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("X-Middleware", "1")
				p.ServeHTTP(w, r)
			})))
			client.Send(t, request)
			hint := client.Response(t)
			assert.Equal(t, 103, hint.StatusCode)
			hint.Header.Del("X-Middleware")
			assert.Equal(t, http.Header{"Link": {"</a.css>"}}, hint.Header)
			res := client.Response(t)
			assert.Equal(t, 200, res.StatusCode)
			assert.Equal(t, []string{"1"}, res.Header["X-Middleware"])
		})
	}
}

// The field says which protocols a server requires (RFC 9110, section 15.5.22).
// httputil removes it.
func TestA426KeepsItsUpgradeField(t *testing.T) {
	u := testkit.NewUpstream(t)
	headers := u.Respond("HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade, X-Hop\r\nX-Hop: 1\r\nSec-WebSocket-Version: 13\r\nContent-Length: 2\r\n\r\nno")
	seen := make(chan http.Header, 1)
	_, addr := testkit.ServeProxy(t, u.URL, wsproxy.WithModifyResponse(func(res *http.Response) error {
		seen <- res.Header.Clone()
		return nil
	}))
	for kind, request := range map[string]string{"plain": testkit.PlainRequest, "upgrade": testkit.SampleRequest} {
		t.Run(kind, func(t *testing.T) {
			client := testkit.Dial(t, addr)
			client.Send(t, request)
			<-headers
			response := client.RawHeader(t) // ReadResponse would drop Connection: close
			assert.Regexp(t, "^HTTP/1.1 426 ", response)
			assert.Contains(t, response, "\r\nUpgrade: websocket\r\n")
			assert.Contains(t, response, "\r\nConnection: Upgrade\r\n", "the option that goes with the field")
			assert.Contains(t, response, "\r\nSec-Websocket-Version: 13\r\n")
			assert.NotContains(t, response, "X-Hop")
			client.Expect(t, "no")
			assert.NotContains(t, <-seen, "X-Hop")
		})
	}
	t.Run("the proxy's own", func(t *testing.T) {
		client := testkit.Dial(t, addr)
		client.Send(t, testkit.SampleRequestWith(t, "Version: 13", "Version: 8"))
		response := client.RawHeader(t)
		assert.Regexp(t, "^HTTP/1.1 426 ", response)
		assert.Contains(t, response, "\r\nUpgrade: websocket\r\n")
		assert.Contains(t, response, "\r\nConnection: Upgrade\r\n")
	})
}

func TestAnotherStatusLosesItsUpgradeField(t *testing.T) {
	u := testkit.NewUpstream(t)
	u.Respond("HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n")
	_, addr := testkit.ServeProxy(t, u.URL)
	for _, request := range []string{testkit.PlainRequest, testkit.SampleRequest} {
		res, _ := testkit.Do(t, addr, request)
		assert.Equal(t, 200, res.StatusCode)
		assert.NotContains(t, res.Header, "Upgrade")
	}
}
