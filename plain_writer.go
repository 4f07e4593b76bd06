package wsproxy

import (
	"context"
	"maps"
	"net/http"
	"sync"
	"time"
)

// A plainWriter is what httputil writes a response to. It keeps the fields of
// middleware for the final response, after a 1xx with which httputil clears
// them, and leaves a response without Content-Type so: from what net/http would
// make up of the first bytes of its body a browser might run them.
type plainWriter struct {
	http.ResponseWriter
	before  http.Header
	cleared bool
	body    *clientBody // nil: none
	stall   stallTimer  // of writes
}

// newPlainWriter returns a writer to w, which the caller must end before the
// handler returns. A write that takes longer than timeout fails.
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
		w.cleared = true // as soon as this returns
	} else {
		w.prepare(h)
		if status == http.StatusUpgradeRequired && h["Upgrade"] != nil { // see keepUpgrade
			h.Add("Connection", "Upgrade")
		}
		if h["Content-Type"] == nil {
			h["Content-Type"] = nil
		}
	}
	w.stall.begin() // a 1xx is written at once
	w.ResponseWriter.WriteHeader(status)
	w.stall.end()
}

// Write writes in pieces, as nothing shows the progress of one.
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

// FlushError is for http.ResponseController.
func (w *plainWriter) FlushError() error {
	w.stall.begin()
	defer w.stall.end()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// end is for the end of the handler. net/http then writes what is left, for
// which it gets a last deadline, unless middleware may still have more to write.
func (w *plainWriter) end(ctx context.Context, cut bool) {
	w.stall.stop()
	if w.body != nil {
		w.body.end(cut)
	}
	own, ok := w.ResponseWriter.(interface{ SetWriteDeadline(time.Time) error })
	if ok && !cut && w.stall.timeout > 0 && serverWriteDeadline(ctx).IsZero() {
		own.SetWriteDeadline(time.Now().Add(w.stall.timeout))
	}
}

// prepare gives the connection up where the response comes before the end of
// the body. For another request net/http would first swallow what is left of
// that; in full duplex it would not, but panics (golang/go#68560).
func (w *plainWriter) prepare(h http.Header) {
	if w.body != nil && w.body.http1 && !w.body.wasRead() {
		h.Set("Connection", "close")
	}
}

func (w *plainWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

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
