package wsproxy_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Kubernetes answers for an upstream that redirects instead of switching; here,
// as in httputil, every answer is the upstream's own to give.
func TestARefusalArrivesWholeAndASecondRequestAfterItReachesNobody(t *testing.T) {
	for _, status := range []int{200, 300, 302, 307, 400, 401, 500, 503} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			var second atomic.Int32
			mux := http.NewServeMux()
			mux.HandleFunc("/chat", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "https://example.com/there?a=1#b")
				w.Header().Set("WWW-Authenticate", `Basic realm="here"`)
				w.WriteHeader(status)
				io.WriteString(w, strings.Repeat("some data ", 1000))
			})
			mux.HandleFunc("/there", func(http.ResponseWriter, *http.Request) { second.Add(1) })
			_, addr := serveProxy(t, "http://"+serve(t, mux), wsproxy.WithKeepAlive())
			res, client := ask(t, addr, sampleRequest)
			assert.Equal(t, status, res.StatusCode)
			assert.Equal(t, strings.Repeat("some data ", 1000), body(t, res))
			assert.Equal(t, []string{"https://example.com/there?a=1#b"}, res.Header["Location"])
			assert.Equal(t, []string{`Basic realm="here"`}, res.Header["Www-Authenticate"])
			client.expectEOF(t, "")
			eventually(t, func() bool {
				_, err := io.WriteString(client, "GET /there HTTP/1.1\r\nHost: a\r\n\r\n")
				return err != nil
			}, "the client's connection stays open")
			assert.Zero(t, second.Load(), "requests that came after the refused one")
		})
	}
}

func TestOriginQueryAndEncodedPathReachTheUpstreamAsSent(t *testing.T) {
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url)
	for _, origin := range []string{"", "http://127.0.0.2", "https://other.example:8443", "null", "not an origin"} {
		for _, target := range []string{"/ws?query=test", "/ws/http%3A%2F%2Ftest", "/%3A%2F%2F?redirect=http%3A%2F%2Fa%2Fb&x=%20+;y", "/?"} {
			request, want := sampleWith(t, "/chat", target), []string(nil)
			if origin != "" {
				request, want = strings.Replace(request, "\r\n\r\n", "\r\nOrigin: "+origin+"\r\n\r\n", 1), []string{origin}
			}
			client := dial(t, addr)
			client.send(t, request)
			server := u.accept(t)
			got := server.request(t)
			assert.Equal(t, want, got.Header["Origin"])
			assert.Equal(t, target, got.RequestURI)
			server.send(t, sampleSwitch)
			assert.Equal(t, 101, client.answer(t).StatusCode)
		}
	}
}

func TestASwitchIsTakenHoweverItIsSpelled(t *testing.T) {
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url)
	for _, answer := range []string{
		strings.Replace(sampleSwitch, "Connection: Upgrade", "connection: upgrade", 1),
		strings.Replace(sampleSwitch, "Connection: Upgrade", "CONNECTION: keep-alive, UPGRADE", 1),
		strings.Replace(sampleSwitch, "Upgrade: websocket", "upgrade: WebSocket", 1),
		strings.Replace(sampleSwitch, "Switching Protocols", "Web Socket Protocol Handshake", 1),
		strings.Replace(sampleSwitch, " Switching Protocols", "", 1),
		strings.ReplaceAll(sampleSwitch, "\r\n", "\n"),
	} {
		client := dial(t, addr)
		client.send(t, sampleRequest)
		server := u.accept(t)
		server.request(t)
		server.send(t, answer+"glued")
		res := client.answer(t)
		assert.Equal(t, 101, res.StatusCode, "for %q", answer)
		assert.Equal(t, []string{"websocket"}, res.Header["Upgrade"])
		assert.Equal(t, []string{"Upgrade"}, res.Header["Connection"])
		client.expect(t, "glued")
	}
}

func TestTheClientsRequestIsLeftAsItCame(t *testing.T) {
	u := newUpstream(t)
	p := newProxy(t, u.url+"/base?k=1", wsproxy.WithHeader("X-Set", "1"), wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) {
		for _, values := range pr.Out.Header {
			values[0] = "changed"
		}
		pr.Out.URL.Path, pr.Out.URL.RawQuery, pr.Out.Host = "/changed", "changed", "changed.example"
	}))
	left := make(chan [2]*http.Request, 1)
	addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		before := r.Clone(context.Background())
		p.ServeHTTP(w, r)
		left <- [2]*http.Request{before, r}
	}))
	bothKinds(t, func(t *testing.T, request func(string, ...string) string, _ func(http.Header) http.Header) {
		u.receives(t, addr, request("/a%2Fb?x=1", "X-Hop: 1", "Connection: X-Hop", "X-Forwarded-For: 203.0.113.1", "X-Many: 1", "X-Many: 2", "Te: trailers"))
		got := within(t, left, "ServeHTTP does not return")
		assert.Equal(t, got[0].Header, got[1].Header)
		assert.Equal(t, got[0].URL, got[1].URL)
		assert.Equal(t, got[0].Host, got[1].Host)
		assert.Equal(t, got[0].RequestURI, got[1].RequestURI)
	})
}

