package wsproxy

import (
	"net/http"
	"net/netip"
	"slices"
	"sync"
)

// available reports whether a request may go to the server now. A request for
// a tunnel needs a place for one.
func (c *Candidate) available(tunnel bool) bool {
	if tunnel && c.full() {
		return false
	}
	return c.alwaysUp || c.health.available()
}

func (c *Candidate) full() bool {
	return c.server.MaxTunnels > 0 && c.tunnels.Load() >= int64(c.server.MaxTunnels)
}

// take holds the server for one request, unless another was faster to take
// its last place or to be the one that finds out whether it is up again.
func (c *Candidate) take(tunnel bool) (lease, bool) {
	if tunnel && !c.reserve() {
		return lease{}, false
	}
	l := lease{Candidate: c, tunnel: tunnel}
	if !c.alwaysUp {
		var ok bool
		if l.probe, ok = c.health.claim(c.server.FailTimeout); !ok {
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
	probe  bool // this request decides whether the server is up again
}

// settle notes what the request says about the server's health.
func (l lease) settle(v verdict) {
	if !l.alwaysUp {
		l.health.settle(v, l.probe, l.server.MaxFails, l.server.FailTimeout)
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

// next takes the next server to try, a backup if no other can be.
func (r *route) next() (lease, bool) {
	list := candidateLists.Get().(*[]*Candidate)
	defer func() {
		clear((*list)[:cap(*list)])
		candidateLists.Put(list)
	}()
	for {
		set := r.upstream.set.Load()
		l, ok := r.pick(set.tiers[0], list)
		if !ok {
			l, ok = r.pick(set.tiers[1], list)
		}
		if !ok || r.upstream.set.Load() == set {
			return l, ok
		}
		// The set changed meanwhile, and the server may be gone: see swap.
		l.settle(unused)
		l.release()
	}
}

// pick has the policy choose among those of tier that may be tried.
func (r *route) pick(tier []*Candidate, list *[]*Candidate) (lease, bool) {
	servers := (*list)[:0]
	for _, c := range tier {
		if c.available(r.tunnel) && !slices.Contains(r.tried, c.state) {
			servers = append(servers, c)
		}
	}
	*list = servers
	for len(servers) > 0 {
		c := r.upstream.policy.Pick(r.request, r.client, servers)
		i := slices.Index(servers, c)
		if i < 0 {
			break
		}
		if l, ok := c.take(r.tunnel); ok {
			return l, true
		}
		servers = slices.Delete(servers, i, i+1)
	}
	return lease{}, false
}
