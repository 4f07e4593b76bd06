package wsproxy

import "time"

// timeouts are the limits of a tunnel; zero means none.
type timeouts struct {
	read, send, close, lifetime time.Duration
}

func (c *config) timeouts() timeouts {
	return timeouts{c.readTimeout, c.sendTimeout, c.closeTimeout, c.maxLifetime}
}

// least returns the shortest limit, or 0 where there is none.
func (t timeouts) least() time.Duration {
	var least time.Duration
	for _, d := range []time.Duration{t.read, t.send, t.close, t.lifetime} {
		if d > 0 && (least == 0 || d < least) {
			least = d
		}
	}
	return least
}

// sweepCost spaces sweeps by the number of tunnels: looking at one takes some
// 20 ns, so that sweeps take no more than a thousandth of a core.
const sweepCost = 20 * time.Microsecond

// A sweeper ends the tunnels of a registry whose time is up: one timer for all
// of them, none while there are none. Flows only leave timestamps behind.
//
// Every limit counts from something that a flow does, so a deadline can never
// be nearer than the shortest limit after that. A sweep at least that often
// therefore learns of each deadline before it is due, and can be there on
// time.
type sweeper struct {
	timeouts
	epoch time.Time
	timer *time.Timer
}

func (s *sweeper) init(t timeouts) {
	s.timeouts = t
	s.epoch = time.Now().Add(-1) // so that no timestamp is 0, which means never
}

// now is the clock of all timestamps: nanoseconds, monotonic.
func (s *sweeper) now() int64 { return int64(time.Since(s.epoch)) }

// start sets the timer for the first tunnel. r.mu is held.
func (r *registry) start() {
	least := r.least()
	switch {
	case least == 0 || len(r.live) > 1:
	case r.timer == nil:
		r.timer = time.AfterFunc(least, r.sweep)
	default:
		r.timer.Reset(least)
	}
}

// stop clears the timer after the last tunnel. r.mu is held.
func (r *registry) stop() {
	if r.timer != nil {
		r.timer.Stop()
	}
}

// sweep ends the tunnels whose time is up and sets the timer for the next.
func (r *registry) sweep() {
	type ending struct {
		t      *Tunnel
		reason Reason
	}
	var due []ending
	r.mu.Lock()
	now := r.now()
	next := now + int64(r.least())
	for _, t := range r.live {
		at, reason := r.deadline(t)
		switch {
		case reason == 0:
		case at <= now:
			due = append(due, ending{t, reason})
		case at < next:
			next = at
		}
	}
	if len(r.live) > 0 {
		r.timer.Reset(max(time.Duration(next-now), min(time.Duration(len(r.live))*sweepCost, time.Second)))
	}
	r.mu.Unlock()
	for _, e := range due {
		e.t.end(e.reason, nil)
	}
}

// deadline returns when t is to end unless something happens before, and why;
// no reason where nothing limits it. Of two at once the later in this list is
// the more specific.
func (s *sweeper) deadline(t *Tunnel) (at int64, reason Reason) {
	limit := func(since int64, d time.Duration, why Reason) {
		if d > 0 && since > 0 && (reason == 0 || since+int64(d) <= at) {
			at, reason = since+int64(d), why
		}
	}
	opened := int64(t.opened.Sub(s.epoch))
	limit(opened, s.lifetime, MaxLifetime)
	limit(max(opened, t.fromClient.active.Load(), t.fromUpstream.active.Load()), s.read, ReadTimeout)
	limit(t.fromClient.stalled.Load(), s.send, SendTimeout)
	limit(t.fromUpstream.stalled.Load(), s.send, SendTimeout)
	limit(t.closing.Load(), s.close, Failed) // the reason is settled by then
	return at, reason
}
