package wsproxy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// A registry knows the tunnels of a Proxy and the handshakes that may become
// some, and keeps their time (timeouts.go).
type registry struct {
	mu         sync.Mutex
	handshakes int
	asking     []*handshake         // what markCut returns
	perIP      map[netip.Prefix]int // handshakes and tunnels by clientNetwork, if they are limited
	live       []*Tunnel
	perServer  map[string]int // of live, by Server.Addr
	opened     uint64
	closed     [len(reasonNames)]int64
	refused    map[int]int64
	ended      [2]FlowStats  // from client, from upstream
	awaited    []*awaited    // by calls of Drain
	empty      chan struct{} // made by drain, closed when nothing is left
	cutFor     Reason        // why all tunnels are cut, 0: they are not

	retries atomic.Int64

	max, maxPerIP int // 0: any number
	loops         loops
	sweeper
}

func (r *registry) init(c *config) {
	r.max, r.maxPerIP = c.maxTunnels, c.maxTunnelsPerIP
	r.perServer = make(map[string]int)
	if r.maxPerIP > 0 {
		r.perIP = make(map[netip.Prefix]int)
	}
	r.sweeper.init(c.timeouts())
}

// clientNetwork returns what a client is counted by: its IPv4 address, or the
// /64 of its IPv6 address, as one host has a whole /64 to choose from (RFC 6177,
// RFC 7934). It returns the zero Prefix if ip is not valid.
func clientNetwork(ip netip.Addr) netip.Prefix {
	ip = ip.Unmap()
	network, _ := ip.Prefix(min(64, ip.BitLen()))
	return network
}

// reserve counts a handshake of ip's, unless no more are taken. A client
// without an address, as on a unix socket, shares its own with nobody.
func (r *registry) reserve(ip netip.Addr) error {
	client := clientNetwork(ip)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.empty != nil:
		return unavailable(ErrShutdown, nil)
	case r.max > 0 && r.handshakes+len(r.live) >= r.max:
		return unavailable(ErrTooManyTunnels, fmt.Errorf("%d open", r.max))
	case r.maxPerIP > 0 && client.IsValid() && r.perIP[client] >= r.maxPerIP:
		return unavailable(ErrTooManyTunnels, fmt.Errorf("%d open from %s", r.maxPerIP, strings.TrimSuffix(client.String(), "/32")))
	}
	if r.maxPerIP > 0 {
		r.perIP[client]++
	}
	r.handshakes++
	return nil
}

// release ends a handshake of ip's that came to nothing.
func (r *registry) release(ip netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.handshakes--
	r.leave(ip)
}

// leave counts one handshake or tunnel of ip's less.
func (r *registry) leave(ip netip.Addr) {
	if r.maxPerIP > 0 {
		client := clientNetwork(ip)
		if r.perIP[client]--; r.perIP[client] == 0 {
			delete(r.perIP, client)
		}
	}
	r.checkEmpty()
}

// add turns a handshake into a live tunnel. It tells whether that is to leave,
// and why it is to be cut, if Shutdown or Close came in between.
func (r *registry) add(t *Tunnel) (draining bool, cutFor Reason) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.handshakes--
	r.opened++
	t.id = r.opened
	t.index = int32(len(r.live))
	r.live = append(r.live, t)
	r.perServer[t.Server()]++
	r.start()
	return r.empty != nil, r.cutFor
}

// remove forgets a tunnel that has ended.
func (r *registry) remove(t *Tunnel) {
	reason, _ := t.settled()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed[reason]++
	r.ended[0].add(t.FromClient())
	r.ended[1].add(t.FromUpstream())
	for _, a := range r.awaited {
		a.gone(t)
	}
	server := t.Server()
	if r.perServer[server]--; r.perServer[server] == 0 {
		delete(r.perServer, server) // addresses that a resolver finds may never come back
	}
	last := len(r.live) - 1
	r.live[t.index] = r.live[last]
	r.live[t.index].index = t.index
	r.live[last] = nil
	r.live = r.live[:last]
	if last == 0 {
		r.stop()
		r.live = nil
	}
	r.leave(t.clientIP)
}

// refuse counts an upgrade that was refused.
func (r *registry) refuse(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refused == nil {
		r.refused = make(map[int]int64)
	}
	r.refused[status]++
}

// drain refuses new handshakes. It returns a channel that is closed when the
// last tunnel and handshake have ended.
func (r *registry) drain() <-chan struct{} {
	r.loops.close()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.empty == nil {
		r.empty = make(chan struct{})
		r.checkEmpty()
	}
	return r.empty
}

func (r *registry) snapshot() []*Tunnel {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.live)
}

// checkEmpty is called once for each thing that ends after drain, so that the
// count reaches zero once.
func (r *registry) checkEmpty() {
	if r.empty != nil && r.handshakes == 0 && len(r.live) == 0 {
		close(r.empty)
	}
}

func (r *registry) refusing() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.empty != nil
}

// markCut makes add cut every later tunnel for reason. It returns the open
// tunnels, for the caller to cut, and the linked handshakes, for it to cancel.
func (r *registry) markCut(reason Reason) ([]*Tunnel, []*handshake) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cutFor = reason
	return slices.Clone(r.live), slices.Clone(r.asking)
}

// stats holds the lock for as long as a copy of the list takes. A tunnel that
// ends meanwhile counts as it was at that moment or later, and at most once.
func (r *registry) stats() Stats {
	live := make([]*Tunnel, 0, r.count())
	r.mu.Lock()
	s := Stats{Handshakes: r.handshakes, Live: len(r.live), Opened: int64(r.opened), Retries: r.retries.Load(),
		FromClient: r.ended[0], FromUpstream: r.ended[1],
		live: maps.Clone(r.perServer), closed: r.closed, refused: maps.Clone(r.refused)}
	live = append(live, r.live...)
	r.mu.Unlock()
	for _, t := range live {
		s.FromClient.add(t.FromClient())
		s.FromUpstream.add(t.FromUpstream())
	}
	return s
}

func (r *registry) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.live)
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
		if int(t.index) < len(r.live) && r.live[t.index] == t {
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
