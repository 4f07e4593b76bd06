//lint:file-ignore SA1019 nhooyr.io/websocket is deprecated as a whole in favour of github.com/coder/websocket; it stays as one more implementation to be tested with.

package wsproxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strings"
	"time"

	"example.com/wsproxy"
	"nhooyr.io/websocket"
)

// In a Go server: the nginx recipe with its timeouts, on one route.
func Example() {
	upstream := newEchoServer()
	defer upstream.Close()

	proxy, err := wsproxy.New(upstream.URL,
		wsproxy.WithReadTimeout(300*time.Second),
		wsproxy.WithSendTimeout(300*time.Second))
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/websocket", proxy)

	server := httptest.NewServer(mux)
	defer server.Close()
	defer proxy.Close()
	fmt.Println(echo(server.URL+"/websocket", "hello"))
	// Output: hello
}

// On one route of a mux, under a prefix that the upstream does not know.
func Example_stripPrefix() {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "upstream got ", r.URL)
	}))
	defer upstream.Close()

	proxy, err := wsproxy.New(upstream.URL + "/v2")
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/chat/", http.StripPrefix("/chat", proxy))

	server := httptest.NewServer(mux)
	defer server.Close()
	defer proxy.Close()
	fmt.Println(get(server.URL + "/chat/rooms?sort=age"))
	// Output: upstream got /v2/rooms?sort=age
}

// Wrap the proxy in middleware that authenticates: refused requests never reach
// the upstream. A page cannot set header fields of a WebSocket handshake, so
// the client identifies itself by a cookie or, as here, by a ticket in the
// query. Set fields about the user in WithRewrite, because a client's
// Connection field can remove fields that middleware sets.
func Example_authentication() {
	upstream := newEchoServer()
	defer upstream.Close()

	proxy, err := wsproxy.New(upstream.URL)
	if err != nil {
		log.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.FormValue("ticket") != "valid" {
			http.Error(w, "log in first", http.StatusUnauthorized)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	defer server.Close()
	defer proxy.Close()
	fmt.Println(echo(server.URL, "hello"))
	fmt.Println(echo(server.URL+"?ticket=valid", "hello"))
	// Output:
	// refused with 401 Unauthorized
	// hello
}

// In a test: the proxy runs between a client and a server under test, and
// reports each tunnel's ending.
func Example_testHarness() {
	upstream := newEchoServer()
	defer upstream.Close()

	ended := make(chan string, 1)
	proxy, err := wsproxy.New(upstream.URL, wsproxy.WithHooks(wsproxy.Hooks{
		OnOpen: func(t *wsproxy.Tunnel, _ *http.Request) func(wsproxy.Ending) {
			return func(e wsproxy.Ending) {
				ended <- fmt.Sprint(t.Path(), " sent ", e.FromUpstream.Bytes, " bytes")
			}
		},
	}))
	if err != nil {
		log.Fatal(err)
	}
	server := httptest.NewServer(proxy)
	defer server.Close()
	defer proxy.Close() // server.Close does not close hijacked connections

	fmt.Println(echo(server.URL+"/chat", "hello"))
	fmt.Println(<-ended)
	// Output:
	// hello
	// /chat sent 11 bytes
}

// An existing ReverseProxy serves ordinary requests. Only upgrades go to the
// upstream.
func ExampleWithPlainHandler() {
	upstream := newEchoServer()
	defer upstream.Close()
	pages := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "a page for ", r.Header.Get("X-Forwarded-Host"))
	}))
	defer pages.Close()

	proxy, err := wsproxy.New(upstream.URL, wsproxy.WithPlainHandler(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = "http", strings.TrimPrefix(pages.URL, "http://")
			r.Out.Header.Set("X-Forwarded-Host", "example.com")
		},
	}))
	if err != nil {
		log.Fatal(err)
	}
	server := httptest.NewServer(proxy)
	defer server.Close()
	defer proxy.Close()
	fmt.Println(get(server.URL))
	fmt.Println(echo(server.URL, "hello"))
	// Output:
	// a page for example.com
	// hello
}

// Several servers: a request that fails before the 101 goes to the next server,
// and the failed server is not tried for a while.
func ExampleWithUpstream() {
	a, b := newCrashingServer(), newEchoServer()
	defer a.Close()
	defer b.Close()
	u, err := wsproxy.NewUpstream(wsproxy.LeastTunnels(),
		wsproxy.Server{Addr: a.Listener.Addr().String(), FailTimeout: time.Minute},
		wsproxy.Server{Addr: b.Listener.Addr().String(), Backup: true})
	if err != nil {
		log.Fatal(err)
	}
	proxy, err := wsproxy.New("http://chat", wsproxy.WithUpstream(u))
	if err != nil {
		log.Fatal(err)
	}
	server := httptest.NewServer(proxy)
	defer server.Close()
	defer proxy.Close()

	fmt.Println(echo(server.URL, "hello"))
	for _, s := range u.Servers() {
		fmt.Println("backup:", s.Backup, "available:", s.Available, "fails:", s.Fails)
	}
	// Output:
	// hello
	// backup: false available: false fails: 1
	// backup: true available: true fails: 0
}

