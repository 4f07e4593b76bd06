package wsproxy

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"example.com/wsproxy/internal/frame"
	"example.com/wsproxy/internal/rate"
)

// A flow is one direction of a tunnel: it forwards what src sends to dst. One
// goroutine at a time drives it, and no other writes to dst. Other goroutines
// ask the flow to add the proxy's own frames.
type flow struct {
	// The fields that every read touches come first, so that they share cache
	// lines. With thousands of tunnels, loading them is much of a message's cost.
	t        *Tunnel
	clock    *sweeper
	dst      sink
	heard    atomicStamp // when src last sent something
	bytes    atomic.Int64
	messages atomic.Int64
	signals  atomic.Uint32 // askPing and the constants after it
	state    flowState     // of the driving goroutine
	held     uint8         // bytes of the frame header that are kept back until it is complete

	srcEnded, dstEnded Reason // why the tunnel ends if that end is the first to close

	scan    frame.Scanner // of the driving goroutine
	rate    *rate.Bucket  // of messages from src; nil: no limit
	opening *opening      // nil from begin on

	passed  atomicStamp // when the Close frame of src was forwarded, if it was
	moved   atomicStamp // when a write that had to wait last ended
	stalled atomicStamp // since when a write waits for dst, if one does
	pinged  atomicStamp // when a Ping for src was last asked for, and then when it was sent
}

// An opening is what precedes the first read of src.
type opening struct {
	head  []byte // the proxy's own bytes to dst, sent first and not counted
	early []byte // what src sent before the tunnel opened
}

// A flowState is what happens to the bytes of src. Only the goroutine that
// drives the flow reads and changes it.
//
//	open       → discarding  stop: a write failed, or the proxy's Close frame is sent
//	open       → ended       take: src has ended, and srcDone has passed that on
//	discarding → ended       take: src has ended, or it has answered
type flowState uint8

const (
	open       flowState = iota // they are forwarded
	discarding                  // they are read and dropped, as dst takes no more
	ended                       // no more are read
)

// A sink writes to one end of a tunnel. It sets its flow's stalled while bytes
// wait for that end.
type sink interface {
	write(p []byte) error
	closeWrite() bool // half-closes the connection; false: it cannot
	reset()           // makes closing the connection reset it
}

func (f *flow) init(t *Tunnel, srcEnded, dstEnded Reason) {
	f.t, f.srcEnded, f.dstEnded = t, srcEnded, dstEnded
	f.clock = &t.p.tunnels.sweeper
	f.scan.Masked = srcEnded == ReasonClientClosed
	f.scan.Off = !t.frames
	f.scan.Strict = f.maxMessage() > 0
}

// maxMessage returns the most bytes of a message; 0 means any number. A limited
// flow forwards only well-formed frames: a receiver may read malformed ones
// differently, as a larger message.
func (f *flow) maxMessage() int64 {
	if f == &f.t.fromClient {
		return f.t.p.maxFromClient
	}
	return f.t.p.maxFromUpstream
}

// limitRate limits the rate of messages.
func (f *flow) limitRate(messages *rate.Bucket) {
	f.rate, f.scan.Strict = messages, true
}

// back returns the flow in the other direction.
func (f *flow) back() *flow {
	if f == &f.t.fromClient {
		return &f.t.fromUpstream
	}
	return &f.t.fromClient
}

func (f *flow) stats() FlowStats {
	return FlowStats{Bytes: f.bytes.Load(), Messages: f.messages.Load()}
}

// closeFrame returns the first Close frame of src. The flow must have ended.
func (f *flow) closeFrame() CloseFrame {
	if !f.scan.Closed() {
		return CloseFrame{}
	}
	code, reason := f.scan.Close()
	return CloseFrame{Code: code, Reason: reason}
}

// begin writes what precedes the first read of src. The caller then reads src,
// unless the flow has ended.
func (f *flow) begin() {
	var first opening
	if f.opening != nil {
		first, f.opening = *f.opening, nil
	}
	if err := f.dst.write(first.head); err != nil {
		f.stop(err)
	}
	f.take(first.early, nil)
}

