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

// A source reads one end of a tunnel. It holds no buffer of the pool while it
// waits.
type source interface {
	// read waits for bytes. They are valid until release.
	read() ([]byte, error)
	release()
}

// A buffer holds a flow's bytes between a read and the write.
type buffer [32 << 10]byte

var buffers = sync.Pool{New: func() any { return new(buffer) }}

func getBuffer() *buffer { return buffers.Get().(*buffer) }

func putBuffer(b *buffer) { buffers.Put(b) }

// newRawSource and newRawSink return nil if conn is not a socket. They are set in
// relay_socket_unix.go. On other systems, and with the tag wsproxy_portable, a
// socket is read and written like any other connection.
var (
	newRawSource = func(conn net.Conn) source { return nil }
	newRawSink   = func(conn net.Conn, f *flow) sink { return nil }
)

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

// connSource reads any connection. It reads into parked, and after a read that
// filled parked once into a buffer of the pool.
type connSource struct {
	conn   io.Reader
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

// parkSize is the size of the buffer with which a source waits if it must have one.
const parkSize = 512

// tlsSource reads a tls.Conn. It waits with parked. If a read fills that, it also
// reads what has already been received, under a deadline in the past, so that it
// does not wait for more.
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

// expired reports whether a deadline has already passed. Code around the proxy
// must have set it, and read must not replace it. It guards against this
// interleaving: read fills parked, and crypto/tls keeps more bytes. While the flow
// writes, a listener sets a deadline. The next read succeeds although the deadline
// has passed, because crypto/tls returns the kept bytes without reading the
// socket. The deadline must stay set for a later read, which reads the socket and
// returns its error.
func (s *tlsSource) expired() bool { return s.raw.Read(readNothing) != nil }

func (s *tlsSource) release() {
	if s.rented != nil {
		putBuffer(s.rented)
		s.rented = nil
	}
}

// socketBelow returns the socket that secure reads. It returns nil if secure
// reads anything else, whose deadlines may not work.
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

// endOfTLS returns io.EOF for a connection that was closed without close_notify.
// Many peers omit it, and a WebSocket's Close frame shows that nothing is
// missing.
func endOfTLS(err error) error {
	if err == io.ErrUnexpectedEOF {
		return io.EOF
	}
	return err
}

// rawConn returns the RawConn of a plain TCP or unix socket, and nil for other
// connections. A type that embeds a socket is another connection: it may change
// the bytes.
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

// unblock makes a socket non-blocking again. If a dialer sets socket options
// through conn.File() and Fd(), it makes the socket blocking, as the duplicate
// shares the file description. Then neither a deadline nor Close ends a read.
func unblock(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	if raw := rawConn(conn); raw != nil {
		raw.Control(func(fd uintptr) { setNonblock(syscall.SetNonblock, fd) })
	}
}

// setNonblock calls set. The descriptor is an int on unix, and a Handle on
// Windows, where set does nothing.
func setNonblock[T ~int | ~uintptr](set func(T, bool) error, fd uintptr) { set(T(fd), true) }

// longAgo is a deadline that makes a read return at once.
var longAgo = time.Unix(1, 0)

// A waiter interrupts a read of a connection when wake is called. It does that
// with a read deadline. Code around the proxy may set read deadlines too, such as
// a listener that limits the age of its connections. Such a deadline ends the
// flow, as it does with httputil.ReverseProxy.
//
// So a waiter sets its deadline only during a read, removes it when that read
// ends, and changes deadline and state together, under mu. It rules out two
// interleavings:
//   - drive writes to a slow end, wake sets a deadline, the listener sets its
//     own, drive reads and finds a deadline passed. It would take the listener's
//     for wake's, and remove it.
//   - drive's read is interrupted, wake is called again and sets its deadline
//     again, drive removes the deadline. The second wake would be lost.
//
// It cannot rule out two others, as a connection does not report its deadline: a
// listener sets one in the microseconds between wake and the end of the read, or
// has set one that lies in the future when wake is called. The waiter removes
// either.
type waiter struct {
	conn  net.Conn
	mu    sync.Mutex
	state waiterState
}

type waiterState uint8

// The states of a waiter. drive calls begin before and end after each read. Any
// goroutine calls wake.
//
//	notReading  → reading      begin
//	notReading  → askedEarly   wake
//	askedEarly  → notReading   begin, and drive does not read
//	reading     → notReading   end
//	reading     → interrupted  wake sets the deadline
//	interrupted → notReading   end removes the deadline
const (
	notReading waiterState = iota
	askedEarly
	reading
	interrupted
)

// begin reports whether drive is to read.
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

// end follows the read. It reports whether wake has interrupted the read. If so,
// the caller must ignore its os.ErrDeadlineExceeded.
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

// wake makes the current read, or else the next one, return at once. It reports
// whether it has interrupted a read.
func (w *waiter) wake() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch w.state {
	case notReading:
		w.state = askedEarly
	case reading:
		w.state = interrupted
		w.conn.SetReadDeadline(longAgo)
		return true
	}
	return false
}
