package wsproxytest_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/frame"
	. "example.com/wsproxy/wsproxytest"
)

// The harness wraps any handler that upgrades, whether it writes the 101 before
// the hijack (coder calls WriteHeader) or after it. It also forwards bytes that
// arrive before the 101.
func TestWrapGoesAroundAnyHandlerThatUpgrades(t *testing.T) {
	back := httptest.NewServer(serve(echo))
	t.Cleanup(back.Close)
	target, err := url.Parse(back.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy, err := wsproxy.New(back.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proxy.Close() })
	for name, next := range map[string]http.Handler{
		"a hijacker":           serve(echo),
		"a wsproxy.Proxy":      proxy,
		"httputil":             httputil.NewSingleHostReverseProxy(target),
		"WriteHeader(101)":     http.HandlerFunc(writeHeader101),
		"an informational 1xx": http.HandlerFunc(earlyHints),
		"itself":               Handler(nil).Wrap(serve(echo)),
	} {
		t.Run(name, func(t *testing.T) {
			front := httptest.NewServer(Handler(upper).Wrap(next))
			t.Cleanup(front.Close)
			conn, err := net.Dial("tcp", front.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			conn.SetDeadline(time.Now().Add(patience))
			t.Cleanup(func() { conn.Close() })
			early := (&peer{client: true}).wire(true, frame.OpText, "early") // sent together with the handshake
			fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: test\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n"+
				"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n%s", key, early)
			c := &peer{conn, bufio.NewReader(conn), true}
			res, err := http.ReadResponse(c.br, nil)
			for err == nil && res.StatusCode == http.StatusEarlyHints {
				res, err = http.ReadResponse(c.br, nil)
			}
			if err != nil || res.StatusCode != 101 {
				t.Fatalf("%v, %v", res, err)
			}
			c.want(t, frame.OpText, "EARLY")
			c.text(t, "hello")
			c.want(t, frame.OpText, "HELLO")
			c.closeWrite()
			c.wantEnd(t, "", isEOF)
		})
	}
}

func writeHeader101(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Upgrade", "websocket")
	w.Header().Set("Connection", "Upgrade")
	w.WriteHeader(http.StatusSwitchingProtocols)
	conn, brw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	echo(&peer{conn, brw.Reader, false})
}

func earlyHints(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(http.StatusEarlyHints)
	serve(echo).ServeHTTP(w, r)
}

// gobwas/ws responds to a bad handshake on the hijacked connection.
func TestARefusalAfterTheHijackPasses(t *testing.T) {
	for name, answer := range map[string]string{
		"a status":       "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 4\r\n\r\nbody",
		"no response":    "",
		"half a head":    "HTTP/1.1 426 Up",
		"another status": "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n\x81\x02hi",
	} {
		t.Run(name, func(t *testing.T) {
			front := httptest.NewServer(Handler(upper).Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				conn, _, _ := w.(http.Hijacker).Hijack()
				io.WriteString(conn, answer)
				conn.Close()
			})))
			t.Cleanup(front.Close)
			conn, err := net.Dial("tcp", front.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(patience))
			fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
			if got, err := io.ReadAll(conn); string(got) != answer || err != nil {
				t.Errorf("%q, %v, want %q", got, err, answer)
			}
		})
	}
}