// httputil takes the Body of a 101 for its connection, so that ModifyResponse
// can put itself between. Here the body of a 101 is nothing.
func TestABodyThatModifyResponseGivesASwitchIsNotUsed(t *testing.T) {
	r := plainLink.start(t, nil, wsproxy.WithModifyResponse(func(res *http.Response) error {
		assert.Equal(t, http.NoBody, res.Body)
		res.Body = io.NopCloser(strings.NewReader("not the upstream's"))
		return nil
	}))
	client, server := r.tunnel(t)
	server.send(t, "the upstream's")
	client.expect(t, "the upstream's")
	client.Close()
	server.expectEOF(t, "")
}

func TestTunnelsAndPlainRequestsShareNoConnection(t *testing.T) {
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url, wsproxy.WithKeepAlive())
	plain := dial(t, addr)
	plain.send(t, plainGet("/1"))
	kept := u.accept(t)
	kept.request(t)
	kept.send(t, answerOK)
	io.Copy(io.Discard, plain.answer(t).Body)

	client, server := tunnel(t, addr, u) // newly accepted
	client.send(t, "bytes")
	server.expect(t, "bytes")
	require.NoError(t, client.CloseWrite())
	server.expectEOF(t, "")

	plain.send(t, plainGet("/2"))
	assert.Equal(t, "/2", kept.request(t).RequestURI)
	kept.send(t, answerOK)
	assert.Equal(t, 200, plain.answer(t).StatusCode)
}

// A connWithoutWrites is connected and fails at once.
type connWithoutWrites struct {
	net.Conn
	err error
}

func (c connWithoutWrites) Write([]byte) (int, error) { return 0, c.err }

func TestTheErrorOfAConnectionReachesTheErrorHandler(t *testing.T) {
	broken := errors.New("broken")
	errs := newFailures()
	_, addr := serveProxy(t, "http://upstream.example.com", errs.option(),
		wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			go io.Copy(io.Discard, far) // until near is closed
			return connWithoutWrites{near, broken}, nil
		}))
	bothKinds(t, func(t *testing.T, request func(string, ...string) string, _ func(http.Header) http.Header) {
		res, _ := ask(t, addr, request("/"))
		assert.Equal(t, 502, res.StatusCode)
		err := errs.next(t).err
		assert.ErrorIs(t, err, broken)
		assert.ErrorIs(t, err, wsproxy.ErrUpstream)
	})
}

// golang/go#75933
func TestARequestThatAwaits100ContinueIsToldOfAnUpstreamThatIsDown(t *testing.T) {
	if strings.HasPrefix(runtime.Version(), "go1.25") {
		t.Skip("before Go 1.26 httputil waits for the body first, until the client gives up waiting and sends it")
	}
	errs := newFailures()
	_, addr := serveProxy(t, "http://upstream.example.com", errs.option(),
		wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) { return nil, assert.AnError }))
	res, _ := ask(t, addr, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 16\r\nExpect: 100-continue\r\n\r\n")
	assert.Equal(t, 502, res.StatusCode)
	assert.ErrorIs(t, errs.next(t).err, assert.AnError)
}

// golang/go#65123
func TestInformationalAnswersEndWithTheRequest(t *testing.T) {
	u := newUpstream(t)
	u.script(func(server *peer) {
		if _, err := http.ReadRequest(server.br); err != nil {
			return
		}
		for err := error(nil); err == nil; { // until the proxy has enough
			_, err = io.WriteString(server, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
		}
	})
	p := newProxy(t, u.url)
	left := make(chan http.Header, 1)
	addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		hints := &hintWriter{w, cancel}
		p.ServeHTTP(hints, r.WithContext(ctx))
		for range 1000 { // a late change is a race
			for range hints.Header() {
			}
		}
		left <- w.Header().Clone()
	}))
	bothKinds(t, func(t *testing.T, request func(string, ...string) string, _ func(http.Header) http.Header) {
		client := dial(t, addr)
		client.send(t, request("/"))
		assert.Empty(t, within(t, left, "ServeHTTP does not return")["Link"])
	})
}

// A hintWriter ends the request at the first informational answer.
type hintWriter struct {
	http.ResponseWriter
	cancel context.CancelFunc
}

func (h *hintWriter) Unwrap() http.ResponseWriter { return h.ResponseWriter }

func (h *hintWriter) WriteHeader(status int) {
	h.ResponseWriter.WriteHeader(status)
	if status < 200 {
		h.cancel()
	}
}

func TestABodyKeepsItsFramingAndItsCoding(t *testing.T) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	io.WriteString(z, "abcde")
	z.Close()
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url)
	for coding, content := range map[string]string{"": "abcde", "gzip": zipped.String()} {
		for _, chunked := range []bool{false, true} {
			lines, want := []string{fmt.Sprint("Content-Length: ", len(content))}, int64(len(content))
			wire := content
			if chunked {
				lines, want = []string{"Transfer-Encoding: chunked"}, -1
				wire = fmt.Sprintf("1\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n", content[:1], len(content)-1, content[1:])
			}
			var codings []string
			if coding != "" {
				lines, codings = append(lines, "Content-Encoding: "+coding), []string{coding}
			}
			client := dial(t, addr)
			client.send(t, strings.Replace(plainGet("/", lines...), "GET", "POST", 1)+wire)
			server := u.accept(t)
			got := server.request(t)
			received, err := io.ReadAll(got.Body)
			require.NoError(t, err)
			assert.Equal(t, content, string(received), "%q", lines)
			assert.Equal(t, want, got.ContentLength, "%q", lines)
			assert.Equal(t, codings, got.Header["Content-Encoding"])
			server.send(t, answerOK)
			assert.Equal(t, 200, client.answer(t).StatusCode)
		}
	}
}
