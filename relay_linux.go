//go:build !386 && !s390x && !wsproxy_portable

package wsproxy

import (
	"net"
	"os"
	"sync/atomic"
	"syscall"
)

// A loopRelay is the Linux relay. It takes two plain sockets out of the runtime's
// poller and gives them to a loop, and only the loop uses them from then on. An
// idle tunnel is a few hundred bytes and no goroutine. A loopRelay takes two cache
// lines, and a message touches both.
type loopRelay struct {
	t                *Tunnel
	loop             *loop
	client, upstream socket // only the loop uses them, from adopted on

	done   chan struct{} // of run; nil: the tunnel is detached
	slot   int32         // in loop.slots
	number int32         // distinguishes the relays that have had the slot; 0: not registered, or closed
	closes atomic.Int32  // due calls of closed: that of close, and one for each socket that closeLater is closing

	// loop.mu guards these:
	asked uint32 // what the loop has not taken yet
	state relayState

	// Only the loop uses these, from adopted on:
	over bool   // close was called
	todo uint32 // what the loop has taken and process has not done yet
}

// A relayState says who drives a loopRelay.
//
//	placed  → adopted  start was called and the relay was asked nothing before
//	placed  → handed   start was called and the relay was asked something, such as to cut
//	handed  → adopted  process, on the loop
type relayState uint8

const (
	placed  relayState = iota // the goroutine of the handshake
	handed                    // the loop, when it processes the relay
	adopted                   // the loop
)

// What a loop can be asked to do for a relay.
const (
	doCheck = 1 << iota
	doWake
	doCutClient
	doCutUpstream
	doCut = doCutClient | doCutUpstream
)

// relay returns a loopRelay if both connections are plain sockets, and a tlsRelay
// if one is a tls.Conn. It returns nil if they are something else, or if the
// system refuses a descriptor or a watch. Then client and upstream are unchanged,
// and the portable relay takes them.
func (ls *loops) relay(t *Tunnel, client, upstream net.Conn) relay {
	if c, ok := upstream.(*loopConn); ok {
		return c.relay(t, client)
	}
	if isTLS(client) || isTLS(upstream) {
		return ls.tlsRelay(t, client, upstream)
	}
	r := &loopRelay{t: t}
	if !r.client.detach(client, true) {
		return nil
	}
	if !r.upstream.detach(upstream, t.p.dialsWithUserCode) {
		syscall.Close(r.client.fd)
		return nil
	}
	var err error
	if r.loop, err = ls.place(); err == nil {
		err = r.loop.reserve(r.client.fd, r.upstream.fd)
		if err != nil {
			r.loop.dismiss()
		}
	}
	if err != nil {
		syscall.Close(r.client.fd)
		syscall.Close(r.upstream.fd)
		return nil
	}
	client.Close()
	upstream.Close()
	r.init()
	return r
}

func (r *loopRelay) init() {
	r.client.relay, r.upstream.relay = r, r
	r.t.fromUpstream.dst, r.t.fromClient.dst = &r.client, &r.upstream
	r.closes.Store(1)
}

func (r *loopRelay) run() {
	r.done = make(chan struct{})
	r.start()
	<-r.done
}

// start writes what precedes the first reads, above all the 101, and gives the
// relay to the loop without waking it, because that costs more than writing the
// 101. If a hook has already asked for something, the loop is woken instead. It
// closes the relay if that was a cut, and writes otherwise.
func (r *loopRelay) start() {
	if r.loop.quiet(r) {
		r.write()
		r.loop.adopt(r)
	}
}

func (r *loopRelay) write() {
	r.t.fromUpstream.begin()
	r.t.fromClient.begin()
}

// quiet is the watch of a reserved socket. Epoll always reports errors and hangups,
// and the loop ignores them.
var quiet = syscall.EpollEvent{Fd: noSlot, Events: epollET}

// reserve adds both sockets of a relay to the epoll instance, or neither. Their
// events come only after register. The system refuses a watch if memory is
// short or max_user_watches is reached (epoll(7)), and at this point the portable
// relay can still take the connections. Any goroutine may call reserve, as epoll
// has its own locks.
func (l *loop) reserve(client, upstream int) error {
	if err := l.watch(client, quiet); err != nil {
		return err
	}
	err := l.watch(upstream, quiet)
	if err != nil {
		l.unwatch(client) // the connection stays open, so its watch would stay too
	}
	return err
}

// quiet reports whether r was asked nothing. If it was, the loop takes it over.
func (l *loop) quiet(r *loopRelay) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.asked == 0 {
		return true
	}
	r.state = handed
	l.tell(r)
	return false
}

// adopt gives r to the loop, whose events come from now on. The loop processes r
// at once only if r was asked something meanwhile, or if what it has written has
// ended a flow.
func (l *loop) adopt(r *loopRelay) {
	l.mu.Lock()
	err := l.register(r)
	if r.asked != 0 || r.t.fromClient.state != open || r.t.fromUpstream.state != open {
		r.asked |= doCheck
		l.tell(r)
	}
	l.mu.Unlock()
	if err != nil {
		r.t.end(ReasonFailed, err)
	}
}

