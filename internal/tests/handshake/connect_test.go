package handshake_test

import (
	"encoding/base64"
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

// serveHTTP2 serves a new Proxy for u over HTTP/2 and returns a client.
func serveHTTP2(t *testing.T, u *testkit.Upstream, middleware func(http.Handler) http.Handler, opts ...wsproxy.Option) *testkit.HTTP2Conn {
	t.Helper()
	var h http.Handler = testkit.NewProxy(t, u.URL, opts...)
	if middleware != nil {
		h = middleware(h)
	}
	return testkit.DialHTTP2(t, testkit.ServeHTTP2(t, h, nil))
}

// switching has u switch one handshake, with more header lines, and returns a
// channel for the request.
func switching(t *testing.T, u *testkit.Upstream, lines string) <-chan *http.Request {
	got := make(chan *http.Request, 1)
	u.Script(func(server *testkit.Peer) {
		got <- server.Switch(t, lines)
		<-t.Context().Done()
	})
	return got
}

// RFC 8441, section 5.1: the upstream gets an ordinary handshake, and the client
// a 200 without the fields of HTTP/1.1.
func TestAnExtendedCONNECTBecomesAnUpgrade(t *testing.T) {
	u := testkit.NewUpstream(t)
	got := switching(t, u, "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: permessage-deflate\r\nX-Own: 1\r\n")
	c := serveHTTP2(t, u, nil)
	s := c.Connect(t, "/chat%20room?a=b;c", func(r *http.Request) {
		r.Header["Sec-Websocket-Protocol"] = []string{"chat, superchat"}
		r.Header["Sec-Websocket-Extensions"] = []string{"permessage-deflate; client_max_window_bits"}
		r.Header["Origin"] = []string{"https://server.example.com"}
		r.Header["Cookie"] = []string{"a=1; b=2"} // which net/http sends in two fields
		r.Header["X-Forwarded-For"] = []string{"192.0.2.1"}
	})
	r := <-got
	key := r.Header["Sec-Websocket-Key"]
	require.Len(t, key, 1)
	nonce, err := base64.StdEncoding.DecodeString(key[0])
	require.NoError(t, err)
	assert.Len(t, nonce, 16)
	delete(r.Header, "Sec-Websocket-Key")
	assert.Equal(t, "GET /chat%20room?a=b;c HTTP/1.1", r.Method+" "+r.RequestURI+" "+r.Proto)
	assert.Equal(t, "server.example.com", r.Host)
	assert.Equal(t, http.Header{
		"Connection": {"upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Protocol": {"chat, superchat"}, "Sec-Websocket-Extensions": {"permessage-deflate; client_max_window_bits"},
		"Origin": {"https://server.example.com"}, "Cookie": {"a=1; b=2"}, "User-Agent": {"Go-http-client/2.0"}, "Accept-Encoding": {"gzip"},
		"X-Real-Ip": {"127.0.0.1"}, "X-Forwarded-For": {"192.0.2.1, 127.0.0.1"},
		"X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"server.example.com"},
	}, withAcceptEncoding(r.Header))

	assert.Equal(t, 200, s.Response.StatusCode)
	delete(s.Response.Header, "Date")
	assert.Equal(t, http.Header{"Sec-Websocket-Protocol": {"chat"},
		"Sec-Websocket-Extensions": {"permessage-deflate"}, "X-Own": {"1"}}, s.Response.Header)
}

// withAcceptEncoding adds what net/http's client of some releases leaves out.
func withAcceptEncoding(h http.Header) http.Header {
	h["Accept-Encoding"] = []string{"gzip"}
	return h
}

// nodejs/undici#5681: undici 7 sends a key on HTTP/2 and wants it accepted.
func TestAKeyOfTheClientsIsAcceptedAndNotForwarded(t *testing.T) {
	for _, test := range []struct {
		keys   []string
		accept []string
	}{
		{[]string{testkit.SampleKey}, []string{testkit.SampleAccept}},
		{[]string{"short"}, nil},
		{[]string{testkit.SampleKey, testkit.SampleKey}, nil},
	} {
		u := testkit.NewUpstream(t)
		got := switching(t, u, "")
		s := serveHTTP2(t, u, nil).Connect(t, "/", func(r *http.Request) { r.Header["Sec-Websocket-Key"] = test.keys })
		assert.Equal(t, 200, s.Response.StatusCode)
		assert.Equal(t, test.accept, s.Response.Header["Sec-Websocket-Accept"])
		key := (<-got).Header["Sec-Websocket-Key"]
		require.Len(t, key, 1)
		assert.NotContains(t, test.keys, key[0])
	}
}

func TestAnExtendedCONNECTIsChecked(t *testing.T) {
	noDial := testkit.NewUpstream(t)
	p := testkit.NewProxy(t, noDial.URL, wsproxy.WithOrigins("https://good.example"))
	for name, test := range map[string]struct {
		change func(*http.Request)
		status int
	}{
		"no version":                {func(r *http.Request) { delete(r.Header, "Sec-Websocket-Version") }, 426},
		"another version":           {func(r *http.Request) { r.Header["Sec-Websocket-Version"] = []string{"8"} }, 426},
		"a Content-Length":          {func(r *http.Request) { r.Header["Content-Length"], r.ContentLength = []string{"5"}, 5 }, 400},
		"a Content-Length of 0":     {func(r *http.Request) { r.Header["Content-Length"], r.ContentLength = []string{"0"}, 0 }, 400},
		"no :authority":             {func(r *http.Request) { r.Host = "" }, 400},
		"a bad :authority":          {func(r *http.Request) { r.Host = "a b" }, 400},
		"path *":                    {func(r *http.Request) { r.RequestURI, r.URL.Path = "*", "*" }, 400},
		"path //evil/x":             {func(r *http.Request) { r.RequestURI, r.URL.Path = "//evil/x", "//evil/x" }, 400},
		"path http://evil/x":        {func(r *http.Request) { r.RequestURI = "http://evil/x" }, 400},
		"path /a/../b":              {func(r *http.Request) { r.RequestURI, r.URL.Path = "/a/../b", "/a/../b" }, 400},
		"a space in the query":      {func(r *http.Request) { r.URL.RawQuery = "x HTTP/1.1" }, 400},
		"a tab in the query":        {func(r *http.Request) { r.URL.RawQuery = "\t" }, 400},
		"another origin":            {func(r *http.Request) { r.Header["Origin"] = []string{"https://evil.example"} }, 403},
		"another protocol":          {func(r *http.Request) { r.Header[":protocol"] = []string{"webtransport"} }, 501},
		"two protocols":             {func(r *http.Request) { r.Header[":protocol"] = []string{"websocket", "websocket"} }, 501},
		"GET with :protocol":        {func(r *http.Request) { r.Method = "GET" }, 400},
		"no :protocol":              {func(r *http.Request) { delete(r.Header, ":protocol") }, 405},
		"HTTP/3, another protocol":  {func(r *http.Request) { h3(r, "webtransport") }, 501},
		"HTTP/3, no version":        {func(r *http.Request) { h3(r, "websocket"); delete(r.Header, "Sec-Websocket-Version") }, 426},
		"HTTP/3, no protocol":       {func(r *http.Request) { h3(r, "HTTP/3.0") }, 405},
		"a ResponseWriter too poor": {func(r *http.Request) {}, 500},
	} {
		t.Run(name, func(t *testing.T) {
			r := httptest.NewRequest("CONNECT", "/chat", io.NopCloser(strings.NewReader("frames")))
			r.Proto, r.ProtoMajor, r.ProtoMinor, r.ContentLength, r.Host, r.RequestURI = "HTTP/2.0", 2, 0, -1, "server.example.com", "/chat"
			r.URL.Path, r.URL.Host = "/chat", ""
			r.Header = http.Header{":protocol": {"websocket"}, "Sec-Websocket-Version": {"13"}, "Origin": {"https://good.example"}}
			test.change(r)
			w := httptest.NewRecorder()
			p.ServeHTTP(w, r)
			assert.Equal(t, test.status, w.Code, w.Body.String())
			for _, field := range []string{"Connection", "Upgrade"} {
				assert.Empty(t, w.Header()[field], "%s is no field of HTTP/2, and close ends a connection", field)
			}
			if w.Code == 500 {
				assert.Contains(t, w.Body.String(), "httptest.ResponseRecorder")
			}
		})
	}
	assert.Empty(t, noDial.Conns, "the upstream was dialed")
}

func h3(r *http.Request, proto string) {
	r.Proto, r.ProtoMajor = proto, 3
	delete(r.Header, ":protocol")
}

// A Connection: close on one stream is a GOAWAY for all (golang.org/x/net/http2).
func TestARefusalLeavesTheConnectionOpen(t *testing.T) {
	u := testkit.NewUpstream(t)
	c := serveHTTP2(t, u, nil, wsproxy.WithMaxTunnels(1))
	client, server := c.Tunnel(t, u)
	full := c.Connect(t, "/", nil).Response
	assert.Equal(t, 503, full.StatusCode)
	assert.Equal(t, "1", full.Header.Get("Retry-After"))
	assert.Equal(t, 426, c.Connect(t, "/", func(r *http.Request) { delete(r.Header, "Sec-Websocket-Version") }).Response.StatusCode)
	client.Send(t, "hello")
	server.Expect(t, "hello")
	assert.Equal(t, 1, c.Dials, "connections")
}

func TestTheUpstreamsRefusalPassesWhole(t *testing.T) {
	for response, status := range map[string]int{
		"HTTP/1.1 403 Forbidden\r\nX-Own: 1\r\nContent-Length: 6\r\nConnection: close\r\n\r\nbanned":           403,
		"HTTP/1.1 426 Upgrade Required\r\nX-Own: 1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nbanned": 426,
		// Any 2xx would open the stream.
		"HTTP/1.1 200 OK\r\nX-Own: 1\r\nContent-Length: 6\r\n\r\nbanned": 502,
		"HTTP/1.1 204 No Content\r\nX-Own: 1\r\n\r\n":                    502,
	} {
		u := testkit.NewUpstream(t)
		u.Respond(response)
		res := serveHTTP2(t, u, nil).Connect(t, "/", nil).Response
		text := testkit.Body(t, res)
		assert.Equal(t, status, res.StatusCode)
		assert.Empty(t, res.Header["Upgrade"])
		assert.Empty(t, res.Header["Connection"])
		if status < 500 {
			assert.Equal(t, "banned", text)
			assert.Equal(t, "1", res.Header.Get("X-Own"))
		}
	}
}

// Teleport #66655: a 200 before the upstream's response loses the subprotocol,
// and tells the client of a tunnel that may never be.
func TestTheClientIsToldNothingBeforeTheUpstreamHasSwitched(t *testing.T) {
	u := testkit.NewUpstream(t)
	c := serveHTTP2(t, u, nil)
	r, _ := c.Request(t, "/")
	answer := make(chan *http.Response, 1)
	go func() {
		if res, err := c.RoundTrip(r); assert.NoError(t, err) {
			answer <- res
		}
	}()
	server := u.Accept(t)
	server.Request(t)
	assert.Empty(t, answer)
	server.Send(t, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
	assert.Equal(t, 404, testkit.Within(t, answer, "a response").StatusCode)
}

func TestWithRewriteSeesAnUpgradeOfHTTP1(t *testing.T) {
	u := testkit.NewUpstream(t)
	got := switching(t, u, "")
	s := serveHTTP2(t, u, nil, wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) {
		assert.Equal(t, "CONNECT", pr.In.Method)
		assert.Equal(t, "GET", pr.Out.Method)
		assert.Equal(t, "websocket", pr.Out.Header.Get("Upgrade"))
		pr.Out.Header.Set("X-Own", "1")
	})).Connect(t, "/", nil)
	assert.Equal(t, 200, s.Response.StatusCode)
	assert.Equal(t, "1", (<-got).Header.Get("X-Own"))
}

func TestAnExtendedCONNECTForAListedProtocolIsForwarded(t *testing.T) {
	t.Parallel()
	u := testkit.NewUpstream(t)
	c := serveHTTP2(t, u, nil, wsproxy.WithUpgrades("Bytes"))
	u.Script(func(server *testkit.Peer) {
		if r := server.Request(t); assert.Equal(t, "Bytes", r.Header.Get("Upgrade")) {
			server.Send(t, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: bytes\r\n\r\nglued")
			server.Expect(t, "\xff\x00")
			server.Send(t, "seen")
		}
	})
	client := testkit.NewPeer(c.Connect(t, "/", func(r *http.Request) { r.Header[":protocol"] = []string{"bytes"} }))
	client.Expect(t, "glued")
	client.Send(t, "\xff\x00")
	client.ExpectEOF(t, "seen")
}
