package wsproxy

import (
	"sync"
	"sync/atomic"
	"time"
)

// A verdict is what a request says about the health of its server.
type verdict uint8

const (
	abandoned verdict = iota // nothing: the client left, the proxy is closing, or the request may be at fault
	unused                   // nothing: the request was not sent to it after all
	succeeded
	failed
)

// health is a server's as its requests show it: nginx's max_fails and
// fail_timeout. While the server is up, asking for it takes no lock.
//
//	up    MaxFails failures within FailTimeout take it down for FailTimeout.
//	down  Once in each FailTimeout one request, the probe, is sent to it. If that
//	      succeeds the server is up, if it fails the server is down for another
//	      FailTimeout. Requests for which every server is down are sent to it as
//	      well: a success takes it up, a failure changes nothing, or a busy proxy
//	      would put the next probe off for ever.
//
// A request says nothing about a server that went down or came up after the
// request was sent to it.
type health struct {
	down atomic.Bool // written with mu held

	mu    sync.Mutex
	fails int
	since time.Time // the first of fails
	until time.Time // while down: when the next probe is due
}

func (h *health) available() bool {
	if !h.down.Load() {
		return true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.down.Load() || h.due()
}

// due reports whether a server that is down takes a probe. mu is held.
func (h *health) due() bool { return !time.Now().Before(h.until) }

// A claim is the state in which a request found its server.
type claim uint8

const (
	whileUp    claim = iota
	asProbe          // down, and this request decides whether it is up again
	lastResort       // down, as are all others
)

// claim takes the server for a request. A server that is down takes one probe
// in each window, whatever becomes of it, so that a slow probe does not keep
// the server out, and other requests only if they failOpen.
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

// settle takes the verdict of a request that claimed the server. A success
// does not make up for failures of the same window, or a server that fails
// every other request would never be down.
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
