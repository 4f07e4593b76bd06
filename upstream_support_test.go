package wsproxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"example.com/wsproxy"
	"github.com/stretchr/testify/require"
)

func newUpstreams(t testing.TB, policy wsproxy.Policy, servers ...wsproxy.Server) *wsproxy.Upstream {
	t.Helper()
	u, err := wsproxy.NewUpstream(policy, servers...)
	require.NoError(t, err)
	return u
}

// switching answers the sample handshake of every connection to it, echoes
// what follows, and names itself in a field.
func switching(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			b, err := io.ReadAll(r.Body)
			if err == nil {
				io.WriteString(w, name+" got "+r.Method+" "+r.Host+" "+string(b))
			}
			return
		}
		conn, brw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, strings.Replace(sampleSwitch, "\r\n\r\n", "\r\nX-Server: "+name+"\r\n\r\n", 1))
		io.Copy(conn, brw)
	})
}

// scripted answers each connection with what it is given, and closes it.
func scripted(t testing.TB, answer string) string {
	t.Helper()
	return serveTCP(t, func(conn net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			io.WriteString(conn, answer)
		}
	})
}

// thenSilent answers a connection with what it is given, and keeps silent until
// the other end closes.
func thenSilent(answer string) func(net.Conn) {
	return func(conn net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			io.WriteString(conn, answer)
			io.Copy(io.Discard, conn)
		}
	}
}

// serveTCP calls handle for each connection to the address that it returns.
func serveTCP(t testing.TB, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	serveConns(t, l, handle)
	return l.Addr().String()
}

// serveConns calls handle for each connection until the test's end.
func serveConns(t testing.TB, l net.Listener, handle func(net.Conn)) {
	var mu sync.Mutex
	conns := map[net.Conn]bool{}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[conn] = true
			mu.Unlock()
			running.Go(func() {
				defer func() {
					conn.Close()
					mu.Lock()
					delete(conns, conn)
					mu.Unlock()
				}()
				handle(conn)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for conn := range conns {
			conn.Close()
		}
		mu.Unlock()
		running.Wait()
	})
}

// refusing returns an address that nobody listens at until the test's end: it
// is the client's of a connection.
func refusing(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	other, err := l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { other.Close() })
	return conn.LocalAddr().String()
}
