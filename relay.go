package wsproxy

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// A relay moves the bytes of one tunnel. cut, cutSrc and wake may be called
// from any goroutine, at any time, and do not wait.
type relay interface {
	run()               // relays until both flows have ended and both connections are closed
	start(ended func()) // relays in the background; ended is called on a goroutine of its own
	cut()               // closes both connections
	cutSrc(f *flow)     // closes the one that f reads
	wake(f *flow)       // has f look at what it was asked
}

// newRelay returns the relay for a tunnel, which owns the connections from here
// on.
func newRelay(t *Tunnel, client, upstream net.Conn) relay {
	if r := t.p.tunnels.loops.relay(t, client, upstream); r != nil {
		return r
	}
	return &connRelay{t, client, upstream}
}

// connRelay is the portable relay: a goroutine for each flow, over any two
// connections.
type connRelay struct {
	t                *Tunnel
	client, upstream net.Conn
}

func (r *connRelay) run() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.drive(&r.t.fromClient, r.client, r.upstream)
	}()
	r.drive(&r.t.fromUpstream, r.upstream, r.client)
	<-done
	r.client.Close()
	r.upstream.Close()
}

func (r *connRelay) start(ended func()) {
	go func() {
		r.run()
		ended()
	}()
}

func (r *connRelay) cut() {
	cutConn(r.client)
	cutConn(r.upstream)
}

func (r *connRelay) cutSrc(f *flow) { cutConn(r.src(f)) }

func (r *connRelay) wake(f *flow) { r.src(f).SetReadDeadline(longAgo) }

func (r *connRelay) src(f *flow) net.Conn {
	if f == &r.t.fromClient {
		return r.client
	}
	return r.upstream
}

// longAgo as a deadline makes a read return what is there at once.
var longAgo = time.Unix(1, 0)

// drive relays one flow until it has ended.
func (r *connRelay) drive(f *flow, src, dst net.Conn) {
	in := newSource(src)
	f.dst = newSink(dst, f)
	for more := f.begin(); more; {
		p, err := in.read()
		if errors.Is(err, os.ErrDeadlineExceeded) { // wake's
			src.SetReadDeadline(time.Time{})
			err = nil
		}
		if err == io.EOF {
			awaitWriter(f.back())
		}
		more = f.take(p, err)
		in.release()
	}
}

// awaitWriter gives a write to the end that has just ended the time to fail. A
// reset wakes the waiting writer too, and tells one of the two alone what it
// was: let the other say. Whether it waits is not to be known; it does where a
// millisecond does not move it.
func awaitWriter(f *flow) {
	since := f.stalled.Load()
	for tries := 0; since != 0 && f.stalled.Load() == since && tries < 50; tries++ {
		time.Sleep(time.Millisecond)
	}
}

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

func getBuffer() *buffer  { return buffers.Get().(*buffer) }
func putBuffer(b *buffer) { buffers.Put(b) }

func newSource(conn net.Conn) source {
	if raw := newRawSource(conn); raw != nil {
		return raw
	}
	if secure, ok := conn.(*tls.Conn); ok && hasDeadlines(secure.NetConn()) {
		return &tlsSource{conn: secure}
	}
	return &connSource{conn: conn}
}

// hasDeadlines reports whether the deadlines of conn are sure to work, as those
// of a wrapper or of a tunnel in something else may not.
func hasDeadlines(conn net.Conn) bool {
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn:
		return true
	}
	return false
}

func newSink(conn net.Conn, f *flow) sink {
	if raw := newRawSink(conn, f); raw != nil {
		return raw
	}
	return &connSink{halfCloser{conn}, f}
}

// parkSize is what a source that cannot wait without a buffer waits with.
const parkSize = 512

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

// tlsSource reads a tls.Conn: a few bytes while it waits, and then all that
// has been received already, which a deadline in the past tells from what is
// still to come.
type tlsSource struct {
	conn   *tls.Conn
	parked [parkSize]byte
	rented *buffer
}

func (s *tlsSource) read() ([]byte, error) {
	n, err := s.conn.Read(s.parked[:])
	if err != nil || n < len(s.parked) {
		return s.parked[:n], endOfTLS(err)
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

func (s *tlsSource) release() {
	if s.rented != nil {
		putBuffer(s.rented)
		s.rented = nil
	}
}

// endOfTLS takes a connection closed without close_notify for closed: many
// peers do that, and a WebSocket's own Close frame tells whether all came.
func endOfTLS(err error) error {
	if err == io.ErrUnexpectedEOF {
		return io.EOF
	}
	return err
}

// pieceSize is what is written to any connection at once, to show progress. It
// costs nothing: a TLS record is no larger.
const pieceSize = 16 << 10

// connSink writes any connection.
type connSink struct {
	halfCloser
	f *flow
}

func (s *connSink) write(p []byte) error {
	for len(p) > 0 {
		s.f.stalled.Store(s.f.clock.now())
		n, err := s.conn.Write(p[:min(len(p), pieceSize)])
		if err != nil {
			return err
		}
		p = p[n:]
	}
	s.f.unstall()
	return nil
}

// halfCloser has the ways to end a connection that a sink needs.
type halfCloser struct{ conn net.Conn }

func (h halfCloser) closeWrite() bool {
	conn, ok := h.conn.(interface{ CloseWrite() error })
	if ok {
		conn.CloseWrite() // a failure shows in the other flow
	}
	return ok
}

func (h halfCloser) reset() {
	conn := h.conn
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	if tcp, ok := conn.(interface{ SetLinger(sec int) error }); ok {
		tcp.SetLinger(0)
	}
}

// cutConn closes a connection at once; a tls.Conn would first wait for the
// peer to take its close_notify.
func cutConn(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	conn.Close()
}
