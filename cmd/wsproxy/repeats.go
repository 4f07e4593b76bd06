package main

import (
	"sync"
	"time"
)

// A repeats collapses equal log lines. The first line of a key is logged at once.
// Those of the next window are counted, and more is called with their number when
// the window ends. A repeats has memory and a timer only for the keys that are being
// counted, of which the caller must have few.
type repeats[K comparable] struct {
	window time.Duration
	more   func(key K, n int, within time.Duration)

	mu      sync.Mutex
	counted map[K]*counted
}

type counted struct {
	n     int
	begun time.Time
	timer *time.Timer
}

// first reports whether to log the line of key. If it returns false, it has counted
// the line.
func (r *repeats[K]) first(key K) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if c := r.counted[key]; c != nil {
		c.n++
		return false
	}
	if r.counted == nil {
		r.counted = map[K]*counted{}
	}
	r.counted[key] = &counted{begun: time.Now(), timer: time.AfterFunc(r.window, func() { r.expire(key) })}
	return true
}

// expire ends a window, and begins another one if there were repeats.
func (r *repeats[K]) expire(key K) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.counted[key]
	if c == nil { // flush was faster
		return
	}
	if c.n == 0 {
		delete(r.counted, key)
		return
	}
	r.more(key, c.n, r.window)
	c.n, c.begun = 0, time.Now()
	c.timer.Reset(r.window)
}

// flush ends all windows now.
func (r *repeats[K]) flush() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for key, c := range r.counted {
		c.timer.Stop()
		if c.n > 0 {
			r.more(key, c.n, time.Since(c.begun))
		}
		delete(r.counted, key)
	}
}
