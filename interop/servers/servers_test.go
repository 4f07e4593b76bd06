// Package servers_test runs wsproxy behind other people's routers, middleware
// and listeners.
package servers_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// modes are the two ways to run a tunnel: within its handler, or detached.
var modes = []struct {
	name     string
	detached bool
	opts     []wsproxy.Option
}{
	{"blocking", false, nil},
	{"detached", true, []wsproxy.Option{wsproxy.WithDetached()}},
}

// gotField is the header field of every response in which the upstream
// describes the request.
const gotField = "X-Upstream-Got"

// describe returns the value of gotField for a request.
func describe(r *http.Request) string {
	return fmt.Sprintf("%s %s for %s, %s", r.Method, r.RequestURI, r.Header.Get("X-Real-IP"), r.Header.Get("X-Forwarded-For"))
}

// newUpstream returns the URL of a server that echoes WebSockets and the bodies
// of plain requests. It accepts "Upgrade: tcp" and then echoes all bytes after
// the client's EOF. At /last it sends its final bytes first and keeps reading.
// At /bye it closes at the first byte.
func newUpstream(t testing.TB) string {
	t.Helper()
	return "http://" + testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(gotField, describe(r))
		switch r.Header.Get("Upgrade") {
		case "websocket":
			echoMessages(w, r)
		case "tcp":
			echoAtTheEnd(w, r)
		default:
			w.Header().Set("Content-Type", "text/plain")
			io.Copy(w, r.Body)
		}
	}))
}

func echoMessages(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
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

func echoAtTheEnd(w http.ResponseWriter, r *http.Request) {
	conn, brw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(testkit.Patience))
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n%s: %s\r\n\r\n", gotField, describe(r))
	switch r.URL.Path {
	case "/last":
		io.WriteString(conn, "last words")
		conn.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, brw)
		return
	case "/bye":
		brw.ReadByte()
		return
	}
	got, err := io.ReadAll(brw)
	if err == nil {
		fmt.Fprintf(conn, "%d bytes: ", len(got))
		conn.Write(got)
	}
}

// A lockedBuffer is a buffer for logs that is safe for concurrent use.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// A front is a server that a test can change before it starts.
type front struct {
	*httptest.Server
	addr string
	log  lockedBuffer // http.Server's error log
}

// serve serves h. change may be nil. If it sets the server's TLS configuration,
// the server uses TLS.
func serve(t testing.TB, h http.Handler, change func(*httptest.Server)) *front {
	t.Helper()
	f := &front{Server: httptest.NewUnstartedServer(h)}
	f.Config.ErrorLog = log.New(&f.log, "", 0)
	if change != nil {
		change(f.Server)
	}
	if f.TLS != nil || f.EnableHTTP2 {
		f.StartTLS()
	} else {
		f.Start()
	}
	t.Cleanup(func() {
		f.CloseClientConnections()
		f.Close()
	})
	f.addr = f.Listener.Addr().String()
	return f
}

// dialWebSocket opens a WebSocket and returns it with the header of the 101.
func dialWebSocket(t testing.TB, url string, client *http.Client) (*websocket.Conn, http.Header) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
	defer cancel()
	conn, res, err := websocket.Dial(ctx, url, &websocket.DialOptions{HTTPClient: client})
	require.NoError(t, err)
	t.Cleanup(func() { conn.CloseNow() })
	conn.SetReadLimit(-1)
	return conn, res.Header
}

// talk sends messages of several sizes and reads their echoes.
func talk(t testing.TB, conn *websocket.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
	defer cancel()
	for _, size := range []int{0, 5, 126, 70_000} {
		message := bytes.Repeat([]byte("é"), size/2)
		require.NoError(t, conn.Write(ctx, websocket.MessageText, message))
		kind, got, err := conn.Read(ctx)
		require.NoError(t, err, "a message of %d bytes", size)
		require.Equal(t, websocket.MessageText, kind)
		require.True(t, bytes.Equal(message, got), "a message of %d bytes is changed", size)
	}
}

// A raw is a client that sends and reads single bytes.
type raw struct {
	net.Conn
	br *bufio.Reader
}

func (r *raw) Read(b []byte) (int, error) { return r.br.Read(b) }

// dial connects and sends first.
func dial(t testing.TB, network, addr, first string, config *tls.Config) *raw {
	t.Helper()
	conn, err := net.Dial(network, addr)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(testkit.Patience))
	if config != nil {
		conn = tls.Client(conn, config)
	}
	_, err = io.WriteString(conn, first)
	require.NoError(t, err)
	return &raw{conn, bufio.NewReader(conn)}
}

// tcpRequest requests an upgrade to a protocol that is relayed byte for byte.
func tcpRequest(target string) string {
	return "GET " + target + " HTTP/1.1\r\nHost: server.example.com\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
}

// switched reads a 101 and returns its header.
func (r *raw) switched(t testing.TB) http.Header {
	t.Helper()
	res, err := http.ReadResponse(r.br, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	return res.Header
}

// finish sends the rest, half-closes, and returns what it reads after that.
func (r *raw) finish(t testing.TB, rest string) string {
	t.Helper()
	_, err := io.WriteString(r, rest)
	require.NoError(t, err)
	require.NoError(t, r.Conn.(interface{ CloseWrite() error }).CloseWrite())
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	return string(got)
}
