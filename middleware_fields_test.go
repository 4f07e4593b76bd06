package wsproxy_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// httputil clears the whole header after a 1xx.
func TestInformationalAnswersLeaveMiddlewaresFieldsAlone(t *testing.T) {
	failing := wsproxy.WithModifyResponse(func(*http.Response) error { return errors.New("not this one") })
	for name, tr := range map[string]struct {
		opts   []wsproxy.Option
		answer string
		status int
	}{
		"before a response": {nil, sampleOK, 200},
		"before an error":   {[]wsproxy.Option{failing}, sampleOK, 502},
		"before a refusal":  {nil, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", 403},
	} {
		for kind, request := range map[string]string{"plain": plainRequest, "upgrade": sampleRequest} {
			t.Run(name+", "+kind, func(t *testing.T) {
				u := newUpstream(t)
				hint := "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
				u.answers(hint + hint + tr.answer)
				p := newProxy(t, u.url, tr.opts...)
				s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Add("Vary", "Origin")
					w.Header().Add("Vary", "Accept")
					p.ServeHTTP(w, r)
				}))
				t.Cleanup(s.Close)
				client := dial(t, s.Listener.Addr().String())
				client.send(t, request)
				for range 2 {
					hint := client.answer(t)
					assert.Equal(t, 103, hint.StatusCode)
					assert.Equal(t, []string{"</a.css>"}, hint.Header["Link"])
				}
				res := client.answer(t)
				assert.Equal(t, tr.status, res.StatusCode)
				assert.Equal(t, []string{"Origin", "Accept"}, res.Header["Vary"])
				assert.NotContains(t, res.Header, "Link")
			})
		}
	}
}

// An answer's Location is relative to what was asked, and not to one server.
func TestWithModifyResponseSeesTheRequest(t *testing.T) {
	u := newUpstream(t)
	u.answers("HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n")
	group, err := wsproxy.NewUpstream(wsproxy.RoundRobin(), wsproxy.Server{Addr: u.addr})
	require.NoError(t, err)
	seen := make(chan string, 1)
	_, addr := serveProxy(t, "http://group/base", wsproxy.WithUpstream(group), wsproxy.WithModifyResponse(func(res *http.Response) error {
		location, err := res.Location()
		seen <- fmt.Sprint(res.Request.Method, " ", res.Request.URL, " ", location, " ", err)
		return nil
	}))
	for _, request := range []string{plainRequest, sampleRequest} {
		ask(t, addr, request)
		assert.Regexp(t, "^GET http://group/base/[a-z]* http://group/login <nil>$", <-seen)
	}
}
