//lint:file-ignore SA1019 nhooyr.io/websocket is deprecated as a whole in favour of github.com/coder/websocket; it stays as one more implementation to be tested with.

package wsproxy_test

import (
	"context"
	"errors"
	"expvar"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"example.com/wsproxy"
	"nhooyr.io/websocket"
)

type userKey struct{}

// An access log. The function that OnOpen returns carries what it needs of the
// request, here a user that middleware put in the context.
func ExampleWithHooks() {
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
	accessLog := wsproxy.Hooks{OnOpen: func(t *wsproxy.Tunnel, r *http.Request) func(wsproxy.Ending) {
		user := r.Context().Value(userKey{})
		return func(e wsproxy.Ending) {
			logger.Info("closed", "user", user, "path", t.Path(), "reason", e.Reason, "close", e.ClientClose, "sent", e.FromUpstream)
		}
	}}

	upstream := newEchoServer()
	defer upstream.Close()
	proxy, err := wsproxy.New(upstream.URL, wsproxy.WithHooks(accessLog))
	if err != nil {
		log.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		proxy.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), userKey{}, "ann")))
	}))
	defer server.Close()
	fmt.Println(echo(server.URL+"/chat", "hello"))
	proxy.Shutdown(context.Background()) // waits for the hook; its line may come first
	// Unordered output:
	// hello
	// level=INFO msg=closed user=ann path=/chat reason="client closed" close.code=1000 close.reason="" sent.bytes=11 sent.messages=1
}

func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// Metrics through expvar: Stats has the totals, so no hook has to count.
func ExampleProxy_Stats() {
	upstream := newEchoServer()
	defer upstream.Close()
	proxy, err := wsproxy.New(upstream.URL, wsproxy.WithOrigins("https://example.com"))
	if err != nil {
		log.Fatal(err)
	}
	metrics := expvar.Func(func() any {
		s := proxy.Stats()
		return map[string]int64{
			"live":       int64(s.Live),
			"opened":     s.Opened,
			"by clients": s.Closed(wsproxy.ReasonClientClosed),
			"idle":       s.Closed(wsproxy.ReasonReadTimeout),
			"forbidden":  s.Refused(http.StatusForbidden),
		}
	})
	// expvar.Publish("wsproxy", metrics)

	server := httptest.NewServer(proxy)
	defer server.Close()
	fmt.Println(echo(server.URL, "hello"))
	fmt.Println(echoWith(http.Header{"Origin": {"https://evil.example"}}, server.URL, "hello"))
	proxy.Shutdown(context.Background()) // waits until the tunnel has ended
	fmt.Println(metrics)
	// Output:
	// hello
	// refused with 403 Forbidden
	// {"by clients":1,"forbidden":1,"idle":0,"live":0,"opened":1}
}

// All counts, as an exporter reads them. Package wsdebug has one for Prometheus.
func ExampleStats() {
	export := func(w io.Writer, p *wsproxy.Proxy, u *wsproxy.Upstream) {
		s := p.Stats()
		fmt.Fprintln(w, "live", s.Live, "handshakes", s.Handshakes, "opened", s.Opened, "retries", s.Retries)
		for reason, n := range s.ClosedByReason() {
			if n > 0 {
				fmt.Fprintf(w, "closed %q %d\n", reason, n)
			}
		}
		for status, n := range s.RefusedByStatus() {
			if n > 0 {
				fmt.Fprintln(w, "refused", status, n)
			}
		}
		for _, server := range u.Servers() {
			fmt.Fprintln(w, "backup", server.Backup, "opened", server.Opened, "failed", server.Failed)
		}
	}

	a, b := newCrashingServer(), newEchoServer()
	defer a.Close()
	defer b.Close()
	u, err := wsproxy.NewUpstream(wsproxy.RoundRobin(),
		wsproxy.Server{Addr: a.Listener.Addr().String()}, wsproxy.Server{Addr: b.Listener.Addr().String(), Backup: true})
	if err != nil {
		log.Fatal(err)
	}
	proxy, err := wsproxy.New("http://chat", wsproxy.WithUpstream(u), wsproxy.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		log.Fatal(err)
	}
	server := httptest.NewServer(proxy)
	defer server.Close()
	echo(server.URL, "hello")
	proxy.Shutdown(context.Background())
	echo(server.URL, "too late")
	export(os.Stdout, proxy, u)
	// Output:
	// live 0 handshakes 0 opened 1 retries 1
	// closed "client closed" 1
	// refused 503 1
	// backup false opened 0 failed 1
	// backup true opened 1 failed 0
}

