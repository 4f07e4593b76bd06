package wsproxy_test

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The sample handshake of RFC 6455, section 1.3.
const (
	sampleKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	sampleAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

	sampleRequest = "GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: " + sampleKey + "\r\nSec-WebSocket-Version: 13\r\n\r\n"
	sampleSwitch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + sampleAccept + "\r\n\r\n"
)

// patience bounds every wait of a test that should not have to wait.
const patience = 10 * time.Second

// missing skips the test for want of something on the machine, or fails it if
// WSPROXY_PEERS=require, as on CI.
func missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("WSPROXY_PEERS") == "require" {
		t.Fatalf("WSPROXY_PEERS=require: "+format, args...)
	}
	t.Skipf(format, args...)
}

// TestMain fails the run if a goroutine or a descriptor is left after all
// tests have cleaned up.
func TestMain(m *testing.M) {
	if addr := os.Getenv(backendVariable); addr != "" {
		runBackend(addr) // a server of its own process, for a test in another
	}
	if l, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
		l.Close() // the runtime's poller has descriptors of its own, made once
	}
	goroutines := runtime.NumGoroutine()
	descriptors := openDescriptors()
	code := m.Run()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	settled := func() bool {
		if f := flag.Lookup("test.fuzz"); f != nil && f.Value.String() != "" {
			return true
		}
		return runtime.NumGoroutine() <= goroutines && openDescriptors() <= descriptors
	}
	for deadline := time.Now().Add(patience); !settled() && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	if code == 0 && !settled() {
		stacks := make([]byte, 1<<20)
		fmt.Fprintf(os.Stderr, "left behind: %d goroutines, %d descriptors; before: %d, %d\n%s\n",
			runtime.NumGoroutine(), openDescriptors(), goroutines, descriptors, stacks[:runtime.Stack(stacks, true)])
		code = 1
	}
	os.Exit(code)
}

// openDescriptors counts the process's descriptors, where the system tells.
func openDescriptors() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries)
}

// newProxy returns a silent Proxy that leaves nothing behind after the test.
func newProxy(t testing.TB, target string, opts ...wsproxy.Option) *wsproxy.Proxy {
	t.Helper()
	p, err := wsproxy.New(target, append([]wsproxy.Option{wsproxy.WithLogger(slog.New(slog.DiscardHandler))}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		p.Shutdown(ended)
		assert.Zero(t, p.Stats().Live, "live tunnels after Shutdown")
	})
	return p
}

// serve runs h on a server of its own and returns its host:port.
func serve(t testing.TB, h http.Handler) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.Start()
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.Listener.Addr().String()
}

// serveProxy runs a new Proxy for target and returns both.
func serveProxy(t testing.TB, target string, opts ...wsproxy.Option) (*wsproxy.Proxy, string) {
	t.Helper()
	p := newProxy(t, target, opts...)
	return p, serve(t, p)
}

// A peer is one end of a connection as a test drives it, byte by byte.
// Its expect methods are for the test's goroutine.
type peer struct {
	net.Conn
	br *bufio.Reader
}

func newPeer(conn net.Conn) *peer { return &peer{conn, bufio.NewReader(conn)} }

// Read makes a peer read what its reader has buffered first.
func (p *peer) Read(b []byte) (int, error) { return p.br.Read(b) }

// CloseWrite half-closes the peer's connection.
func (p *peer) CloseWrite() error { return p.Conn.(interface{ CloseWrite() error }).CloseWrite() }

// reset closes the peer's TCP connection with a RST.
func (p *peer) reset() {
	p.Conn.(*net.TCPConn).SetLinger(0)
	p.Close()
}

// send writes s, failing the test if that fails.
func (p *peer) send(t testing.TB, s string) {
	t.Helper()
	_, err := io.WriteString(p, s)
	require.NoError(t, err)
}

// expect reads exactly want.
func (p *peer) expect(t testing.TB, want string) {
	t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(p, got)
	require.NoError(t, err, "read %q, want %q", got[:n], want)
	require.Equal(t, want, string(got))
}

