package plain_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const allowed = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT, TRACE"

// The upstream's 200 made the client believe that it had a tunnel. With
// keep-alive the upstream then parsed the client's bytes as requests
// (CVE-2026-56866, golang/go#81740).
func TestACONNECTIsRefusedBeforeAnythingIsDialed(t *testing.T) {
	u := testkit.NewUpstream(t)
	errs := testkit.NewFailures()
	_, addr := testkit.ServeProxy(t, u.URL, wsproxy.WithKeepAlive())
	_, handled := testkit.ServeProxy(t, u.URL, errs.Option(), wsproxy.WithUpgrades("websocket", "spdy/3.1"))
	upgrade := func(protocol string) string {
		return "CONNECT /chat HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: " + protocol + "\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + testkit.SampleKey + "\r\n\r\n"
	}
	for _, c := range []struct{ request, allow string }{
		{"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", allowed},
		{"CONNECT /websocket/../admin HTTP/1.1\r\nHost: a\r\n\r\n", allowed},
		{"CONNECT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody", allowed},
		{"CONNECT / HTTP/1.0\r\n\r\n", allowed},
		{upgrade("websocket"), "GET"},
	} {
		res, client := testkit.Do(t, addr, c.request+testkit.PlainRequest)
		assert.Equal(t, 405, res.StatusCode)
		assert.Equal(t, []string{c.allow}, res.Header["Allow"])
		assert.Contains(t, testkit.Body(t, res), "CONNECT")
		assert.Empty(t, client.Rest(t, "the client's"), "what follows a CONNECT is taken for a request")
	}
	for _, request := range []string{upgrade("websocket"), upgrade("spdy/3.1"), "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n"} {
		res, _ := testkit.Do(t, handled, request)
		assert.Equal(t, 405, res.StatusCode)
		assert.Equal(t, 405, wsproxy.StatusCode(errs.Next(t).Err))
	}
	assert.Empty(t, u.Conns, "the upstream was dialed")
}

// The bytes after an HTTP/2 CONNECT have no HTTP/1.1 framing. An upstream would
// parse them as more requests.
func TestBytesAfterACONNECTAreNotParsedAsARequest(t *testing.T) {
	u := testkit.NewUpstream(t)
	s := httptest.NewUnstartedServer(testkit.NewProxy(t, u.URL, wsproxy.WithKeepAlive()))
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	for range 2 { // on one connection
		req, err := http.NewRequest("CONNECT", s.URL, io.MultiReader(strings.NewReader(testkit.PlainRequest)))
		require.NoError(t, err)
		req.Host = "a:80"
		res, err := s.Client().Do(req)
		require.NoError(t, err)
		res.Body.Close()
		assert.Equal(t, "HTTP/2.0", res.Proto)
		assert.Equal(t, 405, res.StatusCode)
		assert.Equal(t, []string{allowed}, res.Header["Allow"])
	}
	assert.Empty(t, u.Conns, "the upstream was dialed")
}

// Through quic-go a browser's WebSocket reached the upstream as a chunked
// CONNECT /chat, and a 200 opened it in the browser.
func TestAnExtendedCONNECTForAnotherProtocolIsNotImplemented(t *testing.T) {
	errs := testkit.NewFailures()
	for name, change := range map[string]func(*http.Request){
		"HTTP/2, as net/http has it": func(r *http.Request) {
			r.Proto, r.ProtoMajor = "HTTP/2.0", 2
			r.Header[":protocol"] = []string{"webtransport"}
		},
		"HTTP/3, as quic-go has it": func(r *http.Request) { r.Proto, r.ProtoMajor = "webtransport", 3 },
	} {
		t.Run(name, func(t *testing.T) {
			for _, opts := range [][]wsproxy.Option{nil, {errs.Option()}} {
				p := testkit.NewProxy(t, "http://upstream.example", append(opts, wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) {
					assert.Fail(t, "the upstream was dialed")
					return nil, errors.New("dialed")
				}))...)
				r := httptest.NewRequest("CONNECT", "https://server.example.com/chat", io.NopCloser(strings.NewReader("frames")))
				r.ContentLength, r.ProtoMinor = -1, 0
				r.Header = http.Header{"Sec-Websocket-Version": {"13"}, "Origin": {"https://server.example.com"}}
				change(r)
				w := httptest.NewRecorder()
				p.ServeHTTP(w, r)
				assert.Equal(t, 501, w.Code)
				if opts == nil {
					assert.Contains(t, w.Body.String(), `CONNECT with :protocol "webtransport"`)
				} else {
					assert.Equal(t, 501, wsproxy.StatusCode(errs.Next(t).Err))
				}
			}
		})
	}
}

func TestAPlainHandlerGetsTheCONNECT(t *testing.T) {
	got := make(chan string, 1)
	_, addr := testkit.ServeProxy(t, "http://upstream.example", wsproxy.WithPlainHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r.Method + " " + r.RequestURI
	})))
	testkit.Do(t, addr, "CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n")
	assert.Equal(t, "CONNECT a:80", <-got)
}

// With WithPlainHandler nothing is refused. docs/http2.md says that its handler must
// refuse these requests.
func TestAPlainHandlerGetsWhatTheProxyDoesNotUpgrade(t *testing.T) {
	p := testkit.NewProxy(t, "http://upstream.example", wsproxy.WithPlainHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Got", r.Method+" "+r.RequestURI+" "+r.Header.Get(":protocol")+" "+r.Proto)
	})))
	for _, c := range []struct{ method, proto, protocol, got string }{
		{"CONNECT", "HTTP/2.0", "webtransport", "CONNECT /chat webtransport HTTP/2.0"},
		{"CONNECT", "HTTP/2.0", "", "CONNECT /chat  HTTP/2.0"},
		{"GET", "HTTP/2.0", "websocket", "GET /chat websocket HTTP/2.0"},
		{"CONNECT", "webtransport", "", "CONNECT /chat  webtransport"},
	} {
		r := httptest.NewRequest(c.method, "https://server.example.com/chat", nil)
		r.Proto, r.ProtoMajor, r.ProtoMinor, r.RequestURI = c.proto, 2, 0, "/chat"
		if c.proto == "webtransport" {
			r.ProtoMajor = 3
		}
		if c.protocol != "" {
			r.Header[":protocol"] = []string{c.protocol}
		}
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		assert.Equal(t, 200, w.Code)
		assert.Equal(t, c.got, w.Header().Get("X-Got"))
	}
}
