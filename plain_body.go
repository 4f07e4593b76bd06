package wsproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// lingerTimeout is how long the http.Server keeps reading an unused body after
// the response, so that a reset does not destroy the response in transit. It is
// nginx's lingering_timeout.
const lingerTimeout = 5 * time.Second

var errHandlerEnded = errors.New("the request has been answered")

// A clientBody is the body of a client's request. It limits the time between
// two reads, and ends a Read when the connection to the upstream is closed.
//
// The Transport does not return while a Read of the body blocks, even if the
// connection to the server is closed (golang/go#78973). A read deadline in the
// past ends a Read of net/http's bodies. It also cancels the request's context,
// so cancel must be called with the cause first.
type clientBody struct {
	io.ReadCloser
	rc      *http.ResponseController
	http1   bool
	length  int64 // the Content-Length; negative if unknown
	timeout time.Duration
	by      time.Time // when the ReadTimeout of the http.Server expires; zero if it has none
	cancel  context.CancelCauseFunc
	stall   stallTimer

	mu       sync.Mutex
	n        int64 // bytes read
	eof      bool
	reading  bool
	idle     chan struct{} // closed when the Read that end waits for has returned
	err      error         // the error of further reads
	answered bool          // the response has begun
}

// newClientBody returns the body of r. The caller must call end before the
// handler returns.
func newClientBody(w http.ResponseWriter, r *http.Request, timeout time.Duration, cancel context.CancelCauseFunc) *clientBody {
	b := &clientBody{
		ReadCloser: r.Body,
		rc:         http.NewResponseController(w),
		http1:      r.ProtoMajor == 1,
		length:     r.ContentLength,
		timeout:    timeout,
		cancel:     cancel,
	}
	if server, ok := r.Context().Value(http.ServerContextKey).(*http.Server); ok && server.ReadTimeout > 0 {
		b.by = time.Now().Add(server.ReadTimeout)
	}
	b.stall.timeout = timeout
	b.stall.expired = func() {
		b.abort(&refusal{status: http.StatusRequestTimeout,
			cause: fmt.Errorf("no byte of the request's body for %v", timeout)})
	}
	return b
}

func (b *clientBody) Read(p []byte) (n int, err error) {
	b.mu.Lock()
	switch {
	case b.eof:
		// net/http may have closed the body, so do not read again.
		err = io.EOF
	case b.err != nil:
		err = b.err
	}
	b.reading = err == nil
	b.mu.Unlock()
	if err != nil {
		return 0, err
	}
	b.stall.begin()
	n, err = b.ReadCloser.Read(p)
	b.stall.end()

	b.mu.Lock()
	defer b.mu.Unlock()
	b.n += int64(n)
	b.reading = false
	if b.idle != nil {
		close(b.idle)
	}
	switch {
	case err == nil:
	case err == io.EOF, n == 0 && b.whole():
		b.eof = true
		err = io.EOF
	case b.err != nil:
		err = b.err
	}
	return n, err
}

// whole reports whether the whole body was read, even if no Read has returned
// io.EOF yet. mu is held.
func (b *clientBody) whole() bool { return b.eof || b.length > 0 && b.n >= b.length }

// wasRead locks mu and calls whole.
func (b *clientBody) wasRead() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.whole()
}

// abort makes a blocked Read and all later ones return err. After the response
// has begun it does nothing; then the timeouts of the response apply.
func (b *clientBody) abort(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.answered || b.err != nil || b.whole() {
		return
	}
	b.err = err
	if b.reading {
		b.cancel(err)
		b.rc.SetReadDeadline(longAgo)
	}
}

// connect clears the error of abort for a new connection to a server. The
// Transport may have tried a closed connection first, without reading the body.
func (b *clientBody) connect() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = nil
}

// answer records that the response has begun.
func (b *clientBody) answer() {
	b.stall.stop()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answered = true
}

// end ends a blocked Read and limits the time in which net/http reads the rest
// of the body. cut means that the response was aborted.
func (b *clientBody) end(cut bool) {
	b.stall.stop()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = errHandlerEnded
	}
	b.answered = true
	if !b.http1 || b.whole() {
		return
	}
	linger := lingerTimeout
	if b.timeout > 0 {
		linger = min(linger, b.timeout)
	}
	if b.reading || cut {
		b.rc.SetReadDeadline(longAgo)
	}
	if b.reading {
		// net/http would also end the Read, but it would clear the deadline.
		b.idle = make(chan struct{})
		b.mu.Unlock()
		select {
		case <-b.idle:
		case <-time.After(linger): // the body of middleware, which ignores the deadline
		}
		b.mu.Lock()
	}
	if !cut {
		by := time.Now().Add(linger)
		if !b.by.IsZero() && b.by.Before(by) {
			by = b.by
		}
		b.rc.SetReadDeadline(by)
	}
}

// limitDrain limits the time in which net/http reads the body of a refused
// request.
func (p *Proxy) limitDrain(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 && r.ContentLength != 0 && r.Body != nil {
		newClientBody(w, r, p.bodyTimeout, nil).end(false)
	}
}

// Close does nothing. httputil closes the body before the handler returns, from
// Go 1.27 on, and would wait for the client's next byte. net/http closes the
// body after the handler.
func (b *clientBody) Close() error { return nil }
