package wsproxy

import (
	"math"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"sync"
)

// A Policy chooses the server for a request. This package provides
// [RoundRobin], [LeastTunnels], [Random2], [HashBy] and [HashByClientIP].
type Policy interface {
	// Pick returns one of servers. servers holds the available, untried
	// servers; it is never empty. If Pick returns anything else, such as nil,
	// none of them is tried, and the backups are next.
	//
	// r is the client's request; Pick must not change it. clientIP is the
	// client's address by the rules of [WithTrustedProxies], or the zero Addr
	// if it has none, as on a unix socket. Pick may reorder servers but must not
	// keep the slice. Pick is called concurrently.
	Pick(r *http.Request, clientIP netip.Addr, servers []*Candidate) *Candidate
}

// A Candidate is a server that a [Policy] can choose. Its methods are safe for
// concurrent use. A Policy must not keep a Candidate, because
// [Upstream.SetServers] replaces all Candidates.
type Candidate struct {
	server        Server         // with defaults in place of zeros
	network, addr string         // to dial
	poolName      string         // the host in the URLs given to the http.Transport
	literal       netip.AddrPort // addr, if it is an IP address and a port
	hash          uint64
	alwaysUp      bool // health is ignored: the server is NeverDown or the only one
	*state
}

// Addr returns the server's [Server.Addr].
func (c *Candidate) Addr() string { return c.server.Addr }

// Weight returns the server's weight, at least 1.
func (c *Candidate) Weight() int { return c.server.Weight }

// Tunnels returns the number of tunnels to the server now, including
// handshakes in progress.
func (c *Candidate) Tunnels() int { return int(c.tunnels.Load()) }

// RoundRobin returns the policy that chooses the servers in turn, each in
// proportion to its weight and spread as evenly as possible (smooth weighted
// round robin). Use each value for only one Upstream. nginx: the default.
func RoundRobin() Policy { return new(roundRobin) }

type roundRobin struct{ mu sync.Mutex }

func (p *roundRobin) Pick(_ *http.Request, _ netip.Addr, servers []*Candidate) *Candidate {
	if len(servers) == 1 {
		return servers[0]
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var best *Candidate
	total := 0
	for _, c := range servers {
		c.current += c.server.Weight
		total += c.server.Weight
		if best == nil || c.current > best.current {
			best = c
		}
	}
	best.current -= total
	return best
}

// LeastTunnels returns the policy that chooses the server with the fewest
// tunnels relative to its weight, and takes turns among equals. It suits
// tunnels of very different lifetimes. After a restart of a server all new
// clients go to it until it has as many tunnels as the others. nginx:
// least_conn.
func LeastTunnels() Policy { return new(leastTunnels) }

type leastTunnels struct{ ties roundRobin }

func (p *leastTunnels) Pick(r *http.Request, clientIP netip.Addr, servers []*Candidate) *Candidate {
	least, n := loadOf(servers[0]), 1 // servers[:n] have the least load
	for i := 1; i < len(servers); i++ {
		load := loadOf(servers[i])
		if load.less(least) {
			least, n = load, 0
		}
		if !least.less(load) {
			servers[n], servers[i] = servers[i], servers[n] // swap, as route.pick needs all servers
			n++
		}
	}
	return p.ties.Pick(r, clientIP, servers[:n])
}

// A load is a server's tunnels at one moment, and its weight.
type load struct{ tunnels, weight int64 }

func loadOf(c *Candidate) load {
	return load{c.tunnels.Load(), int64(c.server.Weight)}
}

// less compares tunnels/weight.
func (a load) less(b load) bool {
	return a.tunnels*b.weight < b.tunnels*a.weight
}

// Random2 returns the policy that chooses two servers at random, by weight, and
// from these the one with fewer tunnels relative to its weight. It balances
// nearly as evenly as [LeastTunnels]. With many proxies, each of which counts
// only its own tunnels, it does not send every client to a new server, as
// LeastTunnels does. nginx: random two least_conn.
func Random2() Policy { return random2{} }

type random2 struct{}

func (random2) Pick(_ *http.Request, _ netip.Addr, servers []*Candidate) *Candidate {
	if len(servers) == 1 {
		return servers[0]
	}
	first := weighted(servers)
	a := servers[first]
	last := len(servers) - 1
	servers[first], servers[last] = servers[last], servers[first]
	b := servers[weighted(servers[:last])]
	if loadOf(b).less(loadOf(a)) {
		return b
	}
	return a
}

// weighted returns the index of a random server, by weight.
func weighted(servers []*Candidate) int {
	total := 0
	for _, c := range servers {
		total += c.server.Weight
	}
	n := rand.IntN(total)
	for i, c := range servers {
		if n -= c.server.Weight; n < 0 {
			return i
		}
	}
	panic("unreachable")
}

// HashBy returns the policy that sends all requests with the same key to the
// same server while it is available (weighted rendezvous hashing). When a
// server is added or removed, only its share of the keys moves. Proxies with
// the same servers choose the same server without communicating.
//
// The first request of a session must already have the key. A session ID that
// the server assigns, such as socket.io's sid, is missing from the first
// request, so the session would move when the ID appears. All requests with an
// empty key go to the same server.
//
// key is called for each attempt and concurrently. It must not change the
// request. HashBy panics if key is nil.
//
// nginx: hash key consistent.
func HashBy(key func(*http.Request) string) Policy {
	if key == nil {
		panic("wsproxy: HashBy: key is nil")
	}
	return hashBy(key)
}

type hashBy func(*http.Request) string

func (key hashBy) Pick(r *http.Request, _ netip.Addr, servers []*Candidate) *Candidate {
	return rendezvous(hashString(key(r)), servers)
}

// HashByClientIP is like [HashBy] with the client's address as key. The address
// follows the rules of [WithTrustedProxies]. Behind your own proxies, give that
// option, or all their clients go to one server. All clients on unix sockets go
// to one server. The key is the whole address, also for IPv6, so a client that
// changes its address within its /64 may change its server.
//
// nginx: ip_hash, which uses only the first three bytes of an IPv4 address.
func HashByClientIP() Policy { return hashByClientIP{} }

type hashByClientIP struct{}

func (hashByClientIP) Pick(_ *http.Request, clientIP netip.Addr, servers []*Candidate) *Candidate {
	addr := clientIP.As16()
	return rendezvous(hashString(addr[:]), servers)
}

// rendezvous returns the server with the highest score for the key. The score
// is -weight/ln(u), with u uniform in (0,1). With it the probability of each
// server is exactly its share of the weights, and adding or removing a server
// moves no key between the others.
func rendezvous(key uint64, servers []*Candidate) *Candidate {
	var best *Candidate
	highest := 0.0
	for _, c := range servers {
		u := (float64(mix(key^c.hash)>>12) + 0.5) / (1 << 52)
		if score := -float64(c.server.Weight) / math.Log(u); score > highest {
			best, highest = c, score
		}
	}
	return best
}

// hashString returns the FNV-1a hash of s, finalized with mix. Unlike
// hash/maphash it is the same in every process. It does not resist chosen keys:
// equal keys could overload one server just as well.
func hashString[T string | []byte](s T) uint64 {
	h := uint64(0xcbf29ce484222325)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 0x100000001b3
	}
	return mix(h)
}

// mix is the finalizer of SplitMix64. Each bit of h affects every bit of the
// result.
func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
