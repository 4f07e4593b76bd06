//go:build !386 && !s390x && !wsproxy_portable

package wsproxy

import (
	"net"
	"sync"
	"syscall"
)

// A loopRelay is the Linux relay. It takes two plain sockets out of the runtime's
// poller and gives them to a loop, and only the loop uses them from then on. An
// idle tunnel is a few hundred bytes and no goroutine.
type loopRelay struct {
	t                *Tunnel
	loop             *loop
	client, upstream socket
	ended            func()
	asked            uint32 // what the loop has not taken yet; loop.mu

	// Only the loop uses these:
	todo    uint32 // what the loop has taken and process has not done yet
	state   relayState
	closing *sync.WaitGroup // sockets that linger are being closed; nil if none do
}

// A relayState is the state of a loopRelay. Only the loop reads and changes it.
//
//	placed  → running  process: begin was called
//	placed  → over     process: begin and cut were called
//	running → over     close: nothing is left to move, or cut was called
type relayState uint8

const (
	placed  relayState = iota // it has a loop; requests wait until begin is called
	running                   // the loop moves bytes
	over                      // both sockets are closed
)

// What a loop can be asked to do for a relay.
const (
	doAdopt = 1 << iota
	doWake
	doCutClient
	doCutUpstream
	doCut = doCutClient | doCutUpstream
)

// relay returns a loopRelay if both connections are plain sockets. It returns
// nil if they are not, or if the system refuses a descriptor or a watch. Then
// client and upstream are unchanged, and the portable relay takes them.
func (ls *loops) relay(t *Tunnel, client, upstream net.Conn) relay {
	r := &loopRelay{t: t}
	if !r.client.detach(client) {
		return nil
	}
	if !r.upstream.detach(upstream) {
		syscall.Close(r.client.fd)
		return nil
	}
	err := ls.place(r)
	if err == nil {
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
	r.client.init(r, &r.upstream, &t.fromClient, &t.fromUpstream)
	r.upstream.init(r, &r.client, &t.fromUpstream, &t.fromClient)
	return r
}

func (r *loopRelay) run() {
	done := make(chan struct{})
	r.begin(func() { close(done) })
	<-done
}

func (r *loopRelay) start(ended func()) {
	r.begin(func() { go ended() }) // the user's hook must not delay the loop
}

func (r *loopRelay) begin(ended func()) {
	r.ended = ended
	r.post(doAdopt)
}

func (r *loopRelay) post(what uint32) { r.loop.post(r, what) }

func (r *loopRelay) cut()       { r.post(doCut) }
func (r *loopRelay) wake(*flow) { r.post(doWake) }

func (r *loopRelay) cutSrc(f *flow) {
	if f == r.client.in {
		r.post(doCutClient)
	} else {
		r.post(doCutUpstream)
	}
}

// Everything below runs on the loop.

// process does what the relay was asked to do.
func (r *loopRelay) process() {
	if r.state == over || r.state == placed && r.todo&doAdopt == 0 {
		return
	}
	do := r.todo
	r.todo = 0
	if do&doCut == doCut {
		r.close()
		return
	}
	if do&doAdopt != 0 {
		r.adopt()
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

func (r *loopRelay) adopt() {
	r.state = running
	for _, s := range []*socket{&r.client, &r.upstream} {
		if err := r.loop.register(s); err != nil {
			r.t.settle(ReasonFailed, err)
			r.close()
			return
		}
	}
	for _, s := range []*socket{&r.upstream, &r.client} {
		s.in.begin()
	}
}

// check ends the relay if nothing is left to move.
func (r *loopRelay) check() {
	if r.client.in.state == ended && r.upstream.in.state == ended && r.client.pending == nil && r.upstream.pending == nil {
		r.close()
	}
}

// close closes both sockets at once and ends the relay.
func (r *loopRelay) close() {
	if r.state == over {
		return
	}
	r.state = over
	r.client.close()
	r.upstream.close()
	r.loop.release()
	if r.closing == nil {
		r.ended()
		return
	}
	go func() {
		r.closing.Wait()
		r.ended()
	}()
}

// closeLater closes a socket that lingers on a new goroutine. close(2) may wait
// for as long as the user has set, and would stop every tunnel of the loop. It
// does not remove the watch while another duplicate of the socket is open, so
// closeLater removes the watch first.
func (r *loopRelay) closeLater(fd int) {
	r.loop.unwatch(fd)
	if r.closing == nil {
		r.closing = new(sync.WaitGroup)
	}
	r.closing.Go(func() { syscall.Close(fd) })
}
