package memconn

import (
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// A pipe is one direction of a connection. It is written by one end and read by
// the other. All waiting is on a sync.Cond, so that the clock of a synctest
// bubble runs meanwhile.
type pipe struct {
	mu    sync.Mutex
	cond  sync.Cond
	size  int
	buf   []byte // buf[off:] is unread
	off   int
	marks []mark // when the unread bytes were written, oldest first

	ended bool // the writer has ended the stream
	reset bool // either end has reset the connection
	gone  bool // the reader has closed

	onEnd func() // called when the writer has ended or reset the stream

	readBy, writeBy deadline
}

// A mark records that the bytes before end were written at the time at.
type mark struct {
	end int // in buf
	at  time.Time
}

func newPipe(size int) *pipe {
	p := &pipe{size: size}
	p.cond.L = &p.mu
	return p
}

// read returns bytes of a single write, and the time of that write.
func (p *pipe) read(b []byte) (n int, at time.Time, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.gone:
			return 0, at, errClosed
		case p.readBy.passed():
			return 0, at, os.ErrDeadlineExceeded
		case len(b) == 0:
			return 0, at, nil
		case p.off < len(p.buf):
			n, at = p.take(b)
			return n, at, nil
		case p.reset:
			return 0, at, syscall.ECONNRESET
		case p.ended:
			return 0, at, io.EOF
		}
		p.cond.Wait()
	}
}

// take copies the unread bytes of the oldest write.
func (p *pipe) take(b []byte) (int, time.Time) {
	full := len(p.buf)-p.off == p.size
	n := copy(b, p.buf[p.off:p.marks[0].end])
	at := p.marks[0].at
	p.off += n
	if p.off == p.marks[0].end {
		p.marks = p.marks[1:]
	}
	if p.off == len(p.buf) {
		p.buf, p.off, p.marks = p.buf[:0], 0, p.marks[:0]
	}
	if full {
		p.cond.Broadcast()
	}
	return n, at
}

func (p *pipe) write(b []byte) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.ended:
			return n, errClosed
		case p.reset:
			return n, syscall.ECONNRESET
		case p.gone:
			return n, syscall.EPIPE
		case p.writeBy.passed():
			return n, os.ErrDeadlineExceeded
		case len(b) == 0:
			return n, nil
		}
		if some := min(len(b), p.size-(len(p.buf)-p.off)); some > 0 {
			p.put(b[:some])
			b, n = b[some:], n+some
			continue
		}
		p.cond.Wait()
	}
}

// put appends b. The caller has checked that it fits.
func (p *pipe) put(b []byte) {
	if p.off > 0 && len(p.buf)+len(b) > cap(p.buf) {
		p.buf = p.buf[:copy(p.buf, p.buf[p.off:])]
		for i := range p.marks {
			p.marks[i].end -= p.off
		}
		p.off = 0
	}
	empty := p.off == len(p.buf)
	p.buf = append(p.buf, b...)
	now := time.Now()
	if last := len(p.marks) - 1; last >= 0 && p.marks[last].at.Equal(now) {
		p.marks[last].end = len(p.buf)
	} else {
		p.marks = append(p.marks, mark{len(p.buf), now})
	}
	if empty {
		p.cond.Broadcast()
	}
}

// end ends the stream for its writer. Unread bytes can still be read.
func (p *pipe) end() { p.stop(func() { p.ended = true }, true) }

// close closes the pipe for its reader, and drops unread bytes.
func (p *pipe) close() {
	p.stop(func() {
		p.gone = true
		p.buf, p.off, p.marks = nil, 0, nil
	}, false)
}

// breakOff resets the pipe. Unread bytes can still be read, as on Linux.
func (p *pipe) breakOff() { p.stop(func() { p.reset = true }, true) }

func (p *pipe) stop(change func(), ends bool) {
	p.mu.Lock()
	change()
	p.cond.Broadcast()
	f := p.onEnd
	if ends {
		p.onEnd = nil
	} else {
		f = nil
	}
	p.mu.Unlock()
	if f != nil {
		f()
	}
}

// notify calls f when the writer has ended or reset the stream.
func (p *pipe) notify(f func()) {
	p.mu.Lock()
	ended := p.ended || p.reset
	if !ended {
		p.onEnd = f
	}
	p.mu.Unlock()
	if ended {
		f()
	}
}

// A deadline is a read deadline or a write deadline.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (p *pipe) setDeadline(d *deadline, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.at = at
	if wait := time.Until(at); !at.IsZero() && wait > 0 {
		d.timer = time.AfterFunc(wait, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.cond.Broadcast()
		})
	}
	p.cond.Broadcast()
}

func (p *pipe) stopReading() { p.stopTimer(&p.readBy) }
func (p *pipe) stopWriting() { p.stopTimer(&p.writeBy) }

func (p *pipe) stopTimer(d *deadline) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
