package wsproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
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

// applyTrailer has out carry the trailer fields that in announces, and returns
// them. A field passes only if the header could carry it too and does not have
// it yet: an upstream may take both for one (CVE-2013-5704). The names are known
// from the start. The values come at the end of the body, in in alone.
func (p *headerPolicy) applyTrailer(out, in *http.Request) http.Header {
	taken := fieldNames(in.Header)
	for name := range tokens(in.Header["Connection"]) {
		taken[dashed(name)] = true
	}
	trailer := make(http.Header)
	for name := range in.Trailer {
		if !taken[dashed(name)] && p.passesInTrailer(name) {
			trailer[name] = nil
		}
	}
	out.Trailer = trailer
	out.Body = &notingBody{out.Body, func() {
		for name := range trailer {
			trailer[name] = in.Trailer[name]
		}
	}}
	// As HTTP/1.1 has it anyway, but a request of HTTP/2 does not say so, and
	// the Transport would read the start of its body on another goroutine.
	out.TransferEncoding = []string{"chunked"}
	return trailer
}

func (p *headerPolicy) passesInTrailer(name string) bool {
	return isToken(name) && name != "Host" && !slices.Contains(ownFields, name) &&
		!p.managed(name, false) && !slices.ContainsFunc(p.edits, func(e headerEdit) bool { return e.name == name })
}

// withoutFields removes the fields from trailer that h has.
func withoutFields(trailer, h http.Header) {
	if len(trailer) == 0 {
		return
	}
	taken := fieldNames(h)
	for name := range trailer {
		if taken[dashed(name)] {
			delete(trailer, name)
		}
	}
}

// fieldNames returns the names in h as the servers that take all punctuation
// for the same read them.
func fieldNames(h http.Header) map[string]bool {
	names := make(map[string]bool, len(h))
	for name := range h {
		names[dashed(name)] = true
	}
	return names
}

// A notingBody calls atEnd when all of a body is read.
type notingBody struct {
	io.ReadCloser
	atEnd func()
}

func (b *notingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.atEnd()
	}
	return n, err
}
