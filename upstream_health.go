package wsproxy

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A verdict is what a request shows about the health of its server.
type verdict uint8

const (
	abandoned verdict = iota // nothing: the client left, the proxy is closing, or the request may be the cause
	unused                   // nothing: the request was not sent to the server
	succeeded
	failed
)

// health tracks whether a server is up, from the results of its requests, as
// nginx's max_fails and fail_timeout do. Reading the state of a server that is
// up takes no lock.
//
//	up    MaxFails failures within FailTimeout take the server down for
//	      FailTimeout.
//	down  In each FailTimeout one request, the probe, is sent to the server. If
//	      the probe succeeds, the server is up. If it fails, the server is down
//	      for another FailTimeout. If every server is down, other requests are
//	      sent to it, too. A success of these takes the server up. A failure
//	      changes nothing; otherwise a busy proxy would postpone the next probe
//	      forever.
//
// The result of a request is ignored if the server went down or came up after
// the request was sent.
type health struct {
	down atomic.Bool // written with mu held

	mu    sync.Mutex
	fails int
	since time.Time // when the first of fails occurred
	until time.Time // when the next probe is due, if down
}

func (h *health) available() bool {
	if !h.down.Load() {
		return true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.down.Load() || h.due()
}

// due reports whether the next probe is due. mu is held.
func (h *health) due() bool { return !time.Now().Before(h.until) }

// A claim is the state of the server when a request was sent to it.
type claim uint8

const (
	whileUp    claim = iota
	asProbe          // down, and this request is the probe
	lastResort       // down, as all others are
)

// claim reports whether a request may be sent to the server, and in which
// state. A server that is down takes one probe in each FailTimeout, even if the
// last one has not ended, so that a slow probe does not delay the next. It
// takes other requests only if failOpen is set.
func (h *health) claim(timeout time.Duration, failOpen bool) (by claim, ok bool) {
	if !h.down.Load() {
		return whileUp, true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case !h.down.Load():
		return whileUp, true
	case h.due():
		h.until = time.Now().Add(timeout)
		return asProbe, true
	}
	return lastResort, failOpen
}

// settle records the verdict of a request that claimed the server. While the
// server is up, a success does not reset the failures; otherwise a server that
// fails every other request would never go down.
func (h *health) settle(v verdict, by claim, maxFails int, timeout time.Duration) {
	if by == whileUp && v != failed {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down.Load() != (by != whileUp) {
		return
	}
	switch v {
	case unused:
		if by == asProbe {
			h.until = time.Now()
		}
	case succeeded:
		h.fails = 0
		h.down.Store(false)
	case failed:
		now := time.Now()
		if by == whileUp && now.Sub(h.since) > timeout {
			h.fails, h.since = 0, now
		}
		h.fails++
		if by == asProbe || by == whileUp && h.fails >= maxFails {
			h.until = now.Add(timeout)
			h.down.Store(true)
		}
	}
}

// report returns the failures that count now and, if the server is down, when
// the next probe is due.
func (h *health) report(timeout time.Duration) (fails int, downUntil time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.down.Load():
		return h.fails, h.until
	case time.Since(h.since) > timeout:
		return 0, time.Time{}
	}
	return h.fails, time.Time{}
}

// repeatWindow is the time in which failures of the same kind are logged once.
const repeatWindow = 10 * time.Second

// A failure is a kind of failure of one server. There are few kinds: a timeout, each
// error of the operating system, and all other causes together.
type failure struct {
	server string
	status int // of the response to the client; 0 if another server was tried
	cause  string
}

func failureCause(err error) string {
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		return errno.Error()
	case isTimeout(err):
		return "timeout"
	}
	return ""
}

// A failureLog decides which failures are logged as warnings: the first of a
// kind in each window. The others are counted, and the counts are logged when
// the window has ended. No goroutine waits for that: the next request to any server
// logs them, or Shutdown or Close. So the count of a server that has recovered or
// was removed is logged, too. The log has entries only for kinds that occurred in
// the last window before a request.
type failureLog struct {
	open atomic.Bool // whether windows has entries; written with mu held

	mu      sync.Mutex
	windows map[failure]*repeats
	order   []*repeats // by start
}

// repeats are the failures of a kind in a window, after the first.
type repeats struct {
	failure
	start, last time.Time // of the first and the last failure
	count       int
	err         error // the last
}

// add counts a failure. It reports whether the failure is the first of its
// kind in a window.
func (l *failureLog) add(f failure, err error) (first bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	r := l.windows[f]
	if r == nil {
		r = &repeats{failure: f, start: now}
		if l.windows == nil {
			l.windows = map[failure]*repeats{}
		}
		l.windows[f] = r
		l.order = append(l.order, r)
		l.open.Store(true)
		return true
	}
	r.count, r.last, r.err = r.count+1, now, err
	return false
}

// end removes the windows that have ended, or all of them, and returns the removed
// ones that have repeats.
func (l *failureLog) end(all bool) (ended []*repeats) {
	if !l.open.Load() {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for _, r := range l.order {
		if !all && time.Since(r.start) < repeatWindow {
			break
		}
		n++
		delete(l.windows, r.failure)
		if r.count > 0 {
			ended = append(ended, r)
		}
	}
	l.order = slices.Delete(l.order, 0, n)
	l.open.Store(len(l.order) > 0)
	return ended
}

// failureLevel returns the level of the log line for a failure.
func (p *Proxy) failureLevel(f failure, err error) slog.Level {
	p.reportRepeats(false)
	if p.failures.add(f, err) {
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

// reportRepeats logs the failures of the windows that have ended, or of all.
func (p *Proxy) reportRepeats(all bool) {
	for _, r := range p.failures.end(all) {
		p.logger.LogAttrs(context.Background(), slog.LevelWarn, "server failed repeatedly", slog.String("server", r.server),
			slog.Int("more", r.count), slog.Duration("in", r.last.Sub(r.start)), slog.Any("error", r.err))
	}
}