// expectEOF reads the rest, which must be want, and an orderly end.
func (p *peer) expectEOF(t testing.TB, want string) {
	t.Helper()
	got, err := io.ReadAll(p)
	require.NoError(t, err)
	require.Equal(t, want, string(got))
}

// answer reads the answer to a GET.
func (p *peer) answer(t testing.TB) *http.Response {
	t.Helper()
	res, err := http.ReadResponse(p.br, nil)
	require.NoError(t, err)
	return res
}

// dial connects to addr; the test's end closes the connection, and patience
// bounds every read and write on it.
func dial(t testing.TB, addr string) *peer {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return newPeer(conn)
}

// ask sends a request, given in full, to addr and returns the answer.
func ask(t testing.TB, addr, request string) (*http.Response, *peer) {
	t.Helper()
	c := dial(t, addr)
	c.send(t, request)
	return c.answer(t), c
}

// body reads the answer's whole body.
func body(t testing.TB, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return string(b)
}

// A scripted upstream hands each connection to the test.
type upstream struct {
	url   string
	addr  string
	conns chan *peer
}

// newUpstream listens; the connections it accepts wait in conns.
func newUpstream(t testing.TB) *upstream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	u := &upstream{url: "http://" + l.Addr().String(), addr: l.Addr().String(), conns: make(chan *peer, 1024)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.SetDeadline(time.Now().Add(patience))
			u.conns <- newPeer(conn)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
		close(u.conns)
		for conn := range u.conns {
			conn.Close()
		}
	})
	return u
}

// accept returns the next connection, which the test's end closes.
func (u *upstream) accept(t testing.TB) *peer {
	t.Helper()
	select {
	case conn := <-u.conns:
		t.Cleanup(func() { conn.Close() })
		return conn
	case <-time.After(patience):
		require.Fail(t, "no connection reached the upstream")
		return nil
	}
}

// request reads a request from the proxy, as sent.
func (p *peer) request(t testing.TB) *http.Request {
	t.Helper()
	r, err := http.ReadRequest(p.br)
	require.NoError(t, err)
	return r
}

// rawHeader reads a request's header as the bytes that were sent.
func (p *peer) rawHeader(t testing.TB) string {
	t.Helper()
	var b strings.Builder
	for !strings.HasSuffix(b.String(), "\r\n\r\n") {
		c, err := p.br.ReadByte()
		require.NoError(t, err, "after %q", b.String())
		b.WriteByte(c)
	}
	return b.String()
}

// tunnel opens one through the proxy at addr with the sample handshake and
// returns both its ends.
func tunnel(t testing.TB, addr string, u *upstream) (client, server *peer) {
	t.Helper()
	client = dial(t, addr)
	client.send(t, sampleRequest)
	server = u.accept(t)
	server.request(t)
	server.send(t, sampleSwitch)
	require.Equal(t, http.StatusSwitchingProtocols, client.answer(t).StatusCode)
	return client, server
}

// eventually waits for cond, which something else is about to make true.
func eventually(t testing.TB, cond func() bool, format string, args ...any) {
	t.Helper()
	require.Eventually(t, cond, patience, time.Millisecond, append([]any{format}, args...)...)
}

// endings collects the endings of tunnels, for use as Hooks.OnClose.
type endings chan wsproxy.Ending

func newEndings() endings { return make(chan wsproxy.Ending, 10_000) }

func (e endings) hook() wsproxy.Option {
	return wsproxy.WithHooks(wsproxy.Hooks{OnClose: func(_ *wsproxy.Tunnel, ending wsproxy.Ending) { e <- ending }})
}

// next returns the next ending.
func (e endings) next(t testing.TB) wsproxy.Ending {
	t.Helper()
	select {
	case ending := <-e:
		return ending
	case <-time.After(patience):
		require.Fail(t, "no tunnel ended")
		return wsproxy.Ending{}
	}
}
