package testkit

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// A memPipe is one direction of an in-memory connection. All waiting is on a
// sync.Cond, so that the clock of a synctest bubble runs meanwhile.
type memPipe struct {
	mu   sync.Mutex
	cond *sync.Cond
	room int // what the pipe takes without being read
	buf  []byte
	eof  bool // the writer has ended it
	gone bool // the reader has closed

	readBy, writeBy memDeadline
}

func newMemPipe(room int) *memPipe {
	p := &memPipe{room: room}
	p.cond = sync.NewCond(&p.mu)
	return p
}

type memDeadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *memDeadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (p *memPipe) setDeadline(d *memDeadline, at time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
	d.at = at
	if !at.IsZero() {
		d.timer = time.AfterFunc(time.Until(at), func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.cond.Broadcast()
		})
	}
	p.cond.Broadcast()
}

func (p *memPipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.gone:
			return 0, net.ErrClosed
		case p.readBy.passed():
			return 0, os.ErrDeadlineExceeded
		case len(p.buf) > 0:
			n := copy(b, p.buf)
			p.buf = p.buf[n:]
			p.cond.Broadcast()
			return n, nil
		case p.eof:
			return 0, io.EOF
		}
		p.cond.Wait()
	}
}

func (p *memPipe) write(b []byte) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.eof:
			return n, net.ErrClosed
		case p.gone:
			return n, syscall.EPIPE
		case p.writeBy.passed():
			return n, os.ErrDeadlineExceeded
		case len(b) == 0:
			return n, nil
		}
		if some := min(len(b), p.room-len(p.buf)); some > 0 {
			p.buf = append(p.buf, b[:some]...)
			b, n = b[some:], n+some
			p.cond.Broadcast()
			continue
		}
		p.cond.Wait()
	}
}

func (p *memPipe) end(what *bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*what = true
	p.cond.Broadcast()
}

// A MemConn is one end of an in-memory connection that can be half-closed.
type MemConn struct{ in, out *memPipe }

// NewMemConns returns both ends of a connection, each direction of which holds
// room bytes.
func NewMemConns(room int) (near, far *MemConn) {
	a, b := newMemPipe(room), newMemPipe(room)
	return &MemConn{a, b}, &MemConn{b, a}
}

func (c *MemConn) Read(b []byte) (int, error)  { return c.in.read(b) }
func (c *MemConn) Write(b []byte) (int, error) { return c.out.write(b) }

func (c *MemConn) CloseWrite() error {
	c.out.end(&c.out.eof)
	return nil
}

func (c *MemConn) Close() error {
	c.in.end(&c.in.gone)
	return c.CloseWrite()
}

func (c *MemConn) SetReadDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.readBy, t)
	return nil
}

func (c *MemConn) SetWriteDeadline(t time.Time) error {
	c.out.setDeadline(&c.out.writeBy, t)
	return nil
}

func (c *MemConn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c *MemConn) LocalAddr() net.Addr  { return memAddr }
func (c *MemConn) RemoteAddr() net.Addr { return memAddr }

var memAddr = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 80}

// A MemListener accepts what is sent to Conns.
type MemListener struct {
	Conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// NewMemListener returns an open listener.
func NewMemListener() *MemListener {
	return &MemListener{Conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *MemListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.Conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *MemListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *MemListener) Addr() net.Addr { return memAddr }
