package wsproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptrace"
	"net/textproto"
	"sync"
	"sync/atomic"
	"time"
)

// A plainConn is the Transport's connection to a server. It keeps to the send
// timeout, and tells a timedBody of the progress of reads.
type plainConn struct {
	net.Conn
	send  time.Duration // the send timeout
	read  time.Duration // the read timeout
	made  time.Time
	heard atomic.Int64 // the nanoseconds from made to the last read

	kept     bool          // from an earlier request
	answered atomic.Bool   // something of a final response may have come
	closed   chan struct{} // by Close
	close    func() error
}

func (p *Proxy) dialPlain(ctx context.Context, _, _ string) (net.Conn, error) {
	conn, err := p.dial(ctx, ctx.Value(serverKey{}).(*Candidate))
	if err != nil {
		return nil, err
	}
	c := &plainConn{Conn: conn, send: p.sendTimeout, read: p.readTimeout, made: time.Now(), closed: make(chan struct{})}
	c.close = sync.OnceValue(func() error {
		close(c.closed)
		return conn.Close()
	})
	return c, nil
}

// Close lets a failed Write return.
func (c *plainConn) Close() error { return c.close() }

// Write holds the error of a server that has closed back until the Transport
// closes the connection, which it does once it has read the response or found
// that there is none. The Transport gives a request up at the first error of a
// Write, and with it a response that has arrived.
func (c *plainConn) Write(b []byte) (n int, err error) {
	n, err = c.write(b)
	if err == nil || !peerClosed(err) {
		return n, err
	}
	var timeout <-chan time.Time
	if c.read > 0 {
		timer := time.NewTimer(c.read)
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case <-c.closed:
	case <-timeout: // what reads from it does not see that it is broken
	}
	return n, err
}

func (c *plainConn) write(b []byte) (n int, err error) {
	if c.send == 0 {
		return c.Conn.Write(b)
	}
	for n < len(b) && err == nil {
		c.Conn.SetWriteDeadline(time.Now().Add(c.send))
		var m int
		m, err = c.Conn.Write(b[n:min(len(b), n+pieceSize)])
		n += m
	}
	return n, err
}

func (c *plainConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.heard.Store(int64(time.Since(c.made)))
	if n > 0 {
		c.answered.Store(true)
	}
	return n, err
}

// unanswered reports whether err, of a round trip, means that the connection
// broke before the server's response.
func (c *plainConn) unanswered(err error) bool {
	var unsent notSent
	return err != nil && !c.answered.Load() && !errors.As(err, &unsent) &&
		!errors.Is(err, context.DeadlineExceeded) // the Transport's, for a header that is late
}

// silence returns for how long nothing has come, since a time or since later.
func (c *plainConn) silence(since time.Time) time.Duration {
	return min(time.Since(since), time.Since(c.made)-time.Duration(c.heard.Load()))
}

// noteConn returns a context for a request that notes the connection it takes.
func noteConn(ctx context.Context, conn **plainConn) context.Context {
	var now atomic.Pointer[plainConn] // as a connection given up may still be read from
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(got httptrace.GotConnInfo) {
			c := got.Conn.(*plainConn)
			c.kept = got.Reused
			c.answered.Store(false)
			now.Store(c)
			*conn = c
		},
		Got1xxResponse: func(int, textproto.MIMEHeader) error {
			now.Load().answered.Store(false)
			return nil
		},
	})
}

// A timedBody is that of a response. It cancels the request when a Read waits
// and the connection brings nothing for the read timeout: a chunk comes in many
// reads of the connection, and in one of the body.
type timedBody struct {
	io.ReadCloser
	conn    *plainConn
	timeout time.Duration
	cancel  context.CancelCauseFunc

	mu    sync.Mutex
	since time.Time   // when the Read that waits began; zero: none does
	timer *time.Timer // looks after it, if not nil
}

func (b *timedBody) Read(p []byte) (int, error) {
	if b.timeout == 0 {
		return b.ReadCloser.Read(p)
	}
	b.mu.Lock()
	b.since = time.Now()
	if b.timer == nil {
		b.timer = time.AfterFunc(b.timeout, b.check)
	}
	b.mu.Unlock()
	n, err := b.ReadCloser.Read(p)
	b.mu.Lock()
	b.since = time.Time{}
	b.mu.Unlock()
	return n, err
}

// check is the timer's. Reads leave it alone, which would cost each of them a
// call; it comes again when the timeout can have passed.
func (b *timedBody) check() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.since.IsZero() {
		b.timer = nil
		return
	}
	if left := b.timeout - b.conn.silence(b.since); left > 0 {
		b.timer.Reset(left)
		return
	}
	b.cancel(fmt.Errorf("%w: no byte of the body for %v", ErrUpstreamTimeout, b.timeout))
}

func (b *timedBody) Close() error {
	b.mu.Lock()
	if b.timer != nil {
		b.timer.Stop()
	}
	b.mu.Unlock()
	defer b.cancel(nil)
	return b.ReadCloser.Close()
}
