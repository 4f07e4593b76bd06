package wsproxy

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// A source reads one end of a tunnel, holding no buffer of the pool while it
// waits.
type source interface {
	// read waits for bytes, which are valid until release.
	read() ([]byte, error)
	release()
}

// A buffer is lent to a flow while bytes pass through it.
type buffer [32 << 10]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

func getBuffer() *buffer { return buffers.Get().(*buffer) }

func putBuffer(b *buffer) { buffers.Put(b) }

func newSource(conn net.Conn) source {
	if raw := newRawSource(conn); raw != nil {
		return raw
	}
	if secure, ok := conn.(*tls.Conn); ok {
		if raw := socketBelow(secure); raw != nil {
			return &tlsSource{conn: secure, raw: raw}
		}
	}
	return &connSource{conn: conn}
}

// connSource reads any connection: a few bytes while little comes, and with a
// buffer of the pool after a read that left nothing of its own free.
type connSource struct {
	conn   net.Conn
	parked [parkSize]byte
	full   bool
	rented *buffer
}

func (s *connSource) read() ([]byte, error) {
	b := s.parked[:]
	if s.full {
		s.rented = getBuffer()
		b = s.rented[:]
	}
	n, err := s.conn.Read(b)
	s.full = n == len(b)
	return b[:n], err
}

func (s *connSource) release() {
	if s.rented != nil {
		putBuffer(s.rented)
		s.rented = nil
	}
}

// parkSize is what a source that cannot wait without a buffer waits with.
const parkSize = 512

// tlsSource reads a tls.Conn: a few bytes while it waits, and then all that
// has been received already, which a deadline in the past tells from what is
// still to come.
type tlsSource struct {
	conn   *tls.Conn
	raw    syscall.RawConn // of the socket below
	parked [parkSize]byte
	rented *buffer
}

func (s *tlsSource) read() ([]byte, error) {
	n, err := s.conn.Read(s.parked[:])
	if err != nil || n < len(s.parked) {
		return s.parked[:n], endOfTLS(err)
	}
	if s.expired() {
		return s.parked[:n], nil
	}
	s.rented = getBuffer()
	copy(s.rented[:], s.parked[:])
	s.conn.SetReadDeadline(longAgo)
	for err == nil && n < len(s.rented) {
		var more int
		more, err = s.conn.Read(s.rented[n:])
		n += more
	}
	s.conn.SetReadDeadline(time.Time{})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	return s.rented[:n], endOfTLS(err)
}

// expired reports whether a deadline has passed already. It is not this
// source's, and must not be taken away with that: if crypto/tls has more bytes
// than fill parked, and a listener sets a deadline while those are written,
// the next read succeeds without asking the socket. The read that does ask it
// returns the deadline.
func (s *tlsSource) expired() bool { return s.raw.Read(readNothing) != nil }

func (s *tlsSource) release() {
	if s.rented != nil {
		putBuffer(s.rented)
		s.rented = nil
	}
}

// socketBelow returns the socket that secure reads, or nil if it reads a
// wrapper or a tunnel in something else, whose deadlines may not work.
func socketBelow(secure *tls.Conn) (raw syscall.RawConn) {
	switch conn := secure.NetConn().(type) {
	case *net.TCPConn:
		raw, _ = conn.SyscallConn()
	case *net.UnixConn:
		raw, _ = conn.SyscallConn()
	}
	return raw
}

func readNothing(uintptr) bool { return true }

// endOfTLS takes a connection closed without close_notify for closed: many
// peers do that, and a WebSocket's own Close frame tells whether all came.
func endOfTLS(err error) error {
	if err == io.ErrUnexpectedEOF {
		return io.EOF
	}
	return err
}

// rawConn returns the descriptor's side of a plain TCP or unix socket. A type
// that embeds one is not one: it may change what passes.
func rawConn(conn net.Conn) syscall.RawConn {
	var raw syscall.RawConn
	switch c := conn.(type) {
	case *net.TCPConn:
		raw, _ = c.SyscallConn()
	case *net.UnixConn:
		raw, _ = c.SyscallConn()
	}
	return raw
}

// unblock makes a socket non-blocking again. A dialer that sets socket options
// through conn.File() and Fd() has left it blocking, as the duplicate shares
// the file description: no deadline and no Close then ends a read of conn.
func unblock(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	if raw := rawConn(conn); raw != nil {
		raw.Control(func(fd uintptr) { setNonblock(syscall.SetNonblock, fd) })
	}
}

// setNonblock calls set, whose descriptor is an int on unix and a Handle on
// Windows, where it does nothing.
func setNonblock[T ~int | ~uintptr](set func(T, bool) error, fd uintptr) { set(T(fd), true) }

// longAgo as a deadline makes a read return at once.
var longAgo = time.Unix(1, 0)

// A waiter has a read of a connection return early when it is asked to. It does
// that with a read deadline, which the code around the proxy may set as well:
// a listener, for instance, that limits the age of its connections. A deadline
// that nobody asked the waiter for is that code's, and ends the flow as it ends
// the copying of httputil.ReverseProxy.
//
// A waiter sets a deadline only in the time of a read, and takes it away when
// that read ends. Other orders would go wrong:
//   - wake sets a deadline while drive writes to a slow end, the listener sets
//     its own, drive reads, and takes the listener's away for wake's;
//   - drive sees a deadline and that wake asked for it, wake is called again, and
//     drive takes the second deadline away: the second wake is lost. Under mu the
//     deadline and the state change together.
//
// What remains is a deadline that is set by others in the microseconds between
// wake and the end of the read, and one of theirs that lies in the future when
// wake is called: the connection has no way to tell of either.
type waiter struct {
	conn  net.Conn
	mu    sync.Mutex
	state waiterState
}

type waiterState uint8

// The states of a waiter. begin and end are drive's, which has one read at a
// time; wake is anybody's.
const (
	notReading  waiterState = iota // begin: reading; wake: askedEarly
	askedEarly                     // the next read is not to wait. begin: notReading, without a read
	reading                        // end: notReading; wake: interrupted
	interrupted                    // the deadline is the waiter's. end: notReading, without it
)

// begin reports whether to read.
func (w *waiter) begin() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state == askedEarly {
		w.state = notReading
		return false
	}
	w.state = reading
	return true
}

// end follows the read. It reports whether wake has interrupted that, so that a
// deadline is no error.
func (w *waiter) end() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	woken := w.state == interrupted
	if woken {
		w.conn.SetReadDeadline(time.Time{})
	}
	w.state = notReading
	return woken
}

// wake has the read that waits, or else the next one, return at once.
func (w *waiter) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch w.state {
	case notReading:
		w.state = askedEarly
	case reading:
		w.state = interrupted
		w.conn.SetReadDeadline(longAgo)
	}
}
