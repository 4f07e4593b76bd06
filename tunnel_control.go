package wsproxy

import (
	"errors"

	"example.com/wsproxy/internal/frame"
)

// The proxy's own frames: Pings and Close frames that it adds to a flow.

// pingPayload distinguishes the proxy's pings from the peers' own.
const pingPayload = "wsproxy!"

// The signals of a flow. Any goroutine sets the first two, which ask for a frame. The
// goroutine that drives the flow clears those and sets the others.
const (
	askPing   = 1 << iota // add a Ping at the next boundary
	askClose              // add a Close frame at the next boundary
	untracked             // frames are no longer followed, so none can be added
	dstReset              // a write reported that dst was reset
	said                  // src has sent a Close frame

	askAny = askPing | askClose
)

// has reports whether any of these signals is set.
func (f *flow) has(signals uint32) bool { return f.signals.Load()&signals != 0 }

// ask asks the flow to add a frame at the next boundary. It does not wait.
func (f *flow) ask(what uint32) {
	f.signals.Or(what)
	f.t.relay.wake(f)
}

// askBoth asks both flows before it wakes either. Otherwise the first flow could
// write its Close frame to one end, and the second, not asked yet, forward that
// end's answer to the other end in place of a Close frame of the proxy's.
func (t *Tunnel) askBoth(what uint32) {
	for _, f := range t.flows() {
		f.signals.Or(what)
	}
	for _, f := range t.flows() {
		t.relay.wake(f)
	}
}

// errClosing stops a flow after a Close frame: nothing may follow it.
var errClosing = errors.New("wsproxy: close frame sent")

// add writes the frame that was asked for, if that is possible at this point. If
// src has sent a Close frame, or dst's was forwarded to it, add writes nothing:
// the ends close by themselves.
//
// For a Ping it sets pinged, then clears askPing, then writes. If it cleared
// askPing first, the sweeper could run in between, and count the time that the
// Ping waited for the boundary as silence. If it wrote first, the Pong could be
// read before pinged is set, and would not count as an answer.
func (f *flow) add() error {
	if f.scan.Off {
		f.signals.Or(untracked)
		f.signals.And(^uint32(askAny))
		return nil
	}
	if !f.boundary() {
		return nil
	}
	if f.has(askPing) {
		f.back().pinged.Store(f.clock.now())
	}
	asked := f.signals.And(^uint32(askAny)) & askAny
	if f.answered() {
		return errClosing
	}
	if f.scan.Closed() || f.back().passed.Load().isSet() {
		return nil
	}
	if asked&askClose != 0 {
		return f.addClose()
	}
	return f.addFrame(frame.OpPing, []byte(pingPayload))
}

// addClose writes the proxy's Close frame, which stops the flow.
func (f *flow) addClose() error {
	if err := f.addFrame(frame.OpClose, *f.t.ending().goodbye.Load()); err != nil {
		return err
	}
	return errClosing
}

// addFrame writes a frame of the proxy. A write that has to wait sets moved, and
// the silence of src then counts from that time. If the write took less than a
// quarter of the ping timeout, addFrame restores moved: a frame of the proxy does
// not make src any less silent.
func (f *flow) addFrame(opcode byte, payload []byte) error {
	moved, start := f.moved.Load(), f.clock.now()
	err := f.dst.write(frame.AppendControl(nil, opcode, payload, f.scan.Masked))
	if f.clock.now().sub(start) < f.clock.pingTimeout/4 {
		f.moved.Store(moved)
	}
	return err
}
