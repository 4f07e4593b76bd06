package wsproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
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

	server string       // the address, as configured
	budget atomic.Int64 // bytes of response headers still accepted; MaxInt64: no limit

	mu   sync.Mutex
	body *clientBody // of the request that uses the connection, or nil
	err  error       // of the last Read
}

func (p *Proxy) dialPlain(ctx context.Context, _, _ string) (net.Conn, error) {
	candidate := ctx.Value(serverKey{}).(*Candidate)
	conn, err := p.dial(ctx, candidate)
	if err != nil {
		return nil, err
	}
	c := &plainConn{Conn: conn, send: p.sendTimeout, read: p.readTimeout, made: time.Now(),
		closed: make(chan struct{}), server: candidate.server.Addr}
	c.budget.Store(math.MaxInt64)
	c.close = sync.OnceValue(func() error {
		close(c.closed)
		return conn.Close()
	})
	return c, nil
}

// Close lets a failed Write return. It also ends a Read of the request's body,
// for which the Transport waits before it says that the connection is gone.
func (c *plainConn) Close() error {
	err := c.close()
	c.abortBody()
	return err
}

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
	if c.budget.Load() <= 0 {
		return 0, errHeaderTooLarge
	}
	n, err := c.Conn.Read(b)
	c.heard.Store(int64(time.Since(c.made)))
	c.budget.Add(-int64(n))
	if n > 0 {
		c.answered.Store(true)
	}
	if err != nil {
		c.mu.Lock()
		c.err = err
		c.mu.Unlock()
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

func (c *plainConn) abortBody() {
	c.mu.Lock()
	body, err := c.body, c.err
	c.mu.Unlock()
	if err == nil {
		err = net.ErrClosed
	}
	if body != nil {
		body.abort(badGateway("server %s closed the connection before its response: %w", c.server, err))
	}
}

// ask makes c the connection of a request. body is that of the client, or nil.
func (c *plainConn) ask(body *clientBody) {
	// The Transport's limit begins anew with each 1xx. It reads ahead by 4 KiB.
	c.budget.Store(maxResponseHeader + 4<<10)
	if body != nil {
		body.connect()
	}
	c.mu.Lock()
	c.body = body
	c.mu.Unlock()
	select {
	case <-c.closed:
		c.abortBody()
	default:
	}
}

// headerRead ends the limit for the response's header.
func (c *plainConn) headerRead() { c.budget.Store(math.MaxInt64) }

// silence returns for how long nothing has come, since a time or since later.
func (c *plainConn) silence(since time.Time) time.Duration {
	return min(time.Since(since), time.Since(c.made)-time.Duration(c.heard.Load()))
}

// noteConn returns a context for a request with body that notes the connection
// it takes.
func noteConn(ctx context.Context, body *clientBody, conn **plainConn) context.Context {
	var now atomic.Pointer[plainConn] // as a connection given up may still be read from
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(got httptrace.GotConnInfo) {
			c := got.Conn.(*plainConn)
			c.kept = got.Reused
			c.answered.Store(false)
			now.Store(c)
			*conn = c
			c.ask(body)
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
	stall  stallTimer
	cancel context.CancelCauseFunc
}

func newTimedBody(body io.ReadCloser, conn *plainConn, timeout time.Duration, cancel context.CancelCauseFunc) *timedBody {
	b := &timedBody{ReadCloser: body, cancel: cancel}
	b.stall.timeout = timeout
	b.stall.silence = conn.silence
	b.stall.expired = func() { cancel(fmt.Errorf("%w: no byte of the body for %v", ErrUpstreamTimeout, timeout)) }
	return b
}

func (b *timedBody) Read(p []byte) (int, error) {
	b.stall.begin()
	defer b.stall.end()
	return b.ReadCloser.Read(p)
}

func (b *timedBody) Close() error {
	b.stall.stop()
	defer b.cancel(nil)
	return b.ReadCloser.Close()
}
