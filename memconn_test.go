package wsproxy_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
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

// A memConn is one end of an in-memory connection that can be half-closed.
type memConn struct{ in, out *memPipe }

func newMemConns(room int) (near, far *memConn) {
	a, b := newMemPipe(room), newMemPipe(room)
	return &memConn{a, b}, &memConn{b, a}
}

func (c *memConn) Read(b []byte) (int, error)  { return c.in.read(b) }
func (c *memConn) Write(b []byte) (int, error) { return c.out.write(b) }

func (c *memConn) CloseWrite() error {
	c.out.end(&c.out.eof)
	return nil
}

func (c *memConn) Close() error {
	c.in.end(&c.in.gone)
	return c.CloseWrite()
}

func (c *memConn) SetReadDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.readBy, t)
	return nil
}

func (c *memConn) SetWriteDeadline(t time.Time) error {
	c.out.setDeadline(&c.out.writeBy, t)
	return nil
}

func (c *memConn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c *memConn) LocalAddr() net.Addr  { return memAddr }
func (c *memConn) RemoteAddr() net.Addr { return memAddr }

var memAddr = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 80}

// A memListener accepts what is sent to it.
type memListener struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newMemListener() *memListener {
	return &memListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *memListener) Addr() net.Addr { return memAddr }

// room is what each direction of a connection of a memRig holds.
const room = 64 << 10

// A memRig is a proxy between in-memory ends, for a synctest bubble.
type memRig struct {
	p         *wsproxy.Proxy
	l         *memListener
	ended     endings
	upstreams chan *peer
}

// newMemRig serves a new proxy in memory, by server if that is not nil.
func newMemRig(t *testing.T, server *http.Server, opts ...wsproxy.Option) *memRig {
	t.Helper()
	return newMemRigTo(t, "http://upstream", server, opts...)
}

func newMemRigTo(t *testing.T, target string, server *http.Server, opts ...wsproxy.Option) *memRig {
	t.Helper()
	r := &memRig{l: newMemListener(), ended: newEndings(), upstreams: make(chan *peer, 1024)}
	r.p = newProxy(t, target, append([]wsproxy.Option{r.ended.hook(),
		wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) {
			near, far := newMemConns(room)
			r.upstreams <- newPeer(far)
			return near, nil
		})}, opts...)...)
	if server == nil {
		server = new(http.Server)
	}
	server.Handler = r.p
	server.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	served := make(chan error)
	go func() { served <- server.Serve(r.l) }()
	t.Cleanup(func() {
		server.Close()
		assert.ErrorIs(t, <-served, http.ErrServerClosed)
		// net/http waits half a second before it closes a connection whose
		// request body was not read (from Go 1.26.11 on also one that an Expect
		// asked for). The bubble's clock stops when the test returns.
		time.Sleep(time.Second)
	})
	return r
}

// ask sends the sample handshake and returns the client's end.
func (r *memRig) ask(t *testing.T) *peer {
	t.Helper()
	near, far := newMemConns(room)
	t.Cleanup(func() { far.Close() })
	r.l.conns <- near
	client := newPeer(far)
	client.send(t, sampleRequest)
	return client
}

// tunnel opens one and returns its ends.
func (r *memRig) tunnel(t *testing.T) (client, server *peer) {
	t.Helper()
	client = r.ask(t)
	server = <-r.upstreams
	t.Cleanup(func() { server.Close() })
	server.request(t)
	server.send(t, sampleSwitch)
	require.Equal(t, http.StatusSwitchingProtocols, client.answer(t).StatusCode)
	return client, server
}
