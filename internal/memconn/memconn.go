// Package memconn provides connections in memory that behave as TCP connections
// do. They have a bounded buffer in each direction, half-close, resets and
// deadlines. They work in a testing/synctest bubble, because an end that waits is
// durably blocked.
package memconn

import (
	"io"
	"net"
	"sync/atomic"
	"time"
)

// Size is the usual size of a connection's buffers.
const Size = 64 << 10

var errClosed = net.ErrClosed

// A Conn is one end of a connection. Its methods may be called from any
// goroutine.
//
// Errors are those of a [net.TCPConn]: [io.EOF], or a [net.OpError] with
// [net.ErrClosed], os.ErrDeadlineExceeded, syscall.EPIPE for a write to an end
// that has closed, or syscall.ECONNRESET. What was written before a reset
// can still be read. An end that closes with unread bytes does not reset the
// other one.
type Conn struct {
	in, out       *pipe
	local, remote net.Addr
	abort         atomic.Bool // Close resets: SetLinger(0) was called
}

// ports is the source of ports, so that each connection has a different address.
var ports atomic.Uint32

// Pipe returns both ends of a connection. Each direction holds up to size unread
// bytes.
func Pipe(size int) (near, far *Conn) {
	// The addresses are reserved for documentation (RFC 5737). They have a host
	// and a port, for code that splits addresses.
	port := 1024 + int(ports.Add(1)%60000)
	return PipeBetween(size, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: port},
		&net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 80})
}

// PipeBetween is Pipe with an address for each end.
func PipeBetween(size int, nearAddr, farAddr net.Addr) (near, far *Conn) {
	a, b := newPipe(size), newPipe(size)
	return &Conn{in: a, out: b, local: nearAddr, remote: farAddr},
		&Conn{in: b, out: a, local: farAddr, remote: nearAddr}
}

// Read returns bytes of a single write, so it may return fewer bytes than are
// available.
func (c *Conn) Read(b []byte) (int, error) {
	n, _, err := c.ReadStamped(b)
	return n, err
}

// ReadStamped is like Read and also returns when the other end wrote the bytes.
func (c *Conn) ReadStamped(b []byte) (n int, at time.Time, err error) {
	n, at, err = c.in.read(b)
	return n, at, c.opError("read", err)
}

// Write writes b. It blocks while the buffer is full.
func (c *Conn) Write(b []byte) (int, error) {
	n, err := c.out.write(b)
	return n, c.opError("write", err)
}

func (c *Conn) opError(op string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.local, Addr: c.remote, Err: err}
}

// CloseWrite ends the stream to the other end.
func (c *Conn) CloseWrite() error {
	c.out.end()
	return nil
}

// Close closes this end. The other end reads what was written and then io.EOF.
// After SetLinger(0), Close resets the connection.
func (c *Conn) Close() error {
	if c.abort.Load() {
		return c.Reset()
	}
	c.close()
	return nil
}

// Reset closes this end and resets the connection.
func (c *Conn) Reset() error {
	c.out.breakOff()
	c.in.breakOff()
	c.close()
	return nil
}

func (c *Conn) close() {
	c.in.close()
	c.out.end()
	c.in.stopReading()
	c.out.stopWriting()
}

// SetLinger makes Close reset the connection if sec is 0, as the method of
// [net.TCPConn] does. With other values Close ends the stream in order.
func (c *Conn) SetLinger(sec int) error {
	c.abort.Store(sec == 0)
	return nil
}

// NotifyEnd calls f once, when the other end has ended its stream by closing or
// by a reset, even if earlier bytes are still unread. If that has already
// happened, it calls f at once.
func (c *Conn) NotifyEnd(f func()) { c.in.notify(f) }

// SetReadDeadline implements [net.Conn].
func (c *Conn) SetReadDeadline(t time.Time) error { return c.setDeadlines(t, true, false) }

// SetWriteDeadline implements [net.Conn].
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(t, false, true) }

// SetDeadline implements [net.Conn].
func (c *Conn) SetDeadline(t time.Time) error { return c.setDeadlines(t, true, true) }

func (c *Conn) setDeadlines(t time.Time, read, write bool) error {
	if read {
		c.in.setDeadline(&c.in.readBy, t)
	}
	if write {
		c.out.setDeadline(&c.out.writeBy, t)
	}
	return nil
}

// LocalAddr implements [net.Conn].
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements [net.Conn].
func (c *Conn) RemoteAddr() net.Addr { return c.remote }
