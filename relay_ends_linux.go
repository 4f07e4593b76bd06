//go:build !386 && !s390x && !wsproxy_portable

package wsproxy

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// A secureEnd is a tls.Conn of a tlsRelay. Its socket stays in the runtime's
// poller, where calls of crypto/tls wait. One worker at a time reads it.
type secureEnd struct {
	conn   *tls.Conn
	raw    syscall.RawConn // of the socket below
	waiter waiter
	held   bool // conn may hold more
}

// newSecureEnd returns nil if conn is not over a socket.
func newSecureEnd(conn *tls.Conn) *secureEnd {
	raw := socketBelow(conn)
	if raw == nil {
		return nil
	}
	e := &secureEnd{conn: conn, raw: raw, held: true} // net/http may have read ahead
	e.waiter.conn = conn
	return e
}

// read reads records from the socket if that is readable. It waits if only a part of
// the first one has come, or if that has no data, such as a KeyUpdate. It reads
// another one before it returns only if that has come as a whole.
//
// When the socket has no more, read reads what crypto/tls holds. It does that under
// a deadline in the past, with which crypto/tls does not read the socket. Otherwise
// bytes that arrive meanwhile could get from the socket to crypto/tls, and their
// event, which epoll drops once the socket is empty, would not tell of them.
func (e *secureEnd) read(h *half, w *worker, b []byte) (n int, err error) {
	if !e.waiter.begin() {
		return 0, nil
	}
	if !h.readable {
		h.readable = e.received(h, w) > 0
	}
	for h.readable && err == nil {
		var more int
		more, err = e.conn.Read(b[n:])
		n += more
		if err == nil {
			left := e.received(h, w)
			h.readable, e.held = left > 0, true
			if left < maxRecord || n == len(b) {
				break
			}
		}
	}
	if err == nil && !h.readable && n < len(b) {
		e.conn.SetReadDeadline(longAgo)
		for err == nil && n < len(b) {
			var more int
			more, err = e.conn.Read(b[n:])
			n += more
		}
		e.conn.SetReadDeadline(time.Time{})
		if errors.Is(err, os.ErrDeadlineExceeded) {
			e.held, err = false, nil
		}
	}
	if e.waiter.end() { // wake's deadline may have ended a read, and may have made received return 1
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = nil
		}
		h.readable, e.held = e.received(h, w) > 0, true
	}
	return n, endOfTLS(err)
}

// maxRecord is the size of the largest TLS record, its header included.
const maxRecord = 16<<10 + 2<<10 + 5

// received returns how many bytes the socket has received that were not read. An
// end or an error does not count: it causes an event, and from then on received
// returns at least 1 if a read would not wait. A deadline that has passed counts,
// so that a read finds it: code around the proxy has set it.
func (e *secureEnd) received(h *half, w *worker) int {
	w.unsure = h.unsure
	if e.raw.Read(w.inquire) != nil {
		return 1
	}
	return int(w.received)
}

// received returns how many bytes a socket has received that were not read, but
// only those before urgent data.
func received(fd uintptr) (n int32) {
	syscall.RawSyscall(syscall.SYS_IOCTL, fd, syscall.TIOCINQ, uintptr(unsafe.Pointer(&n)))
	return n
}

// readable reports whether a read of a socket would not wait. Unlike a read with
// MSG_PEEK, it leaves an error to the next read.
func readable(fd uintptr) bool {
	const pollIn = 1 // poll(2) reports errors and hangups too
	poll := struct {
		fd              int32
		events, revents int16
	}{fd: int32(fd), events: pollIn}
	n, _, errno := syscall.RawSyscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&poll)), 1,
		uintptr(unsafe.Pointer(new(syscall.Timespec))), 0, 0, 0)
	return errno != 0 || n > 0
}

// A plainEnd is the plain socket of a tlsRelay, out of the runtime's poller. It
// implements sink: a write that the kernel does not take waits for the loop's
// event.
//
// One worker at a time reads it and one writes it, each under a lock of its own.
// The lock is held during a system call, which does not wait, so that close cannot
// close the descriptor while a call is about to use its number.
type plainEnd struct {
	reading, writing sync.Mutex
	fd               int   // -1: closed
	lingers          bool  // close(2) waits until what was written is acknowledged
	half             *half // reads the socket
	out              *flow // writes it

	waits atomic.Bool   // a write has had to wait; ready is made, and epoll reports room
	ready chan struct{} // has a value if a write that waits is to try again
}

