package wsproxy

import (
	"math"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"sync"
)

// A Policy chooses the server for a request. The package's own are
// [RoundRobin], [LeastTunnels], [Random2], [HashBy] and [HashByClientIP].
type Policy interface {
	// Pick returns one of servers, of which there is at least one: those that
	// can take the request now, less those that it was sent to before. If it
	// returns anything else, such as nil, none of these is tried; the backups
	// are next.
	//
	// r is the client's request, not to be changed, and clientIP its address
	// by the rule of [WithTrustedProxies], or the zero Addr where there is
	// none, as on a unix socket. The slice is the policy's to reorder until it
	// returns, not to keep. Pick is called from many goroutines at once.
	Pick(r *http.Request, clientIP netip.Addr, servers []*Candidate) *Candidate
}

// RoundRobin returns the policy that takes the servers in turn, each as often
// as its weight says and as evenly spread as that allows: nginx's default, the
// smooth weighted round robin. Use each value for one Upstream.
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

// LeastTunnels returns the policy that takes the server with the fewest
// tunnels for its weight, and of several such each in turn. It suits tunnels
// that last very differently; after a restart all clients come to the new
// server until it has as many as the others. It is nginx's least_conn.
func LeastTunnels() Policy { return new(leastTunnels) }

type leastTunnels struct{ ties roundRobin }

func (p *leastTunnels) Pick(r *http.Request, clientIP netip.Addr, servers []*Candidate) *Candidate {
	least, n := loadOf(servers[0]), 1 // servers[:n] have it
	for i := 1; i < len(servers); i++ {
		load := loadOf(servers[i])
		if load.less(least) {
			least, n = load, 0
		}
		if !least.less(load) {
			servers[n], servers[i] = servers[i], servers[n] // none may be lost: see route.pick
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

// Random2 returns the policy that takes two servers at random, by weight, and
// of them the one with fewer tunnels for its weight. It spreads nearly as
// evenly as [LeastTunnels], and unlike that does not send every client to a
// new server when many proxies, each counting its own tunnels alone, choose for
// themselves. It is nginx's "random two least_conn".
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

// weighted returns the index of one of servers, at random by weight.
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
// same server, while it can take them: weighted rendezvous hashing. Where a
// server joins or leaves, only its own share of the keys moves. Proxies with
// the same servers agree without talking to each other, so a client finds its
// server through any of them. It is what nginx's "hash key consistent" is for.
//
// The key has to be there from the first request on: a session's identity that
// a server gives out, such as socket.io's sid, is not, and would move the
// session when it comes.
//
// All requests with an empty key go to the same server.
//
// key is called for each attempt, from many goroutines, and must not change
// the request. HashBy panics if it is nil.
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

// HashByClientIP is [HashBy] with the client's address, by the rule of
// [WithTrustedProxies], as key: behind proxies of your own give that, or all
// their clients have one server. So have all clients on unix sockets. It is
// nginx's ip_hash, but by the whole address, where nginx takes the first three
// bytes of an IPv4 address. That is an IPv6 client's whole address too, and not
// its /64: a client that changes its address may change its server.
func HashByClientIP() Policy { return hashByClientIP{} }

type hashByClientIP struct{}

func (hashByClientIP) Pick(_ *http.Request, clientIP netip.Addr, servers []*Candidate) *Candidate {
	addr := clientIP.As16()
	return rendezvous(hashString(addr[:]), servers)
}

// rendezvous returns the server with the highest score for the key. With
// scores of -weight/ln(u), u uniform in (0,1), each one's chance is exactly its
// share of the weights, and does not depend on who else is there.
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

// hashString is FNV-1a, finalised: the same in every process, unlike
// hash/maphash. It does not resist chosen keys, which could crowd one server
// just as well by being equal.
func hashString[T string | []byte](s T) uint64 {
	h := uint64(0xcbf29ce484222325)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 0x100000001b3
	}
	return mix(h)
}

// mix is the finaliser of SplitMix64: every bit of h changes half of the bits.
func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
