package wsproxy

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"example.com/wsproxy/internal/frame"
)

// defaultCloseTimeout also limits the wait for the answer to the proxy's Close
// frame if the close timeout is disabled.
const defaultCloseTimeout = 10 * time.Second

// timeouts are the limits of a tunnel. Zero means no limit.
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

// lifetimeOf returns the lifetime of the tunnel with this number. It spreads them,
// so that tunnels that opened together do not end together. Consecutive multiples of
// the golden ratio lie far apart modulo one. Those of a Proxy begin at a random point.
func (s *sweeper) lifetimeOf(id uint64) time.Duration {
	const golden = 0x9e3779b97f4a7c15 // divided by 2^64
	sooner, _ := bits.Mul64(s.spread+id*golden, uint64(s.lifetime/10+1))
	return s.lifetime - time.Duration(sooner)
}

// least returns the shortest limit. There always is one, because the wait for
// the answer to the proxy's Close frame is always limited.
func (t timeouts) least() time.Duration {
	least := defaultCloseTimeout
	for _, d := range []time.Duration{t.read, t.send, t.close, t.lifetime - t.lifetime/10, t.pingInterval, t.pingTimeout} {
		if d > 0 {
			least = min(least, d)
		}
	}
	return least
}

// sweepCost is the least time between sweeps for each tunnel. A sweep takes some
// 20 ns a tunnel, so that sweeps take at most a thousandth of a core.
const sweepCost = 20 * time.Microsecond

// A sweeper ends the tunnels of a registry that expire. It has one timer for all
// tunnels, and none if there is no tunnel. Flows only record stamps.
//
// Every limit counts from something that a flow does, so no deadline is nearer
// than the shortest limit after that. If sweeps are at least that frequent, one
// of them sees each deadline before it is due, and sets the timer for it.
type sweeper struct {
	timeouts
	epoch  time.Time
	spread uint64 // random; see lifetimeOf
	timer  *time.Timer
	armed  bool  // the timer is set
	next   stamp // when the timer fires
	late   bool  // the last sweep was late, and was put off
}

func (s *sweeper) init(t timeouts) {
	s.timeouts = t
	s.epoch = time.Now()
	s.spread = rand.Uint64()
}

// now costs less than a stamp of time.Now: time.Since reads one clock, not two.
func (s *sweeper) now() stamp { return stamp(time.Since(s.epoch)) + 1 }

// stamp returns the stamp for t, which is not before the epoch.
func (s *sweeper) stamp(t time.Time) stamp { return stamp(t.Sub(s.epoch)) + 1 }

// time returns the time of at, which is set.
func (s *sweeper) time(at stamp) time.Time { return s.epoch.Add(time.Duration(at - 1)) }

// A stamp is a time on a sweeper's monotonic clock. The zero stamp is not set.
// Stamps can be compared: one that is not set is before all others.
type stamp int64 // nanoseconds since the epoch, plus one

func (s stamp) isSet() bool { return s != 0 }

// add returns the stamp d after s, or the last possible one if that is earlier.
func (s stamp) add(d time.Duration) stamp {
	if sum := s + stamp(d); sum > 0 {
		return sum
	}
	return math.MaxInt64
}

func (s stamp) sub(earlier stamp) time.Duration { return time.Duration(s - earlier) }

// An atomicStamp is a stamp that one goroutine sets while others read it.
type atomicStamp struct{ v atomic.Int64 }

func (a *atomicStamp) Load() stamp   { return stamp(a.v.Load()) }
func (a *atomicStamp) Store(s stamp) { a.v.Store(int64(s)) }
func (a *atomicStamp) clear()        { a.v.Store(0) }

// storeFirst stores s unless a stamp is set.
func (a *atomicStamp) storeFirst(s stamp) { a.v.CompareAndSwap(0, int64(s)) }

// start sets the timer when the first tunnel is added, if anything limits
// tunnels. r.mu is held.
func (r *registry) start() {
	if len(r.live) == 1 && r.timeouts != (timeouts{}) {
		r.arm()
	}
}

// arm sets the timer for the earliest possible deadline. r.mu is held.
func (r *registry) arm() { r.sweepIn(r.least()) }

// sweepIn sets the timer. r.mu is held.
func (r *registry) sweepIn(d time.Duration) {
	r.armed = true
	r.next = r.now().add(d)
	if r.timer == nil {
		r.timer = time.AfterFunc(d, r.sweep)
	} else {
		r.timer.Reset(d)
	}
}

// pause is how late a sweep must be to show that the process or its machine was
// stopped. Bytes and Pongs may have arrived meanwhile that no flow could read
// yet, so the sweep is put off by as much as it was late, but not longer than
// longestPause. It is put off only once, so that the timeouts hold even on a
// machine where every sweep is late.
const (
	pause        = 100 * time.Millisecond
	longestPause = time.Second
)

// watchAnswers sets the timer for the answers to the proxy's Close frames, if it is
// not set because nothing else limits tunnels.
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

// stop stops the timer after the last tunnel. r.mu is held.
func (r *registry) stop() {
	r.armed = false
	if r.timer != nil {
		r.timer.Stop()
	}
}

