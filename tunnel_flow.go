package wsproxy

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"example.com/wsproxy/internal/frame"
)

// A flow is one direction of a tunnel: what src sends goes to dst. One
// goroutine at a time drives it, the only writer of dst; others ask it to add
// frames of the proxy's own.
type flow struct {
	// What every read touches comes first: with thousands of tunnels their way
	// to the processor is much of what a message costs.
	t        *Tunnel
	clock    *sweeper
	dst      sink
	heard    atomicStamp // when src last sent something
	bytes    atomic.Int64
	messages atomic.Int64
	asked    atomic.Uint32 // askPing, askClose: frames to add at a boundary
	state    flowState     // of the driving goroutine
	scan     frame.Scanner // of the driving goroutine

	srcEnded, dstEnded Reason // why the tunnel ends if that end is the first to go

	head  []byte // the proxy's own bytes to dst, sent first and not counted
	early []byte // what src sent before the tunnel stood
	held  int    // bytes of scan.header that are kept back until it is complete

	quiet    atomic.Bool  // frames are not followed any longer, and none can be added
	dstReset atomic.Bool  // a write to dst found it reset
	code     atomic.Int32 // of the Close frame seen, 0: none
	passed   atomicStamp  // when that frame went on to dst, if it has
	moved    atomicStamp  // when a write that had to wait last went on
	stalled  atomicStamp  // since when a write waits for dst, if one does
	pinged   atomicStamp  // when src was last sent a Ping, or was to be
}

// A flowState is what happens to the bytes of src. Only the goroutine that
// drives the flow reads and changes it.
//
//	open       → discarding  stop: a write failed, or the proxy's Close frame is sent
//	open       → ended       take: src has ended, and srcDone has passed that on
//	discarding → ended       take: src has ended, or it has answered
type flowState uint8

const (
	open       flowState = iota // they are written to dst
	discarding                  // they are read and dropped: dst takes no more
	ended                       // no more are read
)

// A sink takes what goes to one end of a tunnel. It notes in its flow when it
// has to wait, or would have to.
type sink interface {
	write(p []byte) error
	closeWrite() bool // passes an end of stream on; false: it cannot
	reset()           // has the end see a reset when its connection is closed
}

// pingPayload tells the proxy's pings from the peers' own.
const pingPayload = "wsproxy!"

const (
	askPing = 1 << iota
	askClose
)

func (f *flow) init(t *Tunnel, srcEnded, dstEnded Reason) {
	f.t, f.srcEnded, f.dstEnded = t, srcEnded, dstEnded
	f.clock = &t.p.tunnels.sweeper
	f.scan.Masked = srcEnded == ReasonClientClosed
	f.scan.Off = !t.frames
}

