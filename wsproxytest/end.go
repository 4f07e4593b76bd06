package wsproxytest

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"example.com/wsproxy/internal/memconn"
)

// linger is how long an end may continue to send after a Cut. To close a socket
// with unread bytes would reset it.
const linger = time.Second

// An end is the harness's end of the connection to a client or to a server.
type end struct {
	conn net.Conn
	in   *memconn.Conn // the peer's bytes: conn itself, or the bytes that pump reads

	mu     sync.Mutex
	pumped bool // conn is read by pump
	ended  bool // pump has returned
	cutOff bool
}

func newEnd(conn net.Conn) *end {
	if mem, ok := conn.(*memconn.Conn); ok {
		return &end{conn: conn, in: mem}
	}
	in, out := memconn.Pipe(memconn.Size)
	e := &end{conn: conn, in: in, pumped: true}
	go e.pump(out)
	return e
}

// pump reads a connection that is not in memory. Frames then have the time of
// their arrival, and an end is detected at once even if a Handler blocks.
func (e *end) pump(out *memconn.Conn) {
	defer func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.ended = true
		if e.cutOff {
			e.conn.Close()
		}
	}()
	b := make([]byte, 32<<10)
	for {
		n, err := e.conn.Read(b)
		out.Write(b[:n]) // fails when nobody reads; the rest is discarded
		switch {
		case err == nil:
			continue
		case err == io.EOF, err == io.ErrUnexpectedEOF: // without TLS's close_notify
			out.Close()
		default:
			out.Reset()
		}
		return
	}
}

// socket returns the connection below TLS.
func (e *end) socket() net.Conn {
	if secure, ok := e.conn.(*tls.Conn); ok {
		return secure.NetConn()
	}
	return e.conn
}

// closeWrite ends the stream to the peer.
func (e *end) closeWrite() { halfClose(e.conn) }

// cut ends the stream to the peer and reads no more.
func (e *end) cut() {
	if !e.pumped {
		e.conn.Close()
		return
	}
	e.in.Close()
	socket := e.socket()
	socket.SetWriteDeadline(time.Unix(1, 0)) // for a write that waits
	halfClose(socket)
	socket.SetReadDeadline(time.Now().Add(linger))
	e.mu.Lock()
	defer e.mu.Unlock()
	e.cutOff = true
	if e.ended {
		e.conn.Close()
	}
}

// reset resets the connection.
func (e *end) reset() {
	resetConn(e.conn)
	e.in.Close() // after it: in memory in is conn, and would end in order
}

// close closes the connection at once.
func (e *end) close() {
	e.in.Close()
	e.socket().Close()
}

// upgradedKey is the context key of the Tunnel that a request becomes.
type upgradedKey struct{}

// A serverConn is the proxy's connection to a server. The proxy discards what a
// client sends to a server that is gone, so the harness detects that here.
type serverConn struct {
	*memconn.Conn
	upgraded *atomic.Pointer[Tunnel] // nil for a plain request
}

func (c *serverConn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if err != nil && c.upgraded != nil {
		if t := c.upgraded.Load(); t != nil {
			t.to[Server].noteGone()
		}
	}
	return n, err
}

func halfClose(conn net.Conn) {
	if c, ok := conn.(interface{ CloseWrite() error }); ok {
		c.CloseWrite()
	} else {
		conn.Close()
	}
}

// resetConn closes a connection, with a reset if it can.
func resetConn(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	if c, ok := conn.(interface{ SetLinger(sec int) error }); ok {
		c.SetLinger(0)
	}
	conn.Close()
}
