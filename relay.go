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

// A flow is one direction of a tunnel: what src sends goes to dst. Its run is
// the only writer of dst; others ask it to add frames of the proxy's own.
type flow struct {
	t                  *Tunnel
	src, dst           net.Conn
	srcEnded, dstEnded Reason // why the tunnel ends if that end is the first to go

	head  []byte // the proxy's own bytes to dst, sent first and not counted
	early []byte // what src sent before the tunnel stood

	// Of run alone:
	sink sink
	scan scanner
	held int // bytes of scan.header that are kept back until it is complete

	asked    atomic.Uint32 // askPing, askClose: frames to add at a boundary
	bytes    atomic.Int64
	messages atomic.Int64
	code     atomic.Int32 // of the Close frame seen, 0: none
	heard    atomic.Int64 // when src last sent something
	moved    atomic.Int64 // when a write that had to wait last went on
	stalled  atomic.Int64 // since when a write waits for dst, 0: none does
	pinged   int64        // when src was last sent a Ping; the sweeper's
}

const (
	askPing = 1 << iota
	askClose
)

func (f *flow) init(t *Tunnel, src, dst net.Conn, srcEnded, dstEnded Reason) {
	f.t, f.src, f.dst, f.srcEnded, f.dstEnded = t, src, dst, srcEnded, dstEnded
	f.scan.masked = srcEnded == ClientClosed
	f.scan.off = !t.frames
}

// back is the flow in the other direction.
func (f *flow) back() *flow {
	if f == &f.t.fromClient {
		return &f.t.fromUpstream
	}
	return &f.t.fromClient
}

func (f *flow) stats() FlowStats {
	return FlowStats{Bytes: f.bytes.Load(), Messages: f.messages.Load(), CloseCode: int(f.code.Load())}
}

// ask has run add a frame at the next boundary, and wakes it if it waits for
// src. It does not wait itself.
func (f *flow) ask(what uint32) {
	f.asked.Or(what)
	f.src.SetReadDeadline(longAgo)
}

// longAgo as a deadline makes a read return what is there at once.
var longAgo = time.Unix(1, 0)

// errClosing ends a flow to which the proxy has added its Close frame: nothing
// may follow that.
var errClosing = errors.New("wsproxy: close frame sent")

// run relays until src ends or dst takes no more.
func (f *flow) run() {
	src := newSource(f.src)
	f.sink = newSink(f.dst, f)
	f.bytes.Add(int64(len(f.early)))
	err := f.sink.write(f.head)
	if err == nil {
		err = f.forward(f.early)
	}
	f.head, f.early = nil, nil
	for err == nil {
		if f.asked.Load() != 0 {
			if err = f.add(); err != nil {
				break
			}
		}
		p, readErr := f.read(src)
		if len(p) > 0 {
			f.bytes.Add(int64(len(p))) // before dst can know of them
			err = f.forward(p)
		}
		src.release()
		if readErr != nil && err == nil {
			f.srcDone(readErr)
			return
		}
	}
	if err != errClosing {
		f.dstDone(err)
	}
	f.discard(src)
}

// read returns what src has sent, or nothing where ask wanted it to return.
func (f *flow) read(src source) ([]byte, error) {
	p, err := src.read()
	if len(p) > 0 {
		f.heard.Store(f.t.p.tunnels.now())
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		f.src.SetReadDeadline(time.Time{})
		err = nil
	}
	return p, err
}

// discard takes what src still sends although it has nowhere to go. Once the
// proxy has asked both ends to close, that is until src has. Where dst is gone,
// it is until src ends: the other flow may still bring what dst had sent before,
// and closing src with bytes unread would reset it and lose that. The close
// timeout bounds both.
func (f *flow) discard(src source) {
	for !f.scan.closed || !f.t.leaving.Load() {
		p, err := f.read(src)
		f.scan.all(p)
		f.publish()
		src.release()
		if err != nil {
			return
		}
	}
}

// forward writes p to dst, following the frames in it.
func (f *flow) forward(p []byte) error {
	if f.scan.off || f.scan.limit == 0 && f.asked.Load() == 0 {
		f.scan.all(p)
		f.publish()
		return f.write(p)
	}
	return f.forwardFrames(p)
}

// forwardFrames is forward one frame at a time, for when something is to be
// added between two, or one may be too large to pass. Where it may be, a header
// is kept back until it is whole.
func (f *flow) forwardFrames(p []byte) error {
	from := 0 // what is not written yet of p
	for at := 0; at < len(p); {
		start := at
		at += f.scan.frame(p[at:])
		switch {
		case f.scan.off:
			at = len(p)
		case f.scan.have > 0: // the header goes on in the next piece
			if f.scan.limit > 0 {
				f.held = f.scan.have
				return f.write(p[from:start])
			}
		case f.scan.over && !f.scan.closed:
			if err := f.write(p[from:start]); err != nil {
				return err
			}
			f.held = 0
			f.t.goAway(Limit, codeTooBig, "message too big")
			return f.addClose()
		}
		if f.held > 0 {
			held := f.scan.header[:f.held]
			f.held = 0
			if err := f.write(held); err != nil {
				return err
			}
		}
		if f.asked.Load() != 0 && f.scan.boundary() {
			f.publish()
			err := f.write(p[from:at])
			if err == nil {
				err = f.add()
			}
			if err != nil {
				return err
			}
			from = at
		}
	}
	f.publish()
	return f.write(p[from:])
}

// publish lets others see what the scanner has counted.
func (f *flow) publish() {
	if f.scan.messages != f.messages.Load() {
		f.messages.Store(f.scan.messages)
	}
	if f.scan.closed && f.code.Load() == 0 {
		f.code.Store(int32(f.scan.code))
		f.t.settle(f.srcEnded, nil)
	}
}

// write sends bytes of src's to dst.
func (f *flow) write(p []byte) error {
	err := f.sink.write(p)
	if f.stalled.Load() != 0 {
		f.stalled.Store(0)
		f.moved.Store(f.t.p.tunnels.now())
	}
	return err
}

// add sends the frames that were asked for, if this is a boundary. A side that
// has begun to close is left to it: the other answers in its own words.
func (f *flow) add() error {
	if f.scan.off {
		f.asked.Store(0)
		return nil
	}
	if !f.scan.boundary() {
		return nil
	}
	asked := f.asked.Swap(0)
	if f.scan.closed {
		if f.t.leaving.Load() {
			return errClosing
		}
		return nil
	}
	if f.back().code.Load() != 0 {
		return nil
	}
	if asked&askClose != 0 {
		return f.addClose()
	}
	return f.addFrame(opPing, []byte(pingPayload))
}

// addClose sends the proxy's Close frame. Nothing more can follow it.
func (f *flow) addClose() error {
	if err := f.addFrame(opClose, f.t.goodbye); err != nil {
		return err
	}
	return errClosing
}

func (f *flow) addFrame(opcode byte, payload []byte) error {
	err := f.sink.write(appendControl(nil, opcode, payload, f.scan.masked))
	f.stalled.Store(0)
	return err
}

// srcDone passes the end of src on: an orderly one as such, leaving the other
// flow to go on, any other as a reset.
func (f *flow) srcDone(err error) {
	if f.held > 0 {
		f.write(f.scan.header[:f.held])
	}
	if f.asked.Load()&askClose != 0 && f.add() == errClosing {
		return
	}
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
			return err
		}
		p = p[n:]
	}
	return nil
}