// adoptNow is adopt on the loop itself.
func (l *loop) adoptNow(r *loopRelay) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.install()
	return l.register(r)
}

// register gives r a slot and makes epoll report the events of both sockets, which
// are reserved, including those that are already pending. l.mu is held.
func (l *loop) register(r *loopRelay) error {
	r.state = adopted
	if len(l.free) == 0 {
		l.free = append(l.free, l.top)
		l.top++
	}
	r.slot = l.free[len(l.free)-1]
	l.free = l.free[:len(l.free)-1]
	l.last = max(l.last+1, 1) // after 2^31 registrations it begins again
	r.number = l.last
	l.fresh = append(l.fresh, r)
	for _, s := range []*socket{&r.client, &r.upstream} {
		s.waits = s.pending != nil
		if err := l.rewatch(s); err != nil { // not expected: the watch exists
			return err
		}
	}
	return nil
}

// socket returns the socket that an event is for, or nil.
func (l *loop) socket(event *syscall.EpollEvent) *socket {
	for range 2 {
		if slot := int(event.Fd >> 1); slot < len(l.slots) {
			if r := l.slots[slot]; r != nil && r.number == event.Pad {
				return [2]*socket{&r.client, &r.upstream}[event.Fd&1]
			}
		}
		l.mu.Lock()
		l.install()
		l.mu.Unlock()
	}
	return nil
}

// install puts fresh relays into their slots. l.mu is held.
func (l *loop) install() {
	for _, r := range l.fresh {
		for int(r.slot) >= len(l.slots) {
			l.slots = append(l.slots, nil)
		}
		l.slots[r.slot] = r
	}
	clear(l.fresh)
	l.fresh = l.fresh[:0]
}

// rewatch makes epoll report the events of s, including those that are already
// pending. Only a socket that had to wait for room is watched for it, because epoll
// would report each new socket as writable.
func (l *loop) rewatch(s *socket) error {
	event := syscall.EpollEvent{Fd: s.relay.slot << 1, Pad: s.relay.number,
		Events: syscall.EPOLLIN | syscall.EPOLLRDHUP | syscall.EPOLLPRI | epollET}
	if s == &s.relay.upstream {
		event.Fd |= 1
	}
	if s.waits {
		event.Events |= syscall.EPOLLOUT
	}
	return os.NewSyscallError("epoll_ctl", syscall.EpollCtl(l.epfd, syscall.EPOLL_CTL_MOD, s.fd, &event))
}

// awaitRoom makes epoll report from now on when s is writable.
func (l *loop) awaitRoom(s *socket) error {
	if s.waits || s.relay.number == 0 {
		return nil
	}
	l.mu.Lock() // register may be in the middle of this pair
	defer l.mu.Unlock()
	s.waits = true
	return l.rewatch(s)
}

func (r *loopRelay) post(what uint32) { r.loop.post(r, what) }

func (r *loopRelay) cut()       { r.post(doCut) }
func (r *loopRelay) wake(*flow) { r.post(doWake) }

func (r *loopRelay) cutSrc(f *flow) {
	if f == &r.t.fromClient {
		r.post(doCutClient)
	} else {
		r.post(doCutUpstream)
	}
}

// Everything below runs on the loop.

// process does what the relay was asked to do.
func (r *loopRelay) process() {
	if r.over {
		return
	}
	do := r.todo
	r.todo = 0
	if do&doCut == doCut {
		r.close()
		return
	}
	if r.state == handed {
		if err := r.loop.adoptNow(r); err != nil {
			r.t.settle(ReasonFailed, err)
			r.close()
			return
		}
		r.write()
	}
	if do&doWake != 0 {
		r.client.wake()
		r.upstream.wake()
	}
	if do&doCutClient != 0 {
		r.client.cut()
	}
	if do&doCutUpstream != 0 {
		r.upstream.cut()
	}
	r.check()
}

// check ends the relay if nothing is left to move.
func (r *loopRelay) check() {
	if r.t.fromClient.state == ended && r.t.fromUpstream.state == ended && r.client.pending == nil && r.upstream.pending == nil {
		r.close()
	}
}

// close closes both sockets at once and ends the relay.
func (r *loopRelay) close() {
	if r.over {
		return
	}
	r.over = true
	r.client.close()
	r.upstream.close()
	r.loop.release(r)
	r.closed()
}

// closed is called by close and for each socket that closeLater has closed. The
// last call lets run return, or finishes a detached tunnel. It does that on a new
// goroutine, because the user's hook must not delay the loop.
func (r *loopRelay) closed() {
	switch {
	case r.closes.Add(-1) > 0:
	case r.done != nil:
		close(r.done)
	default:
		go r.t.finish()
	}
}

// closeLater closes a socket that lingers on a new goroutine. close(2) may wait
// for as long as the user has set, and would stop every tunnel of the loop. It
// does not remove the watch while another duplicate of the socket is open, so
// closeLater removes the watch first.
func (r *loopRelay) closeLater(fd int) {
	r.loop.unwatch(fd)
	r.closes.Add(1)
	go func() {
		syscall.Close(fd)
		r.closed()
	}()
}
