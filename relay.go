package wsproxy

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A flow is one direction of a tunnel: what src sends goes to dst.
type flow struct {
	t                  *Tunnel
	src, dst           net.Conn
	srcEnded, dstEnded Reason // why the tunnel ends if that end is the first to go

	head  []byte // the proxy's own bytes to dst, sent first and not counted
	early []byte // what src sent before the tunnel stood

	bytes   atomic.Int64
	active  atomic.Int64 // when a byte last moved
	stalled atomic.Int64 // since when a write waits for dst, 0: none does
}

func (f *flow) init(t *Tunnel, src, dst net.Conn, srcEnded, dstEnded Reason) {
	f.t, f.src, f.dst, f.srcEnded, f.dstEnded = t, src, dst, srcEnded, dstEnded
}

func (f *flow) stats() FlowStats { return FlowStats{Bytes: f.bytes.Load()} }

// run relays until src ends or dst takes no more.
func (f *flow) run() {
	src, dst := newSource(f.src), newSink(f.dst, f)
	f.bytes.Add(int64(len(f.early)))
	err := dst.write(append(f.head, f.early...))
	f.head, f.early = nil, nil
	for err == nil {
		p, readErr := src.read()
		if len(p) > 0 {
			f.touch()
			f.bytes.Add(int64(len(p))) // before dst can know of them
			err = dst.write(p)
		}
		src.release()
		if readErr != nil && err == nil {
			f.srcDone(readErr)
			return
		}
	}
	f.dstDone(err)
	// The other flow may still bring what dst had sent before it went. Closing
	// src with bytes unread would reset it and lose that, so they are taken
	// until src ends too or the close timeout comes.
	for err = nil; err == nil; src.release() {
		_, err = src.read()
	}
}

func (f *flow) touch() { f.active.Store(f.t.p.tunnels.now()) }

// srcDone passes the end of src on: an orderly one as such, leaving the other
// flow to go on, any other as a reset.
func (f *flow) srcDone(err error) {
	if err == io.EOF {
		f.t.settle(f.srcEnded, nil)
		f.t.startClosing()
		if closeWrite(f.dst) {
			return
		}
	} else {
		f.t.settle(f.srcEnded, err)
		if !errors.Is(err, net.ErrClosed) { // else the proxy's own doing
			resetConn(f.dst)
		}
	}
	f.t.cut()
}

// dstDone notes that dst takes no more. The flow that reads from dst finds out
// how it ended.
func (f *flow) dstDone(err error) {
	f.t.settle(f.dstEnded, err)
	f.t.startClosing()
}

// A source reads one end of a tunnel, holding no buffer of the pool while it
// waits.
type source interface {
	// read waits for bytes, which are valid until release.
	read() ([]byte, error)
	release()
}

// A sink writes one end of a tunnel, noting in its flow when it has to wait.
type sink interface {
	write(p []byte) error
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
	if secure, ok := conn.(*tls.Conn); ok {
		return &tlsSource{conn: secure}
	}
	return &connSource{conn: conn}
}

func newSink(conn net.Conn, f *flow) sink {
	if raw := newRawSink(conn, f); raw != nil {
		return raw
	}
	return &connSink{conn, f}
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

var longAgo = time.Unix(1, 0)

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

// connSink writes any connection, in pieces that show progress and cost
// nothing: a TLS record is no larger.
type connSink struct {
	conn net.Conn
	f    *flow
}

func (s *connSink) write(p []byte) error {
	const piece = 16 << 10
	for len(p) > 0 {
		s.f.stalled.Store(s.f.t.p.tunnels.now())
		n, err := s.conn.Write(p[:min(len(p), piece)])
		if err != nil {
			s.f.stalled.Store(0)
			return err
		}
		p = p[n:]
		s.f.touch()
	}
	s.f.stalled.Store(0)
	return nil
}
