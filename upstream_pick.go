package wsproxy

import (
	"net/http"
	"net/netip"
	"slices"
	"sync"
)

// available reports whether a request may go to the server now: it is up, or
// due for a probe, or the request would fail open. A request for a tunnel needs
// a place for one.
func (c *Candidate) available(tunnel, failOpen bool) bool {
	if tunnel && c.full() {
		return false
	}
	return failOpen || c.alwaysUp || c.health.available()
}

func (c *Candidate) full() bool {
	return c.server.MaxTunnels > 0 && c.tunnels.Load() >= int64(c.server.MaxTunnels)
}

// take holds the server for one request, unless another was faster to take
// its last place or to be the one that finds out whether it is up again.
func (c *Candidate) take(tunnel, failOpen bool) (lease, bool) {
	if tunnel && !c.reserve() {
		return lease{}, false
	}
	l := lease{Candidate: c, tunnel: tunnel}
	if !c.alwaysUp {
		var ok bool
		if l.by, ok = c.health.claim(c.server.FailTimeout, failOpen); !ok {
			l.release()
			return lease{}, false
		}
	}
	return l, true
}

// reserve counts one tunnel more. Adding first and taking back what is too much
// could refuse another request although there is a place for it.
func (c *Candidate) reserve() bool {
	for n := c.tunnels.Load(); ; n = c.tunnels.Load() {
		if c.server.MaxTunnels > 0 && n >= int64(c.server.MaxTunnels) {
			return false
		}
		if c.tunnels.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// A lease is a request's hold on a server. It is settled once, and released
// once where it is for a tunnel: when that has ended.
type lease struct {
	*Candidate
	tunnel bool // a place among the server's tunnels is taken
	by     claim
}

// settle notes what the request says about the server's health.
func (l lease) settle(v verdict) {
	if !l.alwaysUp {
		l.health.settle(v, l.by, l.server.MaxFails, l.server.FailTimeout)
	}
}

// release gives the place of a tunnel back.
func (l lease) release() {
	if l.tunnel {
		l.tunnels.Add(-1)
	}
}

// A route is one request's way through the servers of an Upstream, each at
// most once.
type route struct {
	upstream *Upstream
	request  *http.Request // the client's
	client   netip.Addr
	tunnel   bool
	tried    []*state
}

// candidateLists are lent to picks.
var candidateLists = sync.Pool{New: func() any { return new([]*Candidate) }}

// next takes the next server to try. If all that could be tried are down it
// fails open: one of them is tried (Envoy's panic threshold).
func (r *route) next() (lease, bool) { return r.take(true) }

// nextUp takes the next server to try, but none that is down.
func (r *route) nextUp() (lease, bool) { return r.take(false) }

func (r *route) take(failOpen bool) (lease, bool) {
	list := candidateLists.Get().(*[]*Candidate)
	defer func() {
		clear((*list)[:cap(*list)])
		candidateLists.Put(list)
	}()
	for {
		set := r.upstream.set.Load()
		l, ok := r.choose(set, list, failOpen)
		if !ok || r.upstream.set.Load() == set {
			return l, ok
		}
		// The set changed meanwhile, and the server may be gone: see swap.
		l.settle(unused)
		l.release()
	}
}

// choose takes a primary, or else a backup. If the policy refuses servers that
// are up, those that are down are not tried either.
func (r *route) choose(set *serverSet, list *[]*Candidate, failOpen bool) (lease, bool) {
	refused := false
	for _, tier := range set.tiers {
		l, found := r.pick(tier, list, false)
		if found == picked {
			return l, true
		}
		refused = refused || found == refusedAll
	}
	if !failOpen || refused {
		return lease{}, false
	}
	for _, tier := range set.tiers {
		if l, found := r.pick(tier, list, true); found == picked {
			return l, true
		}
	}
	return lease{}, false
}

// A finding is what became of a pick.
type finding uint8

const (
	nobody     finding = iota // no server can be tried
	refusedAll                // the policy wants none of those that can be tried
	picked
)

// pick has the policy choose among those of tier that may be tried.
func (r *route) pick(tier []*Candidate, list *[]*Candidate, failOpen bool) (lease, finding) {
	servers := (*list)[:0]
	for _, c := range tier {
		if c.available(r.tunnel, failOpen) && !slices.Contains(r.tried, c.state) {
			servers = append(servers, c)
		}
	}
	*list = servers
	for len(servers) > 0 {
		c := r.upstream.policy.Pick(r.request, r.client, servers)
		i := slices.Index(servers, c)
		if i < 0 {
			return lease{}, refusedAll
		}
		if l, ok := c.take(r.tunnel, failOpen); ok {
			return l, picked
		}
		servers = slices.Delete(servers, i, i+1)
	}
	return lease{}, nobody
}
