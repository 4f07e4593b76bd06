package wsproxytest

import (
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A direction forwards the frames that one end sends. One goroutine reads them
// and calls the Handler.
type direction struct {
	t    *Tunnel
	from Side
	in   *parser
	out  []byte // wire form of the frame that is being sent

	// turn has a value while nobody writes. A mutex would not let the clock of
	// a synctest bubble run while one goroutine waits for another's write.
	turn   chan struct{}
	closed bool // CloseWrite was called; guarded by turn

	goroutine atomic.Pointer[string] // its number, for the report of a Handler that never returns
	finished  chan struct{}
	refused   sync.Once // for noteGone

	severed atomic.Pointer[func(*end)] // set by Chaos: how to end the tunnel afterwards
}

func newDirection(t *Tunnel, from Side, early []byte) *direction {
	d := &direction{t: t, from: from, in: newParser(t.ends[from].in, from, early),
		turn: make(chan struct{}, 1), finished: make(chan struct{})}
	d.turn <- struct{}{}
	return d
}

func (d *direction) dst() *end { return d.t.ends[d.from.other()] }

func (d *direction) record(r Record) { d.t.record(d.from.other(), r) }

// acquire waits for the turn to write. It reports false if the tunnel has ended.
func (d *direction) acquire() bool {
	select {
	case <-d.turn:
	case <-d.t.done:
		return false
	}
	select {
	case <-d.t.done:
		d.release()
		return false
	default:
		return true
	}
}

func (d *direction) release() { d.turn <- struct{}{} }

// run forwards frames until the source or the tunnel ends.
func (d *direction) run() {
	defer d.finish()
	number := goroutineNumber()
	d.goroutine.Store(&number)
	for !d.t.isOver() {
		f, err := d.in.next()
		if err != nil {
			d.sourceEnded(err)
			return
		}
		if !d.call(f) {
			return
		}
		if !f.came.sent.Load() {
			d.record(f.came.record(Dropped))
		}
		if stop := d.severed.Load(); stop != nil {
			d.afterSever(*stop)
			return
		}
	}
}

func (d *direction) finish() {
	d.in.buf, d.in.left = nil, nil // a Proxy keeps its tunnels
	select {
	case <-d.turn:
		d.out = nil
		d.release()
	default:
	}
	close(d.finished)
	d.t.noteFinished()
}

// awaitEnd waits until the direction is done. It reports false if the timeout
// expires first.
func (d *direction) awaitEnd(timeout <-chan time.Time) bool {
	select {
	case <-d.finished:
		return true
	default:
	}
	select {
	case <-d.finished:
		return true
	case <-timeout:
		return false
	}
}

// call calls the Handler and reports whether it returned. A panic or a
// runtime.Goexit, such as t.FailNow's, cuts the tunnel.
func (d *direction) call(f Frame) (returned bool) {
	w := &Wire{d: d}
	p := d.t.owner.proxy
	defer func() {
		if returned {
			return
		}
		d.t.Cut()
		if p == nil {
			return // the panic continues
		}
		if v := recover(); v != nil {
			p.errorf("wsproxytest: the Handler panics: %v\n%s", v, debug.Stack())
		}
	}()
	d.t.owner.handler.handle(w, f)
	return true
}

// sourceEnded forwards the end of the source, and before it the bytes that were
// read but are not a whole frame.
func (d *direction) sourceEnded(err error) {
	rest := d.in.unread()
	switch {
	case err == errMalformed:
		d.record(Record{Frame: Frame{From: d.from}, Fate: Raw, Note: "malformed frame; unseen from here"})
		err = d.copyRaw(rest)
	case err == io.EOF && len(rest) > 0:
		d.record(Record{Frame: Frame{From: d.from}, Size: len(rest), Fate: Raw,
			Note: fmt.Sprintf("%d bytes of a frame that ends there", len(rest))})
		d.write(rest)
	}
	d.sourceEndedAfter(err)
}

// sourceEndedAfter forwards an end of stream as such, and any other error as a
// reset.
func (d *direction) sourceEndedAfter(err error) {
	switch {
	case errors.Is(err, net.ErrClosed): // the harness has closed it
	case d.t.to[d.from].severed.Load() != nil: // which ends the tunnel
	case err == io.EOF:
		if d.acquire() {
			d.closed = true
			d.dst().closeWrite()
			d.release()
		}
	default:
		d.dst().reset()
	}
}

// copyRaw forwards rest and then all bytes unchanged.
func (d *direction) copyRaw(rest []byte) error {
	d.write(rest)
	b := make([]byte, 32<<10)
	for {
		n, err := d.in.src.Read(b)
		d.write(b[:n])
		if err != nil {
			return err
		}
	}
}

// write writes bytes that are not a frame.
func (d *direction) write(b []byte) {
	if d.acquire() {
		if !d.closed {
			d.put(b)
		}
		d.release()
	}
}

// put writes b to the destination. The caller has the turn.
func (d *direction) put(b []byte) (int, error) {
	n, err := d.dst().conn.Write(b)
	if err != nil {
		d.noteGone()
	}
	return n, err
}

// noteGone records that the destination is gone. Its machine would answer with a
// reset. The source sees that reset a second after all frames from the destination
// are forwarded, as after a Cut. Without the delay, what the source sends before
// the reset would depend on the scheduler.
func (d *direction) noteGone() {
	d.refused.Do(func() {
		go func() {
			select {
			case <-d.t.to[d.from].finished:
				time.AfterFunc(linger, func() {
					if !d.t.isOver() {
						d.t.ends[d.from].reset()
						d.t.kill() // without a close timeout the proxy would continue
					}
				})
			case <-d.t.done:
			}
		}()
	})
}

// send sends the first n bytes of a frame, or all of it if n is negative.
func (d *direction) send(f Frame, n int) {
	if !d.acquire() {
		return
	}
	defer d.release()
	if d.closed {
		return
	}
	d.out = f.encode(d.out[:0], d.from.other())
	part := d.out
	if n >= 0 {
		part = d.out[:min(n, len(d.out))]
	}
	d.record(d.fate(f, part))
	d.put(part)
	if cap(d.out) > 64<<10 {
		d.out = nil
	}
}

// fate returns the record of a frame of which part is sent.
func (d *direction) fate(f Frame, part []byte) (r Record) {
	a := f.came
	if a == nil || a.in != d.in {
		f.From, f.came, f.Index = d.from, nil, 0
		r = newRecord(f, Injected)
	} else {
		r = a.record(Passed)
		if a.sent.Swap(true) {
			r.Fate = Injected
		}
		if f.changed() {
			if r.Fate == Passed {
				r.Fate = Changed
			}
			r.Note = "to " + f.String()
		}
	}
	if len(part) < len(d.out) {
		r.Fate = Partial
		r.Note = strings.TrimSpace(fmt.Sprintf("%d of %d bytes %s", len(part), len(d.out), r.Note))
	}
	return r
}

// goroutineNumber returns the number of the running goroutine, as stacks give
// it.
func goroutineNumber() string { return strings.Fields(goroutineHeader())[1] }

// inBubble reports whether the running goroutine is in a synctest bubble.
func inBubble() bool { return strings.Contains(goroutineHeader(), "synctest bubble") }

// goroutineHeader returns the first line of the running goroutine's stack.
func goroutineHeader() string {
	var b [128]byte
	line, _, _ := strings.Cut(string(b[:runtime.Stack(b[:], false)]), "\n")
	return line
}
