package browser_test

import (
	"context"
	_ "embed"
	"net/http"
	"strings"
	"sync"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/talk"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

//go:embed testdata/page.html
var testPage []byte

// withPage serves the page beside the proxy.
func withPage(proxy http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Write(testPage)
	})
	mux.Handle("/", proxy)
	return mux
}

// A closing is what the page's onclose and onerror received.
type closing struct {
	Code     int    `json:"code"`
	Reason   string `json:"reason"`
	WasClean bool   `json:"wasClean"`
	Errors   int    `json:"errors"`
}

func show(t *testing.T, browser context.Context, scheme, upstream string, opts ...wsproxy.Option) (*talk.Front, *tab) {
	t.Helper()
	f := talk.NewFrontWithin(t, withPage, scheme, upstream, opts...)
	return f, open(t, browser, "http"+strings.TrimPrefix(f.URL, "ws"))
}

// pageScheme returns the scheme of a page whose sockets have scheme.
func pageScheme(scheme string) string {
	if scheme == "h2" || scheme == "h3" {
		return "https"
	}
	return "http" + strings.TrimPrefix(scheme, "ws")
}

func testTalk(t *testing.T, browser context.Context, scheme string) {
	f, page := show(t, browser, scheme, testkit.Serve(t, talk.Server()))

	got := call[struct {
		Protocol   string  `json:"protocol"`
		Extensions string  `json:"extensions"`
		Echoes     []bool  `json:"echoes"`
		Closed     closing `json:"closed"`
	}](t, page, "connects()")
	assert.Equal(t, "chat.v2", got.Protocol)
	assert.Equal(t, "permessage-deflate", got.Extensions)
	assert.Equal(t, []bool{true, true, true, true, true}, got.Echoes)
	assert.Equal(t, closing{1000, "done", true, 0}, got.Closed)
	e := f.Ending(t, "/echo/connects")
	assert.Equal(t, wsproxy.ReasonClientClosed, e.Reason)
	assert.EqualValues(t, 5, e.FromClient.Messages)
	assert.EqualValues(t, 5, e.FromUpstream.Messages)
	assert.Less(t, e.FromClient.Bytes, int64(1<<20+100_000), "the text is not compressed")

	for _, c := range []struct {
		call, path       string
		want             closing
		reason           wsproxy.Reason
		client, upstream int
	}{
		{"closedByServer()", "/close", closing{4001, "enough", true, 0}, wsproxy.ReasonUpstreamClosed, 4001, 4001},
		{"closes()", "/echo/closes", closing{4002, "my turn", true, 0}, wsproxy.ReasonClientClosed, 4002, 4002},
		{"closesWithoutCode()", "/echo/nocode", closing{1005, "", true, 0}, wsproxy.ReasonClientClosed, 1005, 1005},
		{`fails("/drop")`, "/drop", closing{1006, "", false, 0}, wsproxy.ReasonUpstreamClosed, 0, 0},
	} {
		assert.Equal(t, c.want, call[closing](t, page, c.call), c.call)
		e := f.Ending(t, c.path)
		assert.Equal(t, c.reason, e.Reason, c.call)
		assert.Equal(t, c.client, e.ClientClose.Code, c.call)
		assert.Equal(t, c.upstream, e.UpstreamClose.Code, c.call)
	}

	assert.Equal(t, closing{1006, "", false, 1}, call[closing](t, page, `fails("/refuse")`), "refused by the server")
}

func testDrain(t *testing.T, browser context.Context, scheme string) {
	f, page := show(t, browser, scheme, testkit.Serve(t, talk.Server()))
	require.True(t, call[bool](t, page, "waits()"))
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	defer cancel()
	require.NoError(t, f.Shutdown(ctx))
	assert.Equal(t, closing{1001, "shutting down", true, 0}, call[closing](t, page, "left"))
	e := f.Ending(t, "/echo/waits")
	assert.Equal(t, wsproxy.ReasonShutdown, e.Reason)
	assert.NoError(t, e.Err)
	assert.Equal(t, 1001, e.ClientClose.Code, "the browser's reply")
}

func testDeadUpstream(t *testing.T, browser context.Context, scheme string) {
	f, page := show(t, browser, scheme, testkit.RefusingAddr(t))
	assert.Equal(t, closing{1006, "", false, 1}, call[closing](t, page, `fails("/echo/dead")`))
	assert.Zero(t, f.Stats().Opened)
}

func testOrigin(t *testing.T, browser context.Context, scheme string) {
	var mu sync.Mutex
	refused := map[string]error{}
	f, page := show(t, browser, scheme, testkit.Serve(t, talk.Server()),
		wsproxy.WithOrigins(pageScheme(scheme)+"://127.0.0.1:*"),
		wsproxy.WithErrorHandler(func(w http.ResponseWriter, r *http.Request, err error) {
			mu.Lock()
			defer mu.Unlock()
			refused[r.Header.Get("Origin")] = err
			w.WriteHeader(wsproxy.StatusCode(err))
		}))
	_, addr, _ := strings.Cut(f.URL, "://")
	_, port, _ := strings.Cut(addr, ":")

	assert.Equal(t, closing{4002, "my turn", true, 0}, call[closing](t, page, "closes()"), "its own origin")

	foreign := pageScheme(scheme) + "://localhost:" + port
	page = open(t, browser, foreign)
	got := call[closing](t, page, `fails("/echo/foreign", "`+addr+`")`)
	assert.Equal(t, closing{1006, "", false, 1}, got, "another origin")
	mu.Lock()
	defer mu.Unlock()
	assert.ErrorIs(t, refused[foreign], wsproxy.ErrForbiddenOrigin)
	assert.Len(t, refused, 1)
}

func testTwoHundred(t *testing.T, browser context.Context, scheme string) {
	f, page := show(t, browser, scheme, testkit.Serve(t, talk.Server()))
	require.Equal(t, 200, call[int](t, page, "opens(200)"))
	require.Equal(t, 200, f.Stats().Live)
	require.Equal(t, 200, call[int](t, page, "all()"), "echoes")
	require.NoError(t, chromedp.Cancel(page)) // closes it
	testkit.Eventually(t, func() bool { return f.Stats().Live == 0 }, "sockets outlive their page")
	code := f.Ending(t, "/echo/many").ClientClose.Code
	if scheme == "h2" && code == 0 {
		return // the reset of the stream has overtaken the Close frame
	}
	assert.Equal(t, 1001, code, "the code for a page that is closed")
}

// testHTTP2 counts the connections that the browser opens to a server of HTTP/2
// for a page and 100 sockets of it.
func testHTTP2(t *testing.T, browser context.Context) {
	var mu sync.Mutex
	protos, conns := map[string]string{}, map[string]bool{}
	h := withPage(testkit.NewProxy(t, "http://"+testkit.Serve(t, talk.Server())))
	addr := testkit.ServeHTTP2(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		protos[r.Method+" "+r.URL.Path] = r.Proto
		conns[r.RemoteAddr] = true
		mu.Unlock()
		h.ServeHTTP(w, r)
	}), nil)
	page := open(t, browser, "https://"+addr)
	require.Equal(t, 100, call[int](t, page, "opens(100)"))
	require.Equal(t, 100, call[int](t, page, "all()"), "echoes")
	mu.Lock()
	defer mu.Unlock()
	assert.Equal(t, map[string]string{"GET /": "HTTP/2.0", "CONNECT /echo/many": "HTTP/2.0"}, protos)
	assert.Len(t, conns, 1, "connections")
}