// An existing ReverseProxy uses the proxy's header policy.
func ExampleProxy_Rewrite() {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintln(w, "X-Real-IP:", r.Header.Get("X-Real-IP"))
		fmt.Fprintln(w, "X-Forwarded-For:", r.Header.Get("X-Forwarded-For"))
	}))
	defer upstream.Close()

	proxy, err := wsproxy.New(upstream.URL, wsproxy.WithTrustedProxies("127.0.0.1", "10.0.0.0/8"))
	if err != nil {
		log.Fatal(err)
	}
	server := httptest.NewServer(&httputil.ReverseProxy{Rewrite: proxy.Rewrite})
	defer server.Close()
	defer proxy.Close()

	r, _ := http.NewRequest("GET", server.URL, nil)
	r.Header.Set("X-Forwarded-For", "203.0.113.9, 10.1.2.3")
	fmt.Println(do(r))
	// Output:
	// X-Real-IP: 203.0.113.9
	// X-Forwarded-For: 203.0.113.9, 10.1.2.3, 127.0.0.1
}

// A graceful shutdown: http.Server.Shutdown waits for plain requests and
// ignores hijacked connections. Proxy.Shutdown waits for tunnels.
func ExampleProxy_Shutdown() {
	upstream := newEchoServer()
	defer upstream.Close()
	proxy, err := wsproxy.New(upstream.URL)
	if err != nil {
		log.Fatal(err)
	}
	server := httptest.NewServer(proxy)
	fmt.Println(echo(server.URL, "hello"))

	// On SIGTERM:
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	drained := make(chan error, 1)
	server.Config.RegisterOnShutdown(func() { drained <- proxy.Shutdown(ctx) })
	if err := server.Config.Shutdown(ctx); err != nil { // stops listening first
		log.Print("requests cut: ", err)
	}
	if err := <-drained; err != nil { // main must not return before this
		log.Print("tunnels cut: ", err)
	}
	fmt.Println("drained,", proxy.Stats().Live, "tunnels left")
	// Output:
	// hello
	// drained, 0 tunnels left
}

// The pitfall: if a middleware's ResponseWriter only embeds the interface, the
// connection cannot be hijacked. Add an Unwrap method.
func Example_pitfall() {
	upstream := newEchoServer()
	defer upstream.Close()
	proxy, err := wsproxy.New(upstream.URL, wsproxy.WithErrorHandler(
		func(w http.ResponseWriter, _ *http.Request, err error) {
			fmt.Println(err)
			fmt.Println(errors.Is(err, http.ErrNotSupported))
			w.WriteHeader(wsproxy.StatusCode(err))
		}))
	if err != nil {
		log.Fatal(err)
	}

	hiding := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proxy.ServeHTTP(&statusRecorder{ResponseWriter: w}, r)
	}))
	defer hiding.Close()
	fmt.Println(echo(hiding.URL, "hello"))

	unwrapping := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proxy.ServeHTTP(&unwrappingRecorder{statusRecorder{ResponseWriter: w}}, r)
	}))
	defer unwrapping.Close()
	defer proxy.Close()
	fmt.Println(echo(unwrapping.URL, "hello"))
	// Output:
	// wsproxy: cannot upgrade: *wsproxy_test.statusRecorder implements neither http.Hijacker nor Unwrap() http.ResponseWriter: feature not supported
	// true
	// refused with 500 Internal Server Error
	// hello
}

// A statusRecorder wraps a ResponseWriter as many logging middlewares do.
type statusRecorder struct {
	http.ResponseWriter
	status int
}

func (r *statusRecorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

type unwrappingRecorder struct{ statusRecorder }

func (r *unwrappingRecorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// get returns the body of a response to a GET.
func get(url string) string {
	r, err := http.NewRequest("GET", url, nil)
	if err != nil {
		return err.Error()
	}
	return do(r)
}

func do(r *http.Request) string {
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return string(b)
}

// echoHandler echoes every message and offers the subprotocols echo and chat.
func echoHandler(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true,
		Subprotocols:       []string{"echo", "chat"},
		CompressionMode:    websocket.CompressionContextTakeover,
	})
	if err != nil {
		return
	}
	defer conn.CloseNow()
	conn.SetReadLimit(-1)
	for {
		kind, message, err := conn.Read(r.Context())
		if err != nil || conn.Write(r.Context(), kind, message) != nil {
			return
		}
	}
}

// newEchoServer returns a server that serves echoHandler.
func newEchoServer() *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(echoHandler))
}

// echo sends a message to the WebSocket at url and returns the echo or an error
// text.
func echo(url, message string) string { return echoWith(nil, url, message) }

// echoWith is echo with header fields of the handshake.
func echoWith(header http.Header, url, message string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, res, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPHeader: header})
	if err != nil {
		return "refused with " + res.Status
	}
	defer conn.CloseNow()
	if err := conn.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
		return err.Error()
	}
	_, got, err := conn.Read(ctx)
	if err != nil {
		return err.Error()
	}
	conn.Close(websocket.StatusNormalClosure, "")
	return string(got)
}
