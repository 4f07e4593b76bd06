package wsproxy

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"example.com/wsproxy/internal/frame"
)

// Drain closes the tunnels that are open now and for which match is true, or all
// if match is nil. It does so in random order and evenly over d, so that the
// clients do not reconnect all at once. Both ends of a tunnel get a Close frame
// with code 1012 (service restart), and have [WithCloseTimeout] to answer. A
// tunnel of another protocol than WebSocket is cut. The tunnels end with
// [ReasonShutdown]. New upgrades are not refused: for that see [Proxy.Shutdown].
//
// Drain returns nil when the tunnels have ended. If ctx ends first, Drain returns
// ctx's error, and tunnels that were not told yet go on. A d of zero or less
// closes all at once.
//
// match is called once for each tunnel, before the first is closed. Drain must
// not be called from a hook, whose tunnel it would wait for.
//
// nginx has no such directive. It is HAProxy's close-spread-time.
func (p *Proxy) Drain(ctx context.Context, d time.Duration, match func(*Tunnel) bool) error {
	var tunnels []*Tunnel
	for t := range p.Tunnels() {
		if match == nil || match(t) {
			tunnels = append(tunnels, t)
		}
	}
	rand.Shuffle(len(tunnels), func(i, j int) { tunnels[i], tunnels[j] = tunnels[j], tunnels[i] })
	a := p.tunnels.await(tunnels)
	defer p.tunnels.leaveOff(a)

	start := time.Now()
	turn := time.NewTimer(0)
	defer turn.Stop()
	for told := 0; ; {
		select {
		case <-a.ended:
			return nil
		case <-ctx.Done():
			select {
			case <-a.ended: // both were ready: prefer success
				return nil
			default:
				return ctx.Err()
			}
		case <-turn.C:
		}
		for ; told < len(tunnels) && ctx.Err() == nil; told++ {
			at := time.Duration(float64(d) * (float64(told) / float64(len(tunnels))))
			if wait := at - time.Since(start); wait > 0 {
				turn.Reset(wait)
				break
			}
			tunnels[told].goAway(ReasonShutdown, frame.CodeServiceRestart, "service restart")
			tunnels[told] = nil
		}
	}
}

// An awaited is a set of tunnels whose end somebody waits for.
type awaited struct {
	left  map[*Tunnel]struct{} // registry.mu
	ended chan struct{}        // closed when none is left
}

// await returns those of the tunnels that are still open.
func (r *registry) await(tunnels []*Tunnel) *awaited {
	a := &awaited{left: make(map[*Tunnel]struct{}, len(tunnels)), ended: make(chan struct{})}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range tunnels {
		if t.index < len(r.live) && r.live[t.index] == t {
			a.left[t] = struct{}{}
		}
	}
	if len(a.left) == 0 {
		close(a.ended)
		return a
	}
	r.awaited = append(r.awaited, a)
	return a
}

// leaveOff waits for a no longer.
func (r *registry) leaveOff(a *awaited) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.awaited = slices.DeleteFunc(r.awaited, func(other *awaited) bool { return other == a })
}

// gone tells a that a tunnel has ended. registry.mu is held.
func (a *awaited) gone(t *Tunnel) {
	if _, waited := a.left[t]; waited {
		delete(a.left, t)
		if len(a.left) == 0 {
			close(a.ended)
		}
	}
}
