//go:build !386 && !s390x && !wsproxy_portable

package wsproxy

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A tlsRelay is the Linux relay for tunnels with a tls.Conn on one side or both.
// A loop only watches their sockets, as a call of crypto/tls may wait. The loop's
// crew drives a flow while there is something to read. An idle tunnel holds no
// goroutine.
//
// The socket below a tls.Conn stays in the runtime's poller, where crypto/tls
// waits. A plain socket leaves it.
type tlsRelay struct {
	t                *Tunnel
	loop             *loop
	client, upstream half
	left             atomic.Int32  // halves whose flow has not ended
	done             chan struct{} // of run; nil: the tunnel is detached

	mu      sync.Mutex
	isCut   bool // cut was called
	over    bool // finish waits for closing, so nothing may be added to it
	closing sync.WaitGroup
}

func isTLS(conn net.Conn) bool {
	_, secure := conn.(*tls.Conn)
	return secure
}

// tlsRelay returns a tlsRelay if each connection is either a plain socket or a
// tls.Conn over one. A type that embeds a tls.Conn is another connection: it may
// hold bytes of its own, which no event announces. If tlsRelay returns nil, client
// and upstream are unchanged.
func (ls *loops) tlsRelay(t *Tunnel, client, upstream net.Conn) relay {
	r := &tlsRelay{t: t}
	halves := []*half{&r.client, &r.upstream}
	if !r.client.init(r, client, &t.fromClient, &t.fromUpstream) {
		return nil
	}
	if !r.upstream.init(r, upstream, &t.fromUpstream, &t.fromClient) {
		r.client.release()
		return nil
	}
	var err error
	if r.loop, err = ls.place(); err == nil {
		for i, h := range halves {
			if err = h.join(); err != nil {
				for _, joined := range halves[:i] {
					joined.control(func(fd uintptr) { r.loop.unwatch(int(fd)) })
					r.loop.crew.remove(joined.watch)
				}
				r.loop.dismiss()
				break
			}
		}
	}
	if err != nil {
		r.client.release()
		r.upstream.release()
		return nil
	}
	for i, conn := range []net.Conn{client, upstream} {
		if halves[i].plain != nil {
			conn.Close() // the duplicate stays
		} else {
			unblock(conn)
			conn.SetDeadline(time.Time{})
		}
	}
	return r
}

func (r *tlsRelay) run() {
	r.done = make(chan struct{})
	r.start()
	<-r.done
}

func (r *tlsRelay) start() {
	if r.wasCut() { // by a hook, for instance: the client must not see the 101
		go r.finish() // which may wait for a connection that lingers
		return
	}
	r.left.Store(2)
	r.loop.crew.queue(&r.client, &r.upstream)
}

func (r *tlsRelay) wasCut() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.isCut
}

// finish closes both connections. No flow uses them any more.
func (r *tlsRelay) finish() {
	for _, h := range []*half{&r.client, &r.upstream} {
		h.close()
		r.loop.crew.remove(h.watch)
	}
	r.mu.Lock()
	r.over = true
	r.mu.Unlock()
	r.closing.Wait()
	r.loop.dismiss()
	if r.done != nil {
		close(r.done)
	} else {
		go r.t.finish() // the user's hook must not delay the crew
	}
}

// closeLater calls shut, which closes a connection, on a new goroutine.
func (r *tlsRelay) closeLater(shut func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.over {
		r.closing.Go(shut)
	}
}

func (r *tlsRelay) cut() {
	r.mu.Lock()
	r.isCut = true
	r.mu.Unlock()
	r.client.cut()
	r.upstream.cut()
}

func (r *tlsRelay) cutSrc(f *flow) { r.half(f).cut() }

func (r *tlsRelay) wake(f *flow) { r.half(f).wake() }

func (r *tlsRelay) half(f *flow) *half {
	if f == r.client.in {
		return &r.client
	}
	return &r.upstream
}

// A half is one connection of a tlsRelay and the flow that reads it.
type half struct {
	state  atomic.Uint32 // halfBusy and the requests
	watch  watch
	next   *half // in the crew's queue
	in     *flow // reads the connection
	secure *secureEnd
	plain  *plainEnd // if secure is nil
	relay  *tlsRelay

	// Only the worker that drives the half uses these:
	begun    bool
	readable bool  // there may be more in the socket
	unsure   bool  // the stream's end or urgent data has come: a short read need not be the last
	streak   int64 // bytes moved since a write last had to wait
	moved    stamp // in.moved, as it was then
}

// What a half is asked to do, and halfBusy: it is in the queue or a worker drives
// it. Whoever sets a bit of a half that is not busy makes it busy and queues it.
// The worker clears the other bits before it handles them. It clears halfBusy
// only if no other bit is set, so that none is lost that is set meanwhile. A half
// is busy before start, and for good after its flow has ended.
const (
	halfBusy     = 1 << iota
	halfReadable // an event: the socket has more
	halfUnsure   // the same, and perhaps the end or urgent data
	halfWoken
	halfCut
)

