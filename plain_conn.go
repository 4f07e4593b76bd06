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

// A plainConn is a connection of the Transport to a server. It applies the send
// timeout and records the time of the last read for a timedBody.
type plainConn struct {
	net.Conn
	send  time.Duration // the send timeout
	read  time.Duration // the read timeout
	made  time.Time
	heard atomic.Int64 // nanoseconds from made to the last read

	kept     bool          // the connection was used by an earlier request
	answered atomic.Bool   // part of a final response may have been read
	closed   chan struct{} // closed by Close
	close    func() error

	server string       // the address, as configured
	budget atomic.Int64 // bytes of response headers still accepted; MaxInt64 means no limit

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

// Close makes a failed Write return. It also ends a Read of the request's body,
// because the Transport waits for that Read before it returns an error.
func (c *plainConn) Close() error {
	err := c.close()
	c.abortBody()
	return err
}

// Write delays the error of a closed connection until the Transport calls Close.
// The Transport abandons a request at the first error of a Write, even if a
// response has arrived. While Write blocks, the Transport reads the response, or
// finds that there is none, and closes the connection.
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
	case <-timeout: // the reader does not notice that the connection is broken
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
// broke before the response.
func (c *plainConn) unanswered(err error) bool {
	var unsent notSent
	return err != nil && !c.answered.Load() && !errors.As(err, &unsent) &&
		!errors.Is(err, context.DeadlineExceeded) // the Transport's error if the header is late
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

// ask prepares c for a request. body is the client's, or nil.
func (c *plainConn) ask(body *clientBody) {
	// The Transport restarts its own limit after each 1xx, so its limit does not
	// bound their sum. It reads up to 4 KiB more than the header.
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

// headerRead removes the limit on the response's header. It also removes the
// client's body, which holds the whole request, while c is kept for another.
func (c *plainConn) headerRead() {
	c.budget.Store(math.MaxInt64)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.body = nil
}

// silence returns the time since the last read, but at most the time since
// since.
func (c *plainConn) silence(since time.Time) time.Duration {
	return min(time.Since(since), time.Since(c.made)-time.Duration(c.heard.Load()))
}

// noteConn returns a context for a request with body. It sets conn to the
// connection that the Transport uses for the request.
func noteConn(ctx context.Context, body *clientBody, conn **plainConn) context.Context {
	var now atomic.Pointer[plainConn] // atomic, because an abandoned connection may still be read
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

// A timedBody is the body of a response. It cancels the request if a Read blocks
// and nothing is read from the connection for the read timeout. It looks at the
// connection because one Read of the body may take many reads of it to complete
// a chunk.
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