// An admin page lists the tunnels and closes one.
func ExampleProxy_Tunnel() {
	upstream := newEchoServer()
	defer upstream.Close()
	proxy, err := wsproxy.New(upstream.URL)
	if err != nil {
		log.Fatal(err)
	}
	admin := http.NewServeMux()
	admin.HandleFunc("GET /tunnels", func(w http.ResponseWriter, r *http.Request) {
		for t := range proxy.Tunnels() {
			fmt.Fprintln(w, t.ID(), t.ClientIP(), t.Path(), t.Protocol(), t.Subprotocol(), t.FromClient().Messages, "messages")
		}
	})
	admin.HandleFunc("POST /close/{id}", func(w http.ResponseWriter, r *http.Request) {
		id, _ := strconv.ParseUint(r.PathValue("id"), 10, 64)
		t, ok := proxy.Tunnel(id)
		if !ok {
			http.NotFound(w, r)
			return
		}
		if r.FormValue("cut") != "" {
			t.Cut()
		} else if err := t.Close(1008, "closed by an administrator"); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
		}
	})

	server, page := httptest.NewServer(proxy), httptest.NewServer(admin)
	defer server.Close()
	defer proxy.Close()
	defer page.Close()
	closed := listen(server.URL+"/chat", "echo")
	fmt.Print(get(page.URL + "/tunnels"))
	for _, id := range []string{"7", "1"} {
		res, err := http.Post(page.URL+"/close/"+id, "", nil)
		if err != nil {
			log.Fatal(err)
		}
		res.Body.Close()
		fmt.Println(id, res.Status)
	}
	fmt.Println(<-closed)
	// Output:
	// 1 127.0.0.1 /chat websocket echo 0 messages
	// 7 404 Not Found
	// 1 200 OK
	// 1008 closed by an administrator
}

// Draining one server before it is restarted. New upgrades go to the other.
func ExampleProxy_Drain() {
	a, b := newEchoServer(), newEchoServer()
	defer a.Close()
	defer b.Close()
	servers := []wsproxy.Server{{Addr: a.Listener.Addr().String()}, {Addr: b.Listener.Addr().String()}}
	u, err := wsproxy.NewUpstream(wsproxy.RoundRobin(), servers...)
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
	closed := listen(server.URL) // on a
	listen(server.URL)           // on b

	servers[0].Down = true // for new upgrades
	if err := u.SetServers(servers...); err != nil {
		log.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err = proxy.Drain(ctx, 30*time.Second, func(t *wsproxy.Tunnel) bool { return t.Server() == servers[0].Addr })
	fmt.Println(<-closed, err)
	fmt.Println(proxy.Stats().Live, "tunnel left")
	// Output:
	// 1012 service restart <nil>
	// 1 tunnel left
}

// Forward authentication: another server decides by the fields of the request.
// Hop-by-hop fields, and those that Connection names, are removed before it is
// asked: with them it would take the question for an upgrade, and a client could
// have the proxy drop what the server judged by.
func Example_forwardAuthentication() {
	auth := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/login" && (r.Header.Get("Authorization") != "Bearer valid" || r.Header.Get("Upgrade") != "") {
			http.Redirect(w, r, "/login", http.StatusFound)
		}
	}))
	defer auth.Close()
	upstream := newEchoServer()
	defer upstream.Close()
	proxy, err := wsproxy.New(upstream.URL)
	if err != nil {
		log.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ask, err := http.NewRequestWithContext(r.Context(), "GET", auth.URL, nil)
		if err != nil {
			http.Error(w, "", http.StatusInternalServerError)
			return
		}
		ask.Header = r.Header.Clone()
		hopByHop := strings.Join(append(r.Header["Connection"], "Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade"), ",")
		for name := range strings.SplitSeq(hopByHop, ",") {
			ask.Header.Del(strings.TrimSpace(name))
		}
		res, err := http.DefaultTransport.RoundTrip(ask) // a Client would follow a redirect to a login page, which is 200
		if err != nil {
			http.Error(w, "", http.StatusBadGateway)
			return
		}
		res.Body.Close()
		if res.StatusCode != http.StatusOK {
			http.Error(w, "log in first", http.StatusUnauthorized)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	defer server.Close()
	defer proxy.Close()
	fmt.Println(echo(server.URL, "hello"))
	fmt.Println(echoWith(http.Header{"Authorization": {"Bearer valid"}}, server.URL, "hello"))
	// Output:
	// refused with 401 Unauthorized
	// hello
}

// A limit on each user's tunnels is a middleware: ServeHTTP returns when the
// tunnel has ended.
func Example_perUserLimit() {
	const most = 1
	upstream := newEchoServer()
	defer upstream.Close()
	proxy, err := wsproxy.New(upstream.URL)
	if err != nil {
		log.Fatal(err)
	}
	var open sync.Map // user: *atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := open.LoadOrStore(r.FormValue("user"), new(atomic.Int64))
		defer n.(*atomic.Int64).Add(-1)
		if n.(*atomic.Int64).Add(1) > most {
			http.Error(w, "too many tunnels", http.StatusTooManyRequests)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	defer server.Close()
	defer proxy.Close()
	listen(server.URL + "?user=ann")
	fmt.Println(echo(server.URL+"?user=ann", "hello"))
	fmt.Println(echo(server.URL+"?user=bob", "hello"))
	// Output:
	// refused with 429 Too Many Requests
	// hello
}

// listen opens a WebSocket and reads until it is closed. The channel then has
// the code and the reason.
func listen(url string, subprotocols ...string) <-chan string {
	conn, _, err := websocket.Dial(context.Background(), url, &websocket.DialOptions{Subprotocols: subprotocols})
	if err != nil {
		log.Fatal(err)
	}
	closed := make(chan string, 1)
	go func() {
		defer conn.CloseNow()
		_, _, err := conn.Read(context.Background())
		var end websocket.CloseError
		if errors.As(err, &end) {
			closed <- fmt.Sprint(int(end.Code), " ", end.Reason)
		}
		close(closed)
	}()
	return closed
}

// newCrashingServer returns a server that responds to nothing. It keeps its port,
// which the system would give to another server.
func newCrashingServer() *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
}
