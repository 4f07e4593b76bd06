package wsproxy

import (
	"sync"
	"sync/atomic"
	"time"
)

// A verdict is what a request says about the health of its server.
type verdict uint8

const (
	abandoned verdict = iota // nothing: the client left, or the proxy is closing
	unused                   // nothing: the request was not sent to it after all
	succeeded
	failed
)

// health is a server's as its requests show it: nginx's max_fails and
// fail_timeout. While the server is up, asking for it takes no lock.
type health struct {
	down atomic.Bool // written with mu held

	mu    sync.Mutex
	fails int
	since time.Time // the first of fails
	until time.Time // while down: when it may be tried
}

func (h *health) available() bool {
	if !h.down.Load() {
		return true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.down.Load() || h.due()
}

// due reports whether a server that is down may be tried. mu is held.
func (h *health) due() bool { return !time.Now().Before(h.until) }

// claim takes the server for a request. Of a server that is down it is the one
// that tries it, the probe, if it is time for one: one in each window, whatever
// becomes of it, so that a slow one does not keep the server out.
func (h *health) claim(timeout time.Duration) (probe, ok bool) {
	if !h.down.Load() {
		return false, true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.down.Load() {
		return false, true
	}
	if !h.due() {
		return false, false
	}
	h.until = time.Now().Add(timeout)
	return true, true
}

// settle takes the verdict of a request that claimed the server. Of those that
// did so before it went down nothing is learned: only the probe decides. A
// success does not make up for failures of the same window, or a server that
// fails every other request would never be down.
func (h *health) settle(v verdict, probe bool, maxFails int, timeout time.Duration) {
	if !probe && v != failed {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down.Load() != probe {
		return
	}
	switch v {
	case unused:
		h.until = time.Now()
	case succeeded:
		h.fails = 0
		h.down.Store(false)
	case failed:
		now := time.Now()
		if !probe && now.Sub(h.since) > timeout {
			h.fails, h.since = 0, now
		}
		h.fails++
		if probe || h.fails >= maxFails {
			h.until = now.Add(timeout)
			h.down.Store(true)
		}
	}
}

// report returns the failures that count now, and until when the server is
// down.
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
