package testkit

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// Echo returns a handler that accepts the sample handshake, names itself in
// the field X-Server, and echoes what follows. A plain request gets a line that
// repeats it.
func Echo(name string) http.Handler {
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
		io.WriteString(conn, strings.Replace(SampleSwitch, "\r\n\r\n", "\r\nX-Server: "+name+"\r\n\r\n", 1))
		io.Copy(conn, brw)
	})
}

// ServeResponse returns the address of a server that responds to the first request
// of each connection with response and closes the connection.
func ServeResponse(t testing.TB, response string) string {
	t.Helper()
	return ServeTCP(t, func(conn net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			io.WriteString(conn, response)
		}
	})
}

// ThenSilent returns a function that responds to a connection's first request with
// response, and then waits until the other end closes.
func ThenSilent(response string) func(net.Conn) {
	return func(conn net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
			io.WriteString(conn, response)
			io.Copy(io.Discard, conn)
		}
	}
}

// ServeTCP calls handle for each connection to the address that it returns.
func ServeTCP(t testing.TB, handle func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ServeConns(t, l, handle)
	return l.Addr().String()
}

// ServeConns calls handle for each connection of l, in its own goroutine, and
// closes the connection after it. The test's end closes all.
func ServeConns(t testing.TB, l net.Listener, handle func(net.Conn)) {
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

// RefusingAddr returns an address that refuses connections until the test's
// end. The local end of a connection holds it meanwhile.
func RefusingAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	other, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	return conn.LocalAddr().String()
}
