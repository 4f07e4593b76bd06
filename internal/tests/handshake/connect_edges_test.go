package handshake_test

import (
	"net/http"
	"net/http/httputil"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// RFC 8441, section 5: any 2xx opens the stream. The client would read the
// body of a refusal as frames.
func TestWithModifyResponseCannotOpenARefusedStream(t *testing.T) {
	u := testkit.NewUpstream(t)
	u.Respond("HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\nbanned")
	c := serveHTTP2(t, u, nil, wsproxy.WithModifyResponse(func(res *http.Response) error {
		res.StatusCode = 200
		return nil
	}))
	res := c.Connect(t, "/", nil).Response
	assert.Equal(t, 502, res.StatusCode)
	assert.NotContains(t, testkit.Body(t, res), "banned")
}

// As over HTTP/1.1, the function sees every response before the proxy does.
func TestWithModifyResponseMayRefuseAStream(t *testing.T) {
	u := testkit.NewUpstream(t)
	u.Respond("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nbanned")
	c := serveHTTP2(t, u, nil, wsproxy.WithModifyResponse(func(res *http.Response) error {
		res.StatusCode = 403
		return nil
	}))
	res := c.Connect(t, "/", nil).Response
	assert.Equal(t, 403, res.StatusCode)
	assert.Equal(t, "banned", testkit.Body(t, res))
}

// server_timeouts_test.go tests the same over HTTP/1.1. On HTTP/2 a deadline that
// passes ends the stream even if nothing waits for it.
func TestTheServersTimeoutsDoNotEndTheHandshakeOfAStream(t *testing.T) {
	t.Parallel()
	const long = 2 * time.Second // enough for TLS on a busy machine
	for name, first := range map[string]string{
		"no informational response": "",
		"an informational response": "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			u := testkit.NewUpstream(t)
			c := testkit.DialHTTP2(t, testkit.ServeHTTP2(t, testkit.NewProxy(t, u.URL), func(s *http.Server) {
				s.ReadTimeout, s.WriteTimeout = long, long
			}))
			u.Script(func(server *testkit.Peer) {
				server.Send(t, first)
				time.Sleep(long + long/4) // a limit that must not apply leaves no event to wait for
				server.Switch(t, "")
				server.Expect(t, "hello")
				server.Send(t, "welcome")
				<-t.Context().Done()
			})
			client := testkit.NewPeer(c.Connect(t, "/", nil))
			client.Send(t, "hello")
			client.Expect(t, "welcome")
		})
	}
}

// WithRewrite allows another request in place of pr.Out. One that is made of
// pr.In has the method and the field of an extended CONNECT.
func TestWithRewriteMayReplaceTheRequestOfAStream(t *testing.T) {
	u := testkit.NewUpstream(t)
	got := switching(t, u, "")
	c := serveHTTP2(t, u, nil, wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) {
		out, err := http.NewRequest(pr.In.Method, "http://other/replaced", nil)
		assert.NoError(t, err)
		out.Header = pr.In.Header.Clone()
		pr.Out = out
	}))
	require.Equal(t, 200, c.Connect(t, "/", nil).Response.StatusCode)
	r := <-got
	assert.Equal(t, "GET /replaced", r.Method+" "+r.RequestURI)
	assert.NotContains(t, r.Header, ":protocol")
}

// net/http's ServeMux matches a CONNECT by its method too, and does not clean its
// path.
func TestAServeMuxPassesACONNECTByItsPath(t *testing.T) {
	u := testkit.NewUpstream(t)
	got := switching(t, u, "")
	c := serveHTTP2(t, u, func(h http.Handler) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("GET /get", h)
		mux.Handle("/ws/", h)
		return mux
	})
	assert.Equal(t, 405, c.Connect(t, "/get", nil).Response.StatusCode)
	assert.Equal(t, 400, c.Connect(t, "/ws/../admin", nil).Response.StatusCode)
	assert.Equal(t, 400, c.Connect(t, "/ws/./", nil).Response.StatusCode)
	assert.Equal(t, 200, c.Connect(t, "/ws//chat", nil).Response.StatusCode)
	assert.Equal(t, "/ws//chat", (<-got).RequestURI)
}

func TestWithMaxTunnelsPerIPCountsStreamsAndNotConnections(t *testing.T) {
	u := testkit.NewUpstream(t)
	c := serveHTTP2(t, u, nil, wsproxy.WithMaxTunnelsPerIP(2))
	c.Tunnel(t, u)
	client, _ := c.Tunnel(t, u)
	assert.Equal(t, 503, c.Connect(t, "/", nil).Response.StatusCode)
	client.Reset()
	switching(t, u, "")
	testkit.Eventually(t, func() bool { return c.Connect(t, "/", nil).Response.StatusCode == 200 }, "the tunnel that was reset counts on")
	assert.Equal(t, 1, c.Dials, "connections")
}

// A 101 has no body, so what its fields say of one means nothing. In the 200 it
// would count for the tunnel's bytes: net/http stopped them after 3.
func TestThe200OfAStreamDescribesNoBody(t *testing.T) {
	u := testkit.NewUpstream(t)
	c := serveHTTP2(t, u, nil, wsproxy.WithModifyResponse(func(res *http.Response) error {
		res.Header.Set("Content-Length", "3")
		return nil
	}))
	u.Script(func(server *testkit.Peer) {
		server.Switch(t, "Content-Encoding: gzip\r\nContent-Type: text/html\r\nX-Own: 1\r\n")
		server.Send(t, "welcome")
		<-t.Context().Done()
	})
	s := c.Connect(t, "/", nil)
	delete(s.Response.Header, "Date")
	assert.Equal(t, http.Header{"X-Own": {"1"}}, s.Response.Header)
	testkit.NewPeer(s).Expect(t, "welcome")
}

// RFC 9113, section 8.2.3: a client may split Cookie into one field a crumb, and
// RFC 6265, section 5.4, allows a server of HTTP/1.1 one field. Section 8.3.1:
// :authority takes the place of Host.
func TestAStreamsCookiesAreOneFieldAndItsAuthorityIsTheHost(t *testing.T) {
	u := testkit.NewUpstream(t)
	got := switching(t, u, "")
	s := serveHTTP2(t, u, nil).Connect(t, "/", func(r *http.Request) {
		r.Header["Cookie"] = []string{"a=1; b=2", "c=3"} // three fields on the wire
	})
	assert.Equal(t, 200, s.Response.StatusCode)
	r := <-got
	assert.Equal(t, []string{"a=1; b=2; c=3"}, r.Header["Cookie"])
	assert.Equal(t, "server.example.com", r.Host)
}

// As over HTTP/1.1, where the connection ends too.
func TestCloseDuringTheHandshakeOfAStreamLeavesTheConnectionOpen(t *testing.T) {
	u := testkit.NewUpstream(t)
	p := testkit.NewProxy(t, u.URL)
	c := testkit.DialHTTP2(t, testkit.ServeHTTP2(t, p, nil))
	r, _ := c.Request(t, "/")
	answer := make(chan *http.Response, 1)
	go func() {
		if res, err := c.RoundTrip(r); assert.NoError(t, err) {
			answer <- res
		}
	}()
	server := u.Accept(t)
	server.Request(t)
	p.Close()
	assert.Equal(t, 503, testkit.Within(t, answer, "a response").StatusCode)
	server.ExpectEOF(t, "")
	assert.Equal(t, 503, c.Connect(t, "/", nil).Response.StatusCode)
	assert.Equal(t, 1, c.Dials, "connections")
}