func (h *half) init(r *tlsRelay, conn net.Conn, in, out *flow) bool {
	h.relay, h.in = r, in
	h.state.Store(halfBusy)
	if secure, ok := conn.(*tls.Conn); ok {
		h.secure = newSecureEnd(secure)
		out.dst = &connSink{halfCloser{secure}, out}
		return h.secure != nil
	}
	fd, ok := duplicate(conn)
	if !ok {
		return false
	}
	h.setPlain(fd, out)
	_, unix := conn.(*net.UnixConn)
	h.plain.lingers = !unix && lingers(uintptr(fd))
	h.unsure = unix // a read stops where the peer has passed a descriptor
	return true
}

// setPlain makes fd the connection of h.
func (h *half) setPlain(fd int, out *flow) {
	h.plain = &plainEnd{fd: fd, half: h, out: out}
	out.dst = h.plain
}

// release undoes init.
func (h *half) release() {
	if h.plain != nil {
		syscall.Close(h.plain.fd)
	}
}

func (h *half) control(f func(fd uintptr)) error {
	if h.secure != nil {
		return h.secure.raw.Control(f)
	}
	f(uintptr(h.plain.fd))
	return nil
}

// notify asks h to do something and reports whether h must be queued.
func (h *half) notify(what uint32) bool { return h.state.Or(what|halfBusy)&halfBusy == 0 }

func (h *half) ask(what uint32) {
	if h.notify(what) {
		h.relay.loop.crew.queue(h)
	}
}

// event implements watched.
func (h *half) event(events uint32) *half {
	if h.plain != nil && events&(syscall.EPOLLOUT|syscall.EPOLLHUP|syscall.EPOLLERR) != 0 {
		h.plain.writable()
	}
	var what uint32
	switch {
	case events&(syscall.EPOLLRDHUP|syscall.EPOLLHUP|syscall.EPOLLERR|syscall.EPOLLPRI) != 0:
		what = halfUnsure
	case events&syscall.EPOLLIN != 0:
		what = halfReadable
	}
	if what != 0 && h.notify(what) {
		return h
	}
	return nil
}

// wake makes the flow handle what it was asked.
func (h *half) wake() {
	if h.secure != nil {
		h.secure.waiter.wake()
	}
	h.ask(halfWoken)
}

// cut closes the connection at once. close(2) may wait if SO_LINGER is set, so
// another goroutine calls it then.
func (h *half) cut() {
	if h.secure != nil {
		h.relay.closeLater(func() { cutConn(h.secure.conn) })
	} else {
		h.plain.close()
	}
	h.ask(halfCut)
}

// close closes the connection in order, unless the relay was cut.
func (h *half) close() {
	if h.plain != nil {
		h.plain.close()
		return
	}
	if h.relay.wasCut() {
		cutConn(h.secure.conn) // before Close, which would send close_notify
	}
	h.secure.conn.Close()
}

// crewTurn is how many bytes a half may move before others get their turn.
const crewTurn = 256 << 10

// turn drives the flow until there is nothing left to do.
func (h *half) turn(w *worker) {
	f := h.in
	if !h.begun {
		h.begun = true
		f.begin()
	}
	parked := !h.more()
	for budget := crewTurn; ; {
		asked := h.state.And(halfBusy)
		if asked&(halfReadable|halfUnsure) != 0 {
			h.unsure = h.unsure || asked&halfUnsure != 0
			// The bytes of an event that came while h was driven may have been
			// read since, and crypto/tls would wait for others.
			h.readable = h.readable || h.secure == nil || parked && !h.unsure || h.secure.received(h, w) > 0
		}
		parked = false
		switch {
		case f.state == ended:
		case asked&halfCut != 0:
			f.take(nil, net.ErrClosed)
		case h.more():
			p, err := h.read(w)
			if err == io.EOF {
				awaitWriter(f.back())
			}
			f.take(p, err)
			budget -= len(p)
			h.streak += int64(len(p))
			if moved := f.moved.Load(); moved != h.moved {
				h.moved, h.streak = moved, 0
			}
		case asked&halfWoken != 0:
			f.take(nil, nil)
		}
		switch {
		case f.state == ended:
			if h.relay.left.Add(-1) == 0 {
				h.relay.finish()
			}
			return
		case h.more():
			if budget <= 0 {
				h.relay.loop.crew.queue(h)
				return
			}
		case h.state.CompareAndSwap(halfBusy, 0):
			return
		}
	}
}

// more reports whether there may be something to read.
func (h *half) more() bool { return h.readable || h.secure != nil && h.secure.held }

// read returns what has come, which may be nothing. The bytes are valid until w's
// next read. The size of the buffer follows the rule of socket.readSize.
func (h *half) read(w *worker) (p []byte, err error) {
	b := w.buffer(h.streak >= 16*int64(len(bulkBuffer{})))
	n := 0
	if h.secure != nil {
		n, err = h.secure.read(h, w, b)
	} else {
		n, err = h.plain.read(b)
		// Bytes that come after a short read cause a new event.
		h.readable = n == len(b) || h.unsure && n > 0
	}
	return b[:n], err
}
