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
// from any goroutine at any time, and do not wait.
type relay interface {
	run()           // relays until both flows have ended and both connections are closed
	start()         // relays in the background, and then calls Tunnel.finish on a new goroutine
	cut()           // closes both connections
	cutSrc(f *flow) // closes the connection that f reads
	wake(f *flow)   // makes f handle what it was asked
}

// newRelay returns the relay for a tunnel. The relay owns both connections. It
// clears their deadlines, because the sweeper applies the timeouts of a tunnel. They
// are those of the handshake, and of a wrapper whose Hijack does not clear them as
// net/http does. On a loop deadlines have no effect.
func newRelay(t *Tunnel, client clientEnd, upstream net.Conn) relay {
	if client.stream != nil {
		unblock(upstream)
		upstream.SetDeadline(time.Time{})
		return newStreamRelay(t, client.stream, upstream)
	}
	if r := t.p.tunnels.loops.relay(t, client.conn, upstream); r != nil {
		return r
	}
	if c, ok := upstream.(interface{ netConn() net.Conn }); ok {
		upstream = c.netConn()
	}
	for _, conn := range []net.Conn{client.conn, upstream} {
		unblock(conn)
		conn.SetDeadline(time.Time{})
	}
	return newConnRelay(t, client.conn, upstream)
}

// connRelay is the portable relay: a goroutine for each flow, over any two
// connections.
type connRelay struct {
	t                *Tunnel
	client, upstream waiter

	mu      sync.Mutex
	isCut   bool // cut was called
	over    bool // run waits for closing, so nothing may be added to it
	closing sync.WaitGroup
}

func newConnRelay(t *Tunnel, client, upstream net.Conn) *connRelay {
	r := &connRelay{t: t}
	r.client.conn, r.upstream.conn = client, upstream
	return r
}

func (r *connRelay) run() {
	r.mu.Lock()
	early := r.isCut // by a hook, for instance: the client must not see the 101
	r.mu.Unlock()
	if !early {
		r.t.fromClient.dst = newSink(r.upstream.conn, &r.t.fromClient)
		r.t.fromUpstream.dst = newSink(r.client.conn, &r.t.fromUpstream)
		done := make(chan struct{})
		go func() {
			defer close(done)
			r.drive(&r.t.fromClient, &r.client)
		}()
		r.drive(&r.t.fromUpstream, &r.upstream)
		<-done
	}
	r.client.conn.Close()
	r.close()
}

// close closes the upstream's connection and waits for what cutLater began.
func (r *connRelay) close() {
	r.upstream.conn.Close()
	r.mu.Lock()
	r.over = true
	r.mu.Unlock()
	r.closing.Wait()
}

func (r *connRelay) start() {
	go func() {
		r.run()
		r.t.finish()
	}()
}

func (r *connRelay) cut() {
	r.mu.Lock()
	r.isCut = true
	r.mu.Unlock()
	r.cutLater(r.client.conn)
	r.cutLater(r.upstream.conn)
}

func (r *connRelay) cutSrc(f *flow) { r.cutLater(r.src(f).conn) }

// cutLater closes a connection on a new goroutine. With SO_LINGER set, Close may
// wait. Proxy.Close cuts one tunnel after another, and the second must not wait
// for the first.
func (r *connRelay) cutLater(conn net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.over {
		r.closing.Go(func() { cutConn(conn) })
	}
}

func (r *connRelay) wake(f *flow) { r.src(f).wake() }

func (r *connRelay) src(f *flow) *waiter {
	if f == &r.t.fromClient {
		return &r.client
	}
	return &r.upstream
}

// drive relays one flow until it has ended.
func (r *connRelay) drive(f *flow, src *waiter) {
	in := newSource(src.conn)
	f.begin()
	for f.state != ended {
		var p []byte
		var err error
		if src.begin() {
			p, err = in.read()
			if src.end() && errors.Is(err, os.ErrDeadlineExceeded) {
				err = nil
			}
		}
		if err == io.EOF {
			awaitWriter(f.back())
		}
		f.take(p, err)
		in.release()
	}
}

// awaitWriter is called after a read of an end returned EOF. If f has a write to
// that end waiting, it gives the write time to fail.
//
// The kernel reports a reset only once, to whichever call comes first. Suppose
// f's write waits and the end resets. Both the write and the read wake up. The
// write gets the reset, and the read an EOF, which srcDone must not pass on as
// an orderly end. So the reader waits until the writer has called stop, which
// sets dstReset and then clears stalled.
//
// A set stalled does not prove that a write waits, as some sinks set it before
// each write. If it changes, the write went through or failed, and awaitWriter
// returns. If the end has only half-closed, the write may wait on: hence the
// limit of 50 ms.
func awaitWriter(f *flow) {
	since := f.stalled.Load()
	for tries := 0; since.isSet() && f.stalled.Load() == since && tries < 50; tries++ {
		time.Sleep(time.Millisecond)
	}
}

func newSink(conn net.Conn, f *flow) sink {
	if raw := newRawSink(conn, f); raw != nil {
		return raw
	}
	return &connSink{halfCloser{conn}, f}
}

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

// pieceSize is how much one write passes to a connection. Each piece shows the
// sweeper progress. It costs nothing, as a TLS record is no larger.
const pieceSize = 16 << 10

// halfCloser implements closeWrite and reset of a sink.
type halfCloser struct{ conn net.Conn }

func (h halfCloser) closeWrite() bool {
	conn, ok := h.conn.(interface{ CloseWrite() error })
	if ok {
		conn.CloseWrite() // the other flow gets the error
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

// cutConn closes a connection without sending close_notify, for which Close of a
// tls.Conn may wait.
func cutConn(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	conn.Close()
}
