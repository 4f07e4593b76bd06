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

// lingerTimeout is how long the server goes on reading a body that nobody wants
// any longer, so that a reset does not destroy the response on its way to the
// client. It is nginx's lingering_timeout.
const lingerTimeout = 5 * time.Second

var errHandlerEnded = errors.New("the request has been answered")

// A clientBody is the body of a client's request. It bounds the silence between
// two reads, and lets go of the body when the upstream does.
//
// The Transport does not return while a Read of the body waits, even if the
// connection to the server is gone (golang/go#78973). A Read of net/http's
// bodies returns once a deadline has passed. That cancels the request's context,
// so cancel has to be called with the cause first.
type clientBody struct {
	io.ReadCloser
	rc      *http.ResponseController
	http1   bool
	length  int64 // by Content-Length; negative: not known
	timeout time.Duration
	by      time.Time // the end of http.Server's ReadTimeout, if not zero
	cancel  context.CancelCauseFunc
	stall   stallTimer

	mu       sync.Mutex
	n        int64 // bytes read
	eof      bool
	reading  bool
	idle     chan struct{} // closed when the Read that end waits for has returned
	err      error         // why nothing is read any longer
	answered bool          // the response has begun
}

// newClientBody returns the body of r, which the caller must end before the
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
		// net/http may have closed the body, which is no error.
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

// whole reports whether every byte was read. A body of a known length need not
// have said so yet. mu is held.
func (b *clientBody) whole() bool { return b.eof || b.length > 0 && b.n >= b.length }

// wasRead is whole for those who do not hold mu.
func (b *clientBody) wasRead() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.whole()
}

// abort ends a Read that waits, with err, and lets no other begin. Once the
// response has begun it does nothing: then the timeouts of the response hold.
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

// connect makes the body good for a connection to a server. The Transport may
// have tried another, that had been closed, without reading from the body.
func (b *clientBody) connect() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = nil
}

// answer notes that the response has begun.
func (b *clientBody) answer() {
	b.stall.stop()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answered = true
}

// end leaves nothing that reads the body, and bounds the time for which
// net/http reads on. cut says that the response was aborted.
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
		// net/http would end the Read too, but would clear the deadline.
		b.idle = make(chan struct{})
		b.mu.Unlock()
		select {
		case <-b.idle:
		case <-time.After(linger): // middleware's, which waits for something else
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

// limitDrain bounds the time for which net/http reads the body of a request that
// is refused.
func (p *Proxy) limitDrain(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength != 0 && r.Body != nil {
		newClientBody(w, r, p.bodyTimeout, nil).end(false)
	}
}

// Close does nothing. net/http closes the body after the handler, and httputil
// before that, from Go 1.27 on: it would wait for the client's next byte.
func (b *clientBody) Close() error { return nil }

// A stallTimer calls expired when an operation takes timeout without progress.
// A timeout of zero is none.
type stallTimer struct {
	timeout time.Duration
	expired func()                              // must not call the stallTimer's methods
	silence func(since time.Time) time.Duration // nil: time.Since

	mu      sync.Mutex
	since   time.Time   // when the operation began; zero: none is under way
	timer   *time.Timer // looks after it, if not nil
	stopped bool
}

// begin starts an operation, or notes its progress.
func (s *stallTimer) begin() {
	if s.timeout == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since = time.Now()
	if s.timer == nil && !s.stopped {
		s.timer = time.AfterFunc(s.timeout, s.check)
	}
}

// end ends the operation. It leaves the timer alone, as stopping it would cost
// each operation a call: check comes once more and finds nothing.
func (s *stallTimer) end() {
	if s.timeout == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since = time.Time{}
}

func (s *stallTimer) check() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped || s.since.IsZero() {
		s.timer = nil
		return
	}
	silence := s.silence
	if silence == nil {
		silence = time.Since
	}
	if left := s.timeout - silence(s.since); left > 0 {
		s.timer.Reset(left)
		return
	}
	s.expired()
}

// stop ends the timer's work. Once it has returned, expired is not called.
func (s *stallTimer) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	if s.timer != nil {
		s.timer.Stop()
	}
}

// requestBody is a client's. The Transport closes it when it fails to connect,
// after which another server is still to get it: closing is left to httputil.
// When it cannot be read, which is no server's fault, the request ends.
type requestBody struct {
	io.Reader
	length int64 // by Content-Length; 0 or less: not known
	left   int64
	cancel context.CancelCauseFunc
}

func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.left -= int64(n)
	switch {
	case err != nil && err != io.EOF:
		b.cancel(badBody(err))
	case b.length > 0 && (b.left < 0 || b.left > 0 && err == io.EOF):
		b.cancel(wrongLength(b.length))
	}
	return n, err
}

func (b *requestBody) Close() error { return nil }
