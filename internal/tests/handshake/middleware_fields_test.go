package handshake_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// httputil clears the whole header after a 1xx.
func TestInformationalResponsesKeepTheFieldsOfMiddleware(t *testing.T) {
	failing := wsproxy.WithModifyResponse(func(*http.Response) error { return errors.New("not this one") })
	for name, tr := range map[string]struct {
		opts     []wsproxy.Option
		response string
		status   int
	}{
		"before a response": {nil, testkit.ResponseOKClose, 200},
		"before an error":   {[]wsproxy.Option{failing}, testkit.ResponseOKClose, 502},
		"before a refusal":  {nil, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", 403},
	} {
		for kind, request := range map[string]string{"plain": testkit.PlainRequest, "upgrade": testkit.SampleRequest} {
			t.Run(name+", "+kind, func(t *testing.T) {
				u := testkit.NewUpstream(t)
				hint := "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
				u.Respond(hint + hint + tr.response)
				p := testkit.NewProxy(t, u.URL, tr.opts...)
				s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Add("Vary", "Origin")
					w.Header().Add("Vary", "Accept")
					p.ServeHTTP(w, r)
				}))
				t.Cleanup(s.Close)
				client := testkit.Dial(t, s.Listener.Addr().String())
				client.Send(t, request)
				for range 2 {
					hint := client.Response(t)
					assert.Equal(t, 103, hint.StatusCode)
					assert.Equal(t, []string{"</a.css>"}, hint.Header["Link"])
				}
				res := client.Response(t)
				assert.Equal(t, tr.status, res.StatusCode)
				assert.Equal(t, []string{"Origin", "Accept"}, res.Header["Vary"])
				assert.NotContains(t, res.Header, "Link")
			})
		}
	}
}

// A response's Location is relative to the request, not to one server.
func TestWithModifyResponseSeesTheRequest(t *testing.T) {
	u := testkit.NewUpstream(t)
	u.Respond("HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n")
	group, err := wsproxy.NewUpstream(wsproxy.RoundRobin(), wsproxy.Server{Addr: u.Addr})
	require.NoError(t, err)
	seen := make(chan string, 1)
	_, addr := testkit.ServeProxy(t, "http://group/base", wsproxy.WithUpstream(group), wsproxy.WithModifyResponse(func(res *http.Response) error {
		location, err := res.Location()
		seen <- fmt.Sprint(res.Request.Method, " ", res.Request.URL, " ", location, " ", err)
		return nil
	}))
	for _, request := range []string{testkit.PlainRequest, testkit.SampleRequest} {
		testkit.Do(t, addr, request)
		assert.Regexp(t, "^GET http://group/base/[a-z]* http://group/login <nil>$", <-seen)
	}
}
