package wsproxy

import (
	"context"
	"maps"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// A plainWriter is the ResponseWriter for httputil. httputil clears the header
// after a 1xx; a plainWriter restores the fields that middleware has set. It
// also keeps net/http from adding a Content-Type that it guesses from the body,
// which a browser might execute.
type plainWriter struct {
	http.ResponseWriter
	before  http.Header
	cleared bool
	status  int         // of the final response; 0 before it
	body    *clientBody // nil if the request has no body
	stall   stallTimer  // for writes
}

// newPlainWriter returns a writer to w. The caller must call end before the
// handler returns. A write that makes no progress for timeout fails.
func newPlainWriter(w http.ResponseWriter, timeout time.Duration) *plainWriter {
	pw := &plainWriter{ResponseWriter: w, before: w.Header().Clone()}
	pw.stall.timeout = timeout
	pw.stall.expired = func() { http.NewResponseController(w).SetWriteDeadline(longAgo) }
	return pw
}

func (w *plainWriter) Header() http.Header {
	h := w.ResponseWriter.Header()
	if w.cleared {
		w.cleared = false
		maps.Copy(h, w.before.Clone())
	}
	return h
}

func (w *plainWriter) WriteHeader(status int) {
	if h := w.Header(); status < 200 {
		removeHopByHop(h)
		// If the client resets its stream, the HTTP/2 server of net/http encodes
		// h after WriteHeader has returned, while httputil clears h. For this
		// field, which it does not send, it makes a copy (golang/go#67940).
		h["Transfer-Encoding"] = nil
		w.cleared = true // httputil clears the header when this returns
	} else {
		w.status = status
		w.prepare(h)
		if status == http.StatusUpgradeRequired && h["Upgrade"] != nil { // see keepUpgrade
			h.Add("Connection", "Upgrade")
		}
		if h["Content-Type"] == nil {
			h["Content-Type"] = nil
		}
	}
	w.stall.begin() // a 1xx is written immediately
	w.ResponseWriter.WriteHeader(status)
	w.stall.end()
}

// Write writes in pieces, because the progress within a single write is unknown.
func (w *plainWriter) Write(b []byte) (n int, err error) {
	defer w.stall.end()
	for {
		w.stall.begin()
		m, err := w.ResponseWriter.Write(b[n:min(len(b), n+pieceSize)])
		if n += m; err != nil || n == len(b) {
			return n, err
		}
	}
}

// FlushError implements the Flush of http.ResponseController.
func (w *plainWriter) FlushError() error {
	w.stall.begin()
	defer w.stall.end()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// end must be called before the handler returns. net/http then writes what is
// left, such as the header of a response to HEAD, and end sets a deadline for
// that.
func (w *plainWriter) end(ctx context.Context, cut bool) {
	w.stall.stop()
	if w.body != nil {
		w.body.end(cut)
	}
	if !cut && w.stall.timeout > 0 && serverWriteDeadline(ctx).IsZero() {
		http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(w.stall.timeout))
	}
}

// prepare closes the connection after the response if the request's body has
// not been read. To keep it, net/http would have to read the rest of the body
// first. In full duplex it would not, but panics (golang/go#68560).
func (w *plainWriter) prepare(h http.Header) {
	if w.body != nil && w.body.http1 && !w.body.wasRead() {
		h.Set("Connection", "close")
	}
}

func (w *plainWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// A stallTimer calls expired when an operation makes no progress for timeout.
// A timeout of zero disables it.
type stallTimer struct {
	timeout time.Duration
	expired func()                              // must not call the stallTimer's methods
	silence func(since time.Time) time.Duration // nil means time.Since

	mu      sync.Mutex
	since   time.Time   // when the operation began or made progress; zero if there is none
	timer   *time.Timer // calls check; nil if it is not set
	armed   *armed
	stopped bool
}

// An armed is what a timer holds of its stallTimer, until stop takes it away.
// The runtime may keep a stopped timer until it would have fired, and with it
// the request.
type armed struct{ s atomic.Pointer[stallTimer] }

func (a *armed) check() {
	if s := a.s.Load(); s != nil {
		s.check()
	}
}

// begin starts an operation, or records its progress.
func (s *stallTimer) begin() {
	if s.timeout == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.since = time.Now()
	if s.timer == nil && !s.stopped {
		s.armed = new(armed)
		s.armed.s.Store(s)
		s.timer = time.AfterFunc(s.timeout, s.armed.check)
	}
}

// end ends the operation. It does not stop the timer, which would cost a call
// for each operation. The timer runs once more, and check does nothing.
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

// stop stops the timer. After it has returned, expired is not called.
func (s *stallTimer) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	if s.timer != nil {
		s.timer.Stop()
		s.armed.s.Store(nil)
	}
}