// take handles the result of a read of src. p is empty if ask interrupted the
// read. The caller then reads src again, unless the flow has ended.
func (f *flow) take(p []byte, readErr error) {
	switch f.state {
	case open:
		if len(p) > 0 {
			f.heard.Store(f.clock.now())
			f.bytes.Add(int64(len(p))) // before the write: dst may ask for the count at once
		}
		err := f.forward(p)
		if err == nil && f.has(askAny) {
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

// answered reports whether src has sent a Close frame and the proxy has decided
// to close both ends, in either order. Later bytes of src do not matter.
func (f *flow) answered() bool { return f.scan.Closed() && f.t.leaving() }

// unstall records that a write has ended. If it took longer than a millisecond,
// src was not read meanwhile, and its silence counts from now.
//
// It sets moved before it clears stalled. In the other order the sweeper could
// run in between. It would see neither a write that waits nor one that has just
// ended, take the time of the write for silence of src, and end the tunnel.
func (f *flow) unstall() {
	if since := f.stalled.Load(); since.isSet() {
		if now := f.clock.now(); now.sub(since) > time.Millisecond {
			f.moved.Store(now)
		}
		f.stalled.clear()
	}
}

// stop ends the writing to dst. From now on what src sends is read and dropped,
// until src answers the proxy's Close frame or ends, or the close timeout ends
// the tunnel. It is read because the other flow may still forward what dst had
// sent, and a close of src with unread bytes would reset src and lose that. The
// other flow finds out how dst ended.
//
// It sets dstReset before it clears stalled. Suppose a write to dst waits and
// dst resets: the write fails with ECONNRESET, and the read of dst, in the other
// flow, gets only an EOF. The other flow waits in awaitWriter until stalled
// changes, and then srcDone reads dstReset. In the other order it could read
// dstReset too early, and pass the reset on as an orderly end.
//
// A write may also fail after the flow has ended or has sent a Close frame, as
// a relay can keep bytes for a slow dst. That does not change the state.
func (f *flow) stop(err error) {
	if f.state == open {
		f.state = discarding
	}
	if errors.Is(err, syscall.ECONNRESET) {
		f.signals.Or(dstReset)
	}
	f.stalled.clear()
	if err != errClosing {
		f.t.settle(f.dstEnded, err)
		f.t.startClosing()
	}
}

// forward writes p to dst and follows the frames in it. A limited flow writes
// nothing after a Close frame, as some receivers would process it.
func (f *flow) forward(p []byte) error {
	if f.scan.Strict && f.scan.Closed() {
		return nil
	}
	if f.scan.Off || !f.scan.Strict && !f.has(askAny) {
		return f.pass(p, f.scan.All(p))
	}
	at, err := f.forwardFrames(p)
	if err != nil {
		f.scan.All(p[at:]) // the scanner continues after p while the flow is discarding
		f.publishClose()
	}
	return err
}

// boundary reports whether a frame of the proxy's may be written to dst. A Ping
// may also while an incomplete header is kept back, as dst has nothing of that. A
// Close frame waits, because nothing may follow it and the frame has begun.
func (f *flow) boundary() bool {
	return f.scan.Boundary() || f.held > 0 && !f.has(askClose)
}

// forwardFrames is forward one frame at a time, for a flow that is limited or
// was asked to add a frame. A limited flow keeps an incomplete header back, and
// refuses a frame that is malformed or too large. forwardFrames returns how much
// of p it has scanned.
func (f *flow) forwardFrames(p []byte) (at int, err error) {
	from, messages := 0, int64(0) // p[from:at] is not written yet; messages is how many end in it
	for at < len(p) {
		if f.has(askAny) && f.boundary() {
			err := f.pass(p[from:at], messages)
			if err == nil {
				err = f.add()
			}
			if err != nil {
				return at, err
			}
			from, messages = at, 0
		}
		start := at
		at += f.scan.Frame(p[at:])
		switch {
		case f.scan.Off && f.scan.Strict:
			return len(p), f.refuse(p[from:start], messages, ReasonProtocolError, frame.CodeProtocolError, "malformed frame")
		case f.scan.Off:
			at = len(p)
		case f.scan.Partial() > 0: // the next read has the rest of the header
			if f.scan.Strict {
				f.held = uint8(f.scan.Partial())
				return at, f.pass(p[from:start], messages)
			}
		case f.tooBig():
			return at, f.refuse(p[from:start], messages, ReasonLimit, frame.CodeTooBig, "message too big")
		case f.scan.Message():
			messages++
		}
		if f.held > 0 {
			held := f.scan.Header(int(f.held))
			f.held = 0
			if err := f.dst.write(held); err != nil {
				return at, err
			}
		}
		if f.scan.Strict && f.scan.Closed() {
			p = p[:at]
		} else if f.rate != nil && f.scan.Whole() && !f.rate.Take(int64(f.heard.Load())) {
			return at, f.refuse(p[from:at], messages, ReasonLimit, frame.CodePolicy, "too many messages")
		}
	}
	return at, f.pass(p[from:], messages)
}

// tooBig reports whether the current message exceeds the limit, with the rest of
// the current frame.
func (f *flow) tooBig() bool {
	limit := f.maxMessage()
	return limit > 0 && f.scan.Size() > uint64(limit)
}

// refuse ends the tunnel because of a frame that is not forwarded: it writes the
// frames before it, and then the proxy's Close frame.
func (f *flow) refuse(before []byte, messages int64, reason Reason, code int, text string) error {
	f.held = 0
	if err := f.pass(before, messages); err != nil {
		return err
	}
	f.t.goAway(reason, code, text)
	return f.addClose()
}

// pass writes p to dst. Before that it makes visible to other goroutines how many
// messages end in p, and whether src has sent a Close frame.
func (f *flow) pass(p []byte, messages int64) error {
	if messages > 0 {
		f.messages.Add(messages)
	}
	if f.scan.Closed() && !f.passed.Load().isSet() {
		f.passed.Store(f.clock.now())
	}
	f.publishClose()
	return f.dst.write(p)
}

// publishClose makes a Close frame of src visible to other goroutines, whether it
// is forwarded or dropped.
func (f *flow) publishClose() {
	if f.scan.Closed() && !f.has(said) {
		f.signals.Or(said)
		f.t.settle(f.srcEnded, nil)
	}
}

// srcDone forwards the end of src. After an EOF it half-closes dst, and the other
// flow continues. After any other error it resets dst.
//
// A reset can look like an EOF. The kernel reports it once, to the call that
// comes first. If the other flow was writing to src, its write got the reset, and
// the read here got the EOF. The other flow's dstReset shows that this happened;
// stop explains why it is already set.
func (f *flow) srcDone(err error) {
	if f.held > 0 {
		f.dst.write(f.scan.Header(int(f.held)))
	}
	if f.has(askClose) && f.add() == errClosing {
		return
	}
	if err == io.EOF && f.back().has(dstReset) {
		err = syscall.ECONNRESET
	}
	if err == io.EOF {
		f.t.settle(f.srcEnded, nil)
		f.t.startClosing()
		if f.dst.closeWrite() {
			return
		}
	} else {
		f.t.settle(f.srcEnded, err)
		if !errors.Is(err, net.ErrClosed) { // the proxy closed it
			f.dst.reset()
		}
	}
	f.t.relay.cut()
}