// limit sets the most bytes of a message, 0: any number. A limited flow passes
// nothing but well-formed frames, as a receiver may read others in another way.
func (f *flow) limit(size int64) {
	f.scan.Limit, f.scan.Strict = size, size > 0
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

// ask has the flow add a frame at the next boundary. It does not wait for that.
func (f *flow) ask(what uint32) {
	f.asked.Or(what)
	f.t.relay.wake(f)
}

// askBoth asks both flows before it wakes either: else an end's answer to the
// one frame could pass before the other is added.
func (t *Tunnel) askBoth(what uint32) {
	for _, f := range t.flows() {
		f.asked.Or(what)
	}
	for _, f := range t.flows() {
		t.relay.wake(f)
	}
}

// errClosing ends a flow to which the proxy has added its Close frame: nothing
// may follow that.
var errClosing = errors.New("wsproxy: close frame sent")

// begin sends what comes before anything that is read from src. Unless the flow
// has ended then, src is to be read.
func (f *flow) begin() {
	head, early := f.head, f.early
	f.head, f.early = nil, nil
	if err := f.dst.write(head); err != nil {
		f.stop(err)
	}
	f.take(early, nil)
}

// take takes what a read of src returned, which may be nothing where ask had it
// return. Unless the flow has ended then, src is to be read further.
func (f *flow) take(p []byte, readErr error) {
	switch f.state {
	case open:
		if len(p) > 0 {
			f.heard.Store(f.clock.now())
			f.bytes.Add(int64(len(p))) // before dst can know of them
		}
		err := f.forward(p)
		if err == nil && f.asked.Load() != 0 {
			err = f.add()
		}
		if err == nil && f.answered() {
			err = errClosing
		}
		switch {
		case err != nil:
			f.stop(err)
		case readErr != nil:
			f.srcDone(readErr)
		}
	case discarding:
		f.scan.All(p)
		f.publishClose()
	}
	if readErr != nil || f.state == discarding && f.answered() {
		f.state = ended
	}
}

// answered reports whether src has sent its Close frame and the proxy has asked
// both ends to close, in either order. Nothing that src sends then matters.
func (f *flow) answered() bool { return f.scan.Closed() && f.t.leaving.Load() }

// unstall notes that a write which may have had to wait is over.
func (f *flow) unstall() {
	if since := f.stalled.Load(); since.isSet() {
		if now := f.clock.now(); now.sub(since) > time.Millisecond {
			f.moved.Store(now)
		}
		f.stalled.clear() // last: without either src would seem to have been listened to
	}
}

// stop ends the writing to dst, which takes no more. What src still sends is
// discarded: once the proxy has asked both ends to close, until src has; where
// dst is gone, until src ends. In that case the other flow may still bring what
// dst had sent before, and closing src with bytes unread would reset it and
// lose that. How dst ended is for the other flow to find out. The close timeout
// bounds it all.
func (f *flow) stop(err error) {
	if f.state == open {
		f.state = discarding
	}
	if errors.Is(err, syscall.ECONNRESET) {
		f.dstReset.Store(true)
	}
	f.stalled.clear() // only now: see awaitWriter
	if err != errClosing {
		f.t.settle(f.dstEnded, err)
		f.t.startClosing()
	}
}

// forward writes p to dst, following the frames in it. Behind a Close frame
// nothing of a limited flow is written: some receivers would take it.
func (f *flow) forward(p []byte) error {
	if f.scan.Strict && f.scan.Closed() {
		return nil
	}
	if f.scan.Off || !f.scan.Strict && f.asked.Load() == 0 {
		f.scan.All(p)
		f.publish()
		return f.dst.write(p)
	}
	at, err := f.forwardFrames(p)
	if err != nil {
		f.scan.All(p[at:]) // so that discarding goes on at the right byte
		f.publishClose()
	}
	return err
}

// forwardFrames is forward one frame at a time, for a flow that is limited or to
// which a frame is to be added. If the flow is limited, a header is kept back
// until it is whole, and the tunnel ends before a frame that is malformed or too
// large. It returns how much of p it has scanned.
func (f *flow) forwardFrames(p []byte) (at int, err error) {
	from := 0 // what is not written yet of p
	for at < len(p) {
		if f.asked.Load() != 0 && f.scan.Boundary() {
			f.publish()
			err := f.dst.write(p[from:at])
			if err == nil {
				err = f.add()
			}
			if err != nil {
				return at, err
			}
			from = at
		}
		start := at
		at += f.scan.Frame(p[at:])
		switch {
		case f.scan.Off && f.scan.Strict:
			return len(p), f.refuse(p[from:start], ReasonProtocolError, frame.CodeProtocolError, "malformed frame")
		case f.scan.Off:
			at = len(p)
		case f.scan.Partial() > 0: // the header goes on in the next piece
			if f.scan.Strict {
				f.held = f.scan.Partial()
				f.publish()
				return at, f.dst.write(p[from:start])
			}
		case f.scan.Over():
			return at, f.refuse(p[from:start], ReasonLimit, frame.CodeTooBig, "message too big")
		}
		if f.held > 0 {
			held := f.scan.Header(f.held)
			f.held = 0
			if err := f.dst.write(held); err != nil {
				return at, err
			}
		}
		if f.scan.Strict && f.scan.Closed() {
			p = p[:at]
		}
	}
	f.publish()
	return at, f.dst.write(p[from:])
}

// refuse ends the tunnel at a frame that may not pass: it writes the frames
// before that, and then the proxy's Close frame.
func (f *flow) refuse(before []byte, reason Reason, code int, text string) error {
	f.held = 0
	f.publish()
	if err := f.dst.write(before); err != nil {
		return err
	}
	f.t.goAway(reason, code, text)
	return f.addClose()
}

// publish lets others see what the scanner has counted.
func (f *flow) publish() {
	if f.scan.Messages() != f.messages.Load() {
		f.messages.Store(f.scan.Messages())
	}
	if f.scan.Closed() && !f.passed.Load().isSet() {
		f.passed.Store(f.clock.now())
	}
	f.publishClose()
}

// publishClose is publish for what does not cross.
func (f *flow) publishClose() {
	if f.scan.Closed() && f.code.Load() == 0 {
		f.code.Store(int32(f.scan.CloseCode()))
		f.t.settle(f.srcEnded, nil)
	}
}

// add sends the frames that were asked for, if this is a boundary. A side that
// has begun to close is left to it: the other answers in its own words.
func (f *flow) add() error {
	if f.scan.Off {
		f.quiet.Store(true)
		f.asked.Store(0)
		return nil
	}
	if !f.scan.Boundary() {
		return nil
	}
	if f.asked.Load()&askPing != 0 {
		f.back().pinged.Store(f.clock.now()) // before the Pong can come, or nextPing see that none waits
	}
	asked := f.asked.Swap(0)
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

// addClose sends the proxy's Close frame. Nothing more can follow it.
func (f *flow) addClose() error {
	if err := f.addFrame(frame.OpClose, f.t.goodbye); err != nil {
		return err
	}
	return errClosing
}

// addFrame writes a frame of the proxy's own, in which time src is not read.
// Where that is short, it makes no difference to whether src is alive.
func (f *flow) addFrame(opcode byte, payload []byte) error {
	moved, start := f.moved.Load(), f.clock.now()
	err := f.dst.write(frame.AppendControl(nil, opcode, payload, f.scan.Masked))
	if f.clock.now().sub(start) < f.clock.pingTimeout/4 {
		f.moved.Store(moved)
	}
	return err
}

// srcDone passes the end of src on: an orderly one as such, leaving the other
// flow to go on, any other as a reset.
func (f *flow) srcDone(err error) {
	if f.held > 0 {
		f.dst.write(f.scan.Header(f.held))
	}
	if f.asked.Load()&askClose != 0 && f.add() == errClosing {
		return
	}
	if err == io.EOF && f.back().dstReset.Load() {
		err = syscall.ECONNRESET // a socket tells but once, and has told the writer
	}
	if err == io.EOF {
		f.t.settle(f.srcEnded, nil)
		f.t.startClosing()
		if f.dst.closeWrite() {
			return
		}
	} else {
		f.t.settle(f.srcEnded, err)
		if !errors.Is(err, net.ErrClosed) { // else the proxy's own doing
			f.dst.reset()
		}
	}
	f.t.relay.cut()
}
