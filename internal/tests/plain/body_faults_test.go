package plain_test

import (
	"io"
	"log"
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

const shortPost = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"

// net/http panics at the next request if it reaches the end of a full-duplex
// body after the handler has returned (golang/go#68560).
func TestAnUnreadBodyDoesNotBreakTheServer(t *testing.T) {
	early := testkit.NewUpstream(t)
	early.Script(func(server *testkit.Peer) {
		server.RawHeader(t)
		io.WriteString(server, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
	})
	for name, tr := range map[string]struct {
		target  string
		request string
		status  int
		body    string
		close   bool
	}{
		"the upstream is down":              {"http://" + testkit.RefusingAddr(t), shortPost, 502, "Bad Gateway\n", true},
		"the upstream is down, with chunks": {"http://" + testkit.RefusingAddr(t), strings.Replace(shortPost, "Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 1), 502, "Bad Gateway\n", true},
		"a body replaced by another":        {"http://" + testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })), strings.Replace(shortPost, "\r\n\r\n", "\r\nX-Replace: 1\r\n\r\n", 1), 200, "other", false},
		"the upstream reads it":             {"http://" + testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })), shortPost, 200, "hello", false},
		"no body, and the upstream is down": {"http://" + testkit.RefusingAddr(t), testkit.PlainRequest, 502, "Bad Gateway\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			var logged testkit.Buffer
			p := testkit.NewProxy(t, tr.target)
			s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header["X-Replace"] != nil {
					r.Body = io.NopCloser(strings.NewReader("other")) // of the same length
				}
				p.ServeHTTP(w, r)
			}))
			s.Config.ErrorLog = log.New(&logged, "", 0)
			s.Start()
			t.Cleanup(s.Close)
			client := testkit.Dial(t, s.Listener.Addr().String())
			client.Send(t, tr.request)
			res := client.Response(t)
			assert.Equal(t, tr.status, res.StatusCode)
			assert.Equal(t, tr.close, res.Close, "the connection is given up")
			assert.Equal(t, tr.body, testkit.Body(t, res))
			if tr.close {
				client.ExpectEOF(t, "")
			} else {
				client.Send(t, tr.request)
				assert.Equal(t, tr.status, client.Response(t).StatusCode, "the next on the same connection")
			}
			s.Close()
			assert.Empty(t, logged.String())
		})
	}
	t.Run("the upstream responds before reading it", func(t *testing.T) {
		_, addr := testkit.ServeProxy(t, early.URL)
		client := testkit.Dial(t, addr)
		client.Send(t, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n")
		res := client.Response(t)
		assert.Equal(t, 403, res.StatusCode)
		assert.True(t, res.Close)
		assert.Equal(t, "no", testkit.Body(t, res))
	})
}

// A body that middleware substitutes may return io.EOF only after the server
// has responded. The proxy closed the client's connection for that.
func TestAReplacedBodyWithoutEOFCostsNoConnection(t *testing.T) {
	u := testkit.NewUpstream(t)
	p := testkit.NewProxy(t, u.URL)
	responded := make(chan struct{})
	addr := testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			io.Copy(io.Discard, r.Body)
			pr, pw := io.Pipe()
			go func() {
				io.WriteString(pw, "other")
				<-responded
				pw.Close()
			}()
			r.Body = pr
		}
		p.ServeHTTP(w, r)
	}))
	client := testkit.Dial(t, addr)
	client.Send(t, shortPost)
	server := u.Accept(t)
	server.RawHeader(t)
	server.Expect(t, "other")
	server.Send(t, testkit.ResponseOKClose)
	res := client.Response(t)
	assert.False(t, res.Close, "the connection is given up")
	assert.Equal(t, "ok", testkit.Body(t, res))
	close(responded)
	client.Send(t, testkit.PlainRequest)
	server = u.Accept(t)
	server.Request(t)
	server.Send(t, testkit.ResponseOKClose)
	assert.Equal(t, "ok", testkit.Body(t, client.Response(t)))
}

