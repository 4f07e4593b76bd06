package wsproxy

import (
	"time"

	"example.com/wsproxy/internal/frame"
)

// defaultCloseTimeout also bounds the answer to a Close frame of the proxy's
// where the close timeout is disabled.
const defaultCloseTimeout = 10 * time.Second

// timeouts are the limits of a tunnel; zero means none.
type timeouts struct {
	read, send, close, lifetime time.Duration
	pingInterval, pingTimeout   time.Duration
}

func (c *config) timeouts() timeouts {
	t := timeouts{read: c.readTimeout, send: c.sendTimeout, close: c.closeTimeout, lifetime: c.maxLifetime}
	if c.pingInterval > 0 {
		t.pingInterval, t.pingTimeout = c.pingInterval, c.pingTimeout
	}
	return t
}

// least returns the shortest limit. There always is one: that of the answers to
// a Close frame.
func (t timeouts) least() time.Duration {
	least := defaultCloseTimeout
	for _, d := range []time.Duration{t.read, t.send, t.close, t.lifetime, t.pingInterval, t.pingTimeout} {
		if d > 0 {
			least = min(least, d)
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
	armed bool  // the timer is set
	next  int64 // what it is set for
}

func (s *sweeper) init(t timeouts) {
	s.timeouts = t
	s.epoch = time.Now().Add(-1) // so that no timestamp is 0, which means never
}

// now is the clock of all timestamps: nanoseconds, monotonic.
func (s *sweeper) now() int64 { return int64(time.Since(s.epoch)) }

// start sets the timer for the first tunnel, if anything limits one. r.mu is
// held.
func (r *registry) start() {
	if len(r.live) == 1 && r.timeouts != (timeouts{}) {
		r.arm()
	}
}

// arm sets the timer for the nearest that a deadline can be.
func (r *registry) arm() { r.sweepIn(r.least()) }

// sweepIn sets the timer. r.mu is held.
func (r *registry) sweepIn(d time.Duration) {
	r.armed = true
	r.next = r.now() + int64(d)
	if r.timer == nil {
		r.timer = time.AfterFunc(d, r.sweep)
	} else {
		r.timer.Reset(d)
	}
}

// pause is how late a sweep is if the whole process must have stood still: it
// was stopped, or its machine was. Bytes and Pongs may then have come that no
// flow could read, so that the sweep waits for as long again before it acts.
const pause = 100 * time.Millisecond

// watchAnswers sets the timer for answers to a Close frame, where there is none
// yet as nothing else limits a tunnel.
func (r *registry) watchAnswers() {
	if r.timeouts != (timeouts{}) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.live) > 0 && !r.armed {
		r.arm()
	}
}

// stop clears the timer after the last tunnel. r.mu is held.
func (r *registry) stop() {
	r.armed = false
	if r.timer != nil {
		r.timer.Stop()
	}
}

// sweep does what is due on every tunnel and sets the timer for the next time.
func (r *registry) sweep() {
	var due []deadline
	var pings []*flow
	r.mu.Lock()
	now := r.now()
	if r.armed && now-r.next > int64(pause) {
		r.sweepIn(pause)
		r.mu.Unlock()
		return
	}
	next := now + int64(r.least())
	limited := r.timeouts != (timeouts{})
	for _, t := range r.live {
		d := r.deadline(t)
		for _, f := range t.flows() {
			switch at, asked := r.nextPing(f); {
			case asked > 0: // and deadline knows until when
			case at <= now:
				f.pinged.Store(now)
				pings = append(pings, f.back())
				d.limit(now, r.pingTimeout, ReasonPingTimeout, f)
			default:
				next = min(next, at)
			}
		}
		limited = limited || d.reason != 0
		switch {
		case d.reason == 0:
		case d.at <= now:
			due = append(due, d)
		default:
			next = min(next, d.at)
		}
	}
	if r.armed = len(r.live) > 0 && limited; r.armed {
		r.sweepIn(max(time.Duration(next-now), min(time.Duration(len(r.live))*sweepCost, time.Second)))
	}
	r.mu.Unlock()
	for _, f := range pings {
		f.ask(askPing)
	}
	for _, d := range due {
		d.carryOut()
	}
}

// A deadline is when and why a tunnel is to end unless something happens
// before. Its reason is 0 where nothing limits the tunnel.
type deadline struct {
	t      *Tunnel
	at     int64
	reason Reason
	dead   *flow // from the end that does not answer, for ReasonPingTimeout
}

// limit moves the deadline nearer. Of two at once the later call's is the more
// specific.
func (d *deadline) limit(since int64, timeout time.Duration, reason Reason, dead *flow) {
	at := since + int64(timeout) // negative where that is beyond all clocks
	if timeout > 0 && since > 0 && at > 0 && (d.reason == 0 || at <= d.at) {
		d.at, d.reason, d.dead = at, reason, dead
	}
}

// cutNow is the reason of a deadline at which a tunnel is only cut: why it
// ended is settled.
const cutNow = ReasonFailed

func (s *sweeper) deadline(t *Tunnel) deadline {
	d := deadline{t: t}
	if t.leaving.Load() {
		answer := s.close
		if answer == 0 {
			answer = defaultCloseTimeout
		}
		d.limit(t.closing.Load(), answer, cutNow, nil)
		return d
	}
	d.limit(s.stamp(t.opened), s.lifetime, ReasonMaxLifetime, nil)
	d.limit(t.lastActivity(), s.read, ReasonReadTimeout, nil)
	for _, f := range t.flows() {
		d.limit(f.stalled.Load(), s.send, ReasonSendTimeout, nil)
		if _, asked := s.nextPing(f); asked > 0 {
			d.limit(asked, s.pingTimeout, ReasonPingTimeout, f)
		}
	}
	d.limit(t.closing.Load(), s.close, cutNow, nil)
	d.limit(t.closedAt(), s.close, cutNow, nil)
	return d
}

// stamp is the timestamp for a time.
func (s *sweeper) stamp(t time.Time) int64 { return int64(t.Sub(s.epoch)) }

const never = 1<<63 - 1

// nextPing tells when the source of f is to be sent a Ping, or since when it could
// have answered one and has not been heard of.
func (s *sweeper) nextPing(f *flow) (at, asked int64) {
	if s.pingInterval == 0 || !f.t.frames {
		return never, 0
	}
	to := f.back()
	switch {
	case to.quiet.Load():
		return never, 0
	case f.t.closing.Load() != 0, f.code.Load() != 0, to.code.Load() != 0:
		return never, 0 // nothing may follow a Close frame
	case f.stalled.Load() != 0:
		return never, 0 // the other end is slow, and this one not read meanwhile
	case to.asked.Load()&askPing != 0:
		// The Ping waits: for the end of a frame that this end takes in, or
		// because it takes nothing.
		if stalled := to.stalled.Load(); stalled != 0 {
			return never, max(stalled, f.pinged.Load())
		}
		return never, 0
	}
	heard := max(s.stamp(f.t.opened), f.heard.Load(), f.moved.Load())
	if pinged := f.pinged.Load(); pinged > heard {
		return never, pinged
	}
	if at = heard + int64(s.pingInterval); at < 0 {
		at = never
	}
	return at, 0
}

func (d deadline) carryOut() {
	switch d.reason {
	case ReasonReadTimeout:
		d.t.goAway(ReasonReadTimeout, frame.CodeGoingAway, "idle for too long")
	case ReasonMaxLifetime:
		d.t.goAway(ReasonMaxLifetime, frame.CodeGoingAway, "open for too long")
	case ReasonPingTimeout:
		d.t.goAway(ReasonPingTimeout, frame.CodeGoingAway, "other end is gone")
		d.t.relay.cutSrc(d.dead)
	case cutNow:
		d.t.cutShort(cutNow)
	default:
		d.t.end(d.reason, nil)
	}
}
