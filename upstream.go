package wsproxy

import (
	"encoding/hex"
	"errors"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// NeverDown is the [Server.MaxFails] of a server that is tried however often
// it has failed. It is nginx's max_fails=0.
const NeverDown = math.MaxInt

// maxWeight is that of an SRV record, and keeps sums from overflowing.
const maxWeight = 1<<16 - 1

// A Server is one address of an [Upstream]. It is a value: an Upstream keeps
// copies.
type Server struct {
	// Addr is host:port, or unix:/path for a unix socket. The names of servers
	// are compared as they are written, and hashed so: replicas that are to
	// agree (see [HashBy]) have to write them alike.
	Addr string

	// Weight is the server's share, relative to the others', at most 65535.
	// Zero means 1. It is nginx's weight.
	Weight int

	// MaxTunnels is how many tunnels the server may have at once, handshakes
	// under way included and those of every Proxy that shares the Upstream;
	// when it has, upgrades go to others. Zero means any number. Plain
	// requests are neither counted nor limited. It is nginx's max_conns.
	MaxTunnels int

	// MaxFails is how many failures within FailTimeout take the server down.
	// Zero means 1, and [NeverDown] never. It is nginx's max_fails.
	//
	// A failure is a connection that cannot be made within the connect timeout,
	// a response that is malformed, or whose header does not come within the
	// read timeout, and a connection that breaks before the response to a small
	// request: one without a body, and with a header of less than 8 kB.
	//
	// What a client can provoke at will is none: a response with any status,
	// and a connection that breaks over a larger request, which the server may
	// have refused. Nor is a connection for which this machine has no
	// descriptor or local address left.
	//
	// If all the servers that a request could go to are down, it goes to them as
	// if none were, primaries first; the first that responds is up. A server
	// that is the only one of its Upstream, those marked Down aside, never goes
	// down.
	MaxFails int

	// FailTimeout is the time, from the first of them, within which MaxFails
	// failures take the server down, and how long it is down. After that one
	// request is sent to it, which decides whether it is up, or down for
	// another FailTimeout. Zero means 10 seconds. It is nginx's fail_timeout.
	FailTimeout time.Duration

	// Backup keeps the server for when no other can be tried. It is nginx's
	// backup.
	Backup bool

	// Down keeps new requests from the server; its tunnels live on. It is
	// nginx's down.
	Down bool
}

// A ServerState is a server as [Upstream.Servers] found it.
type ServerState struct {
	Server // with the defaults in place of zeros

	Tunnels   int       // open now, handshakes under way included
	Fails     int       // failures that count toward MaxFails, or since the server went down
	DownUntil time.Time // when a server that failed too often is tried again; zero: it did not
	Available bool      // whether an upgrade may go to it now; when no server is, to one that is down
}

// An Upstream is a set of servers for the same requests, nginx's upstream. Make
// one with [NewUpstream] and give it to a Proxy with [WithUpstream], or to
// several, which then share its counts. Its methods may be called from any
// goroutine; it must not be copied. It holds no goroutine and no connection.
type Upstream struct {
	policy Policy
	set    atomic.Pointer[serverSet]

	mu     sync.Mutex        // held by SetServers
	states map[string]*state // by Addr: of the set, and of former servers with tunnels
}

// A serverSet is what SetServers swaps. It is not changed once it is made.
type serverSet struct {
	all   []*Candidate    // in the order given
	tiers [2][]*Candidate // primaries and backups, without those marked Down
}

// state is what lasts of a server while SetServers changes all else.
type state struct {
	tunnels atomic.Int64
	health  health
	current int // of roundRobin
}

// A Candidate is a server as a [Policy] sees it. Its methods may be called
// from any goroutine, but a Policy must not keep it: after
// [Upstream.SetServers] another one stands for the same address.
type Candidate struct {
	server        Server // with its defaults
	network, addr string // to dial
	poolName      string // stands for the address in the URLs of an http.Transport
	hash          uint64
	alwaysUp      bool // NeverDown, or with nobody to take over: its health is not asked
	*state
}

// Addr returns the server's address as [Server.Addr] has it.
func (c *Candidate) Addr() string { return c.server.Addr }

// Weight returns the server's weight, at least 1.
func (c *Candidate) Weight() int { return c.server.Weight }

// Tunnels returns how many tunnels the server has now, handshakes under way
// included.
func (c *Candidate) Tunnels() int { return int(c.tunnels.Load()) }

// NewUpstream returns an Upstream of servers among which policy chooses. It is
// nginx's upstream block.
//
// The error joins one for each mistake: no policy, no server, an address that
// is malformed or is there twice, a number out of range.
func NewUpstream(policy Policy, servers ...Server) (*Upstream, error) {
	u := &Upstream{policy: policy}
	var noPolicy error
	if policy == nil {
		noPolicy = errors.New("wsproxy: NewUpstream: policy nil, want one such as RoundRobin()")
	}
	if err := errors.Join(noPolicy, u.SetServers(servers...)); err != nil {
		return nil, err
	}
	return u, nil
}

// singleServer is the Upstream of a Proxy without one of its own.
func singleServer(t *target) *Upstream {
	server := Server{Addr: t.addr}
	if t.network == "unix" {
		server.Addr = "unix:" + t.addr
	}
	u := &Upstream{policy: RoundRobin()}
	u.swap([]Server{server})
	return u
}

// SetServers makes servers the whole set. A server whose address stays keeps
// its tunnels, its count of them and its health, whatever else of it changes;
// the tunnels of a server that is gone live on, and requests on their way to it
// go on. Requests are not held up.
//
// The error is as that of [NewUpstream], and then the set remains as it was.
func (u *Upstream) SetServers(servers ...Server) error {
	if err := checkServers(servers); err != nil {
		return err
	}
	u.swap(servers)
	return nil
}

func (u *Upstream) swap(servers []Server) {
	u.mu.Lock()
	defer u.mu.Unlock()
	set := &serverSet{}
	states := make(map[string]*state, len(servers))
	for _, server := range servers {
		s := u.states[server.Addr]
		if s == nil {
			s = new(state)
		}
		states[server.Addr] = s
		c := newCandidate(server, s)
		set.all = append(set.all, c)
		tier := 0
		if server.Backup {
			tier = 1
		}
		if !server.Down {
			set.tiers[tier] = append(set.tiers[tier], c)
		}
	}
	primaries, backups := set.tiers[0], set.tiers[1]
	for _, c := range set.all {
		c.alwaysUp = c.server.MaxFails == NeverDown || len(primaries)+len(backups) == 1
	}
	u.set.Store(set)
	// Only now, as route.next counts a tunnel before it looks whether the set
	// is still the same: one of the two sees the other.
	for addr, s := range u.states {
		if states[addr] == nil && s.tunnels.Load() > 0 {
			states[addr] = s
		}
	}
	u.states = states
}

func newCandidate(server Server, s *state) *Candidate {
	if server.Weight == 0 {
		server.Weight = 1
	}
	if server.MaxFails == 0 {
		server.MaxFails = 1
	}
	if server.FailTimeout == 0 {
		server.FailTimeout = 10 * time.Second
	}
	c := &Candidate{server: server, network: "tcp", addr: server.Addr, hash: hashString(server.Addr), state: s}
	c.poolName = c.addr
	if path, unix := strings.CutPrefix(server.Addr, "unix:"); unix {
		c.network, c.addr, c.poolName = "unix", path, "unix-"+hex.EncodeToString([]byte(path))
	}
	return c
}

// Servers returns the state of each server of the set, in the order given. The
// slice is the caller's.
func (u *Upstream) Servers() []ServerState {
	set := u.set.Load()
	states := make([]ServerState, len(set.all))
	for i, c := range set.all {
		s := ServerState{Server: c.server, Tunnels: c.Tunnels(), Available: !c.server.Down && c.available(true, false)}
		if !c.alwaysUp {
			s.Fails, s.DownUntil = c.health.report(c.server.FailTimeout)
		}
		states[i] = s
	}
	return states
}

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