// A request that the client or middleware made unsendable must not count as a
// server's failure.
func TestABodyThatCannotBeSentMarksNoServerDown(t *testing.T) {
	middleware := func(change func(r *http.Request)) func(http.Handler) http.Handler {
		return func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				change(r)
				h.ServeHTTP(w, r)
			})
		}
	}
	rewrite := func(f func(out *http.Request)) wsproxy.Option {
		return wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) { f(pr.Out) })
	}
	chunked := func(fields, body string) string {
		return "POST / HTTP/1.1\r\nHost: a\r\n" + fields + "Transfer-Encoding: chunked\r\n\r\n" + body
	}
	for name, tr := range map[string]struct {
		request string
		wrap    func(http.Handler) http.Handler
		opts    []wsproxy.Option
		status  int
	}{
		"no chunk":                           {chunked("", "no chunk\r\n"), nil, nil, 400},
		"a malformed trailer":                {chunked("Trailer: X\r\n", "0\r\nno field\r\n\r\n"), nil, nil, 400},
		"a trailer of an illegal name":       {chunked("Trailer: foo bar\r\n", "0\r\n\r\n"), nil, nil, 200},
		"a body that middleware has read":    {shortPost, middleware(func(r *http.Request) { io.ReadAll(r.Body) }), nil, 500},
		"a body that middleware shortened":   {shortPost, middleware(func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("hell")) }), nil, 500},
		"a body that middleware made longer": {shortPost, middleware(func(r *http.Request) { r.Body = io.NopCloser(strings.NewReader("hello!")) }), nil, 0},
		"too large for middleware":           {shortPost, middleware(func(r *http.Request) { r.Body = http.MaxBytesReader(nil, r.Body, 4) }), nil, 413},
		"a body that a rewrite took away":    {shortPost, nil, []wsproxy.Option{rewrite(func(out *http.Request) { out.Body = nil })}, 500},
		"chunks that a rewrite took away":    {chunked("", "0\r\n\r\n"), nil, []wsproxy.Option{rewrite(func(out *http.Request) { out.Body = nil })}, 500},
		"a host that has no Punycode":        {strings.Replace(testkit.PlainRequest, "/page", "http://xn--%C3%A9/page", 1), nil, nil, 502},
		"a trailer of a rewrite's": {shortPost, nil, []wsproxy.Option{rewrite(func(out *http.Request) {
			out.Trailer = http.Header{"Content-Length": nil}
		})}, 502},
		"a trailer with a name of a rewrite's": {shortPost, nil, []wsproxy.Option{rewrite(func(out *http.Request) {
			out.Trailer = http.Header{"foo bar": nil}
		})}, 502},
		"a field without values of a rewrite's": {shortPost, nil, []wsproxy.Option{rewrite(func(out *http.Request) {
			out.Header["foo bar"] = nil
		})}, 502},
		"no method, which is GET": {testkit.PlainRequest, nil, []wsproxy.Option{rewrite(func(out *http.Request) { out.Method = "" })}, 200},
	} {
		t.Run(name, func(t *testing.T) {
			backend := testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) }))
			u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: backend}, wsproxy.Server{Addr: testkit.RefusingAddr(t), Backup: true})
			var h http.Handler = testkit.NewProxy(t, "http://group", append(tr.opts, wsproxy.WithUpstream(u))...)
			if tr.wrap != nil {
				h = tr.wrap(h)
			}
			client := testkit.Dial(t, testkit.Serve(t, h))
			client.Send(t, tr.request)
			if status := client.Response(t).StatusCode; tr.status != 0 { // otherwise the upstream may respond first
				assert.Equal(t, tr.status, status)
			}
			for _, s := range u.Servers() {
				assert.Zero(t, s.Fails, "failures of a server")
			}
		})
	}
}

// An HTTP/2 request may have neither Content-Length nor chunks. The Transport
// would then probe its body on another goroutine, and drop the trailer of an
// empty body.
func TestHTTP2TrailersAreForwarded(t *testing.T) {
	got := make(chan http.Header, 1)
	backend := testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		got <- r.Trailer
	}))
	s := httptest.NewUnstartedServer(testkit.NewProxy(t, "http://"+backend))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	for _, content := range []string{"", "content"} {
		req, err := http.NewRequest("GET", s.URL, io.MultiReader(strings.NewReader(content)))
		require.NoError(t, err)
		req.Trailer = http.Header{"X-Sum": {"41"}, "X-Real-Ip": {"192.0.2.1"}}
		res, err := s.Client().Do(req)
		require.NoError(t, err)
		res.Body.Close()
		assert.Equal(t, "HTTP/2.0", res.Proto)
		assert.Equal(t, http.Header{"X-Sum": {"41"}}, <-got)
	}
}