// sweep pings and ends the tunnels for which that is due, and sets the timer for
// the next sweep.
func (r *registry) sweep() {
	var due []deadline
	var pings []*flow
	r.mu.Lock()
	now := r.now()
	late := now.sub(r.next)
	if r.late = r.armed && !r.late && late > pause; r.late {
		r.sweepIn(min(late, longestPause))
		r.mu.Unlock()
		return
	}
	next := now.add(r.least())
	limited := r.timeouts != (timeouts{})
	for _, t := range r.live {
		d := r.deadline(t)
		for _, f := range t.flows() {
			switch at, _ := r.nextPing(f); {
			case !at.isSet():
			case at <= now:
				f.pinged.Store(now)
				pings = append(pings, f.back())
				d.limit(now, r.pingTimeout, expiry{reason: ReasonPingTimeout, dead: f})
			default:
				next = min(next, at)
			}
		}
		limited = limited || d.at.isSet()
		switch {
		case !d.at.isSet():
		case d.at <= now:
			due = append(due, d)
		default:
			next = min(next, d.at)
		}
	}
	if r.armed = len(r.live) > 0 && limited; r.armed {
		r.sweepIn(max(next.sub(now), min(time.Duration(len(r.live))*sweepCost, time.Second)))
	}
	r.mu.Unlock()
	for _, f := range pings {
		f.ask(askPing)
	}
	for _, d := range due {
		d.carryOut()
	}
}

// A deadline is when a tunnel expires unless something happens before.
type deadline struct {
	t  *Tunnel
	at stamp // not set: nothing limits the tunnel
	expiry
}

// An expiry is what the end of a timeout means for a tunnel.
type expiry struct {
	reason Reason // why the tunnel ends
	dead   *flow  // from the end that does not answer, for ReasonPingTimeout
	cut    bool   // cut the tunnel; it has begun to close, which set its reason
}

// limit moves the deadline to timeout after since, if that is set and nearer. If
// two limits are due at the same time, the later call counts.
func (d *deadline) limit(since stamp, timeout time.Duration, e expiry) {
	if timeout == 0 || !since.isSet() {
		return
	}
	if at := since.add(timeout); !d.at.isSet() || at <= d.at {
		d.at, d.expiry = at, e
	}
}

// deadline returns when t expires. The most specific limit is applied last, so
// it decides among limits that are due at the same time.
func (s *sweeper) deadline(t *Tunnel) deadline {
	d := deadline{t: t}
	if t.leaving() {
		answer := s.close
		if answer == 0 {
			answer = defaultCloseTimeout
		}
		d.limit(t.closing(), answer, expiry{cut: true})
		return d
	}
	d.limit(s.stamp(t.opened), s.lifetimeOf(t.id), expiry{reason: ReasonMaxLifetime})
	d.limit(t.lastActivity(), s.read, expiry{reason: ReasonReadTimeout})
	for _, f := range t.flows() {
		d.limit(f.stalled.Load(), s.send, expiry{reason: ReasonSendTimeout})
		_, asked := s.nextPing(f)
		d.limit(asked, s.pingTimeout, expiry{reason: ReasonPingTimeout, dead: f})
	}
	d.limit(t.closing(), s.close, expiry{cut: true})
	d.limit(t.closedAt(), s.close, expiry{cut: true})
	return d
}

// nextPing returns when src of f must be sent a Ping, or, if one is under way,
// since when src could have answered and has not sent anything. At most one of
// the two is set. The flows run meanwhile, and write their stamps in the order
// that unstall and add explain.
func (s *sweeper) nextPing(f *flow) (at, asked stamp) {
	if s.pingInterval == 0 || !f.t.frames {
		return 0, 0
	}
	to := f.back() // writes the Ping
	switch {
	case to.has(untracked):
		return 0, 0
	case f.t.closing().isSet(), f.has(said), to.has(said):
		return 0, 0 // nothing may follow a Close frame
	case f.stalled.Load().isSet():
		return 0, 0 // src is not read while dst is slow
	case to.has(askPing):
		// The Ping waits until the frame that is being written to src ends. If src
		// takes nothing of that frame, the wait is src's silence.
		if stalled := to.stalled.Load(); stalled.isSet() {
			return 0, max(stalled, f.pinged.Load())
		}
		return 0, 0
	}
	heard := max(s.stamp(f.t.opened), f.heard.Load(), f.moved.Load())
	if pinged := f.pinged.Load(); pinged > heard {
		return 0, pinged
	}
	return heard.add(s.pingInterval), 0
}

func (d deadline) carryOut() {
	if d.cut {
		d.t.cutShort(ReasonFailed)
		return
	}
	switch d.reason {
	case ReasonReadTimeout:
		d.t.goAway(ReasonReadTimeout, frame.CodeGoingAway, "idle for too long")
	case ReasonMaxLifetime:
		d.t.goAway(ReasonMaxLifetime, frame.CodeGoingAway, "open for too long")
	case ReasonPingTimeout:
		d.t.goAway(ReasonPingTimeout, frame.CodeGoingAway, "other end is gone")
		d.t.relay.cutSrc(d.dead)
	default:
		d.t.cutShort(d.reason)
	}
}