// read returns no bytes and no error if nothing has come.
func (e *plainEnd) read(b []byte) (int, error) {
	e.reading.Lock()
	defer e.reading.Unlock()
	if e.fd < 0 {
		return 0, net.ErrClosed
	}
	for {
		switch n, errno := recv(e.fd, b); {
		case errno == syscall.EINTR:
		case errno == syscall.EAGAIN:
			return 0, nil
		case errno != 0:
			return 0, os.NewSyscallError("recvfrom", errno)
		case n == 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

func (e *plainEnd) write(p []byte) error {
	for {
		n, err := e.send(p)
		if p = p[n:]; err != nil {
			return err
		}
		if len(p) == 0 {
			e.out.unstall()
			return nil
		}
		if n > 0 || !e.out.stalled.Load().isSet() {
			e.out.stalled.Store(e.out.clock.now())
		}
		<-e.ready
	}
}

// send writes what the kernel takes. If that is not all, ready then gets a value
// when the socket takes more or is closed.
func (e *plainEnd) send(p []byte) (n int, err error) {
	e.writing.Lock()
	defer e.writing.Unlock()
	if e.fd < 0 {
		return 0, net.ErrClosed
	}
	n, err = sendAll(e.fd, p)
	if err == nil && n < len(p) && !e.waits.Load() {
		e.ready = make(chan struct{}, 1)
		e.waits.Store(true)
		err = e.half.awaitRoom()
	}
	return n, err
}

// writable is called when the socket may take more.
func (e *plainEnd) writable() {
	if e.waits.Load() {
		select {
		case e.ready <- struct{}{}:
		default:
		}
	}
}

func (e *plainEnd) close() {
	e.reading.Lock()
	defer e.reading.Unlock()
	e.writing.Lock()
	defer e.writing.Unlock()
	switch fd := e.fd; {
	case fd < 0:
	case e.lingers:
		e.half.relay.closeLater(func() { syscall.Close(fd) })
	default:
		syscall.Close(fd) // this also removes its watch
	}
	e.fd = -1
	e.writable()
}

func (e *plainEnd) closeWrite() bool {
	e.writing.Lock()
	defer e.writing.Unlock()
	if e.fd >= 0 {
		syscall.Shutdown(e.fd, syscall.SHUT_WR)
	}
	return true
}

func (e *plainEnd) reset() {
	e.writing.Lock()
	defer e.writing.Unlock()
	if e.fd >= 0 {
		syscall.SetsockoptLinger(e.fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
		e.lingers = false
	}
}

// relay returns a relay of c's loop, which takes c over. It returns nil if the
// client's connection needs the portable relay. c is then unchanged.
func (c *loopConn) relay(t *Tunnel, client net.Conn) relay {
	if isTLS(client) {
		r := &tlsRelay{t: t, loop: c.loop}
		if !r.client.init(r, client, &t.fromClient, &t.fromUpstream) || r.client.join() != nil {
			return nil
		}
		unblock(client)
		client.SetDeadline(time.Time{})
		r.upstream.adopt(r, c, &t.fromUpstream, &t.fromClient)
		return r
	}
	r := &loopRelay{t: t, loop: c.loop}
	if !r.client.detach(client, true) {
		return nil
	}
	if c.loop.watch(r.client.fd, quiet) != nil {
		syscall.Close(r.client.fd)
		return nil
	}
	client.Close()
	r.upstream.fd = c.take()
	c.loop.crew.remove(c.watch) // register gives the socket another slot
	r.init()
	return r
}

// adopt makes h the half of c, which it takes over.
func (h *half) adopt(r *tlsRelay, c *loopConn, in, out *flow) {
	h.relay, h.in = r, in
	h.state.Store(halfBusy)
	h.setPlain(c.take(), out)
	h.watch = c.watch
	c.loop.crew.replace(c.watch, h)
	h.readable, h.unsure = true, c.unsure // c may have got the events
}

// netConn returns a connection of package net in place of c. It returns c if the
// system refuses a descriptor.
func (c *loopConn) netConn() net.Conn {
	fd, ok := duplicateFD(uintptr(c.fd))
	if !ok {
		return c
	}
	f := os.NewFile(uintptr(fd), "")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return c
	}
	c.loop.unwatch(c.fd) // close(2) would leave the watch, as the socket stays open
	c.Close()
	return conn
}
