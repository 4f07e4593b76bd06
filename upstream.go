package wsproxy

import (
	"encoding/hex"
	"errors"
	"log/slog"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// NeverDown is the [Server.MaxFails] of a server that no number of failures
// takes down. nginx: max_fails=0.
const NeverDown = math.MaxInt

// maxWeight is the largest weight of an SRV record. It keeps sums from
// overflowing.
const maxWeight = 1<<16 - 1

// A Server is one address of an [Upstream]. The Upstream keeps a copy of it.
// Its numbers and FailTimeout must not be negative.
type Server struct {
	// Addr is host:port, or unix:/path for a unix socket. Addresses are compared
	// and hashed as strings, so proxies that must choose the same server (see
	// [HashBy]) must spell them the same way.
	Addr string

	// Weight is the server's share of the requests, relative to the weights of
	// the others. The maximum is 65535. Zero means 1.
	//
	// nginx: weight.
	Weight int

	// MaxTunnels limits the tunnels to the server, including handshakes in
	// progress. The tunnels of all Proxies that share the Upstream count. When
	// the server is full, upgrades go to others. Zero means no limit. Plain
	// requests are neither counted nor limited.
	//
	// nginx: max_conns.
	MaxTunnels int

	// MaxFails is the number of failures within FailTimeout that take the server
	// down. Zero means 1. [NeverDown] means that the server never goes down.
	//
	// These are failures:
	//   - a connection that cannot be made within the connect timeout,
	//   - a malformed response,
	//   - a response whose header does not arrive within the read timeout,
	//   - a connection that breaks before the response to a small request, which
	//     is one without a body and with a header of less than 8 kB.
	//
	// A client must not be able to take a server down. So the status of a
	// response is never a failure, nor is a connection that breaks during a
	// larger request, which the server may have refused. Running out of file
	// descriptors or local addresses on this machine is not a failure of the
	// server.
	//
	// If all servers that could take a request are down, they are tried anyway,
	// primaries first. The first that responds is up again. The only server of
	// an Upstream never goes down; servers marked Down do not count.
	//
	// nginx: max_fails.
	MaxFails int

	// FailTimeout is the time in which MaxFails failures take the server down,
	// counted from the first of them. It is also the time for which the server is
	// down. After that one request is sent to it. If the request succeeds, the
	// server is up; if it fails, the server is down for another FailTimeout. Zero
	// means 10 seconds.
	//
	// nginx: fail_timeout.
	FailTimeout time.Duration

	// Backup means that the server is used only if no other can be tried.
	//
	// nginx: backup.
	Backup bool

	// Down means that the server gets no new requests. Its tunnels stay open.
	//
	// nginx: down.
	Down bool
}

// A ServerState is the state of a server when [Upstream.Servers] was called.
type ServerState struct {
	Server // with defaults in place of zeros

	Tunnels   int       // open tunnels, including handshakes in progress
	Opened    int64     // tunnels opened since the server was added to the set
	Failed    int64     // failures since then, as MaxFails defines them
	Fails     int       // failures that count toward MaxFails, or since the server went down
	DownUntil time.Time // when a server that is down is tried again; zero if the server is up
	Available bool      // whether the server can take an upgrade now; if none can, those that are down are tried
}

// LogValue implements [slog.LogValuer] with a group: addr, tunnels, opened,
// failed, fails, available and, if the server is down, down_until. It has backup
// and down if they are true.
func (s ServerState) LogValue() slog.Value {
	attrs := []slog.Attr{slog.String("addr", s.Addr), slog.Int("tunnels", s.Tunnels), slog.Int64("opened", s.Opened),
		slog.Int64("failed", s.Failed), slog.Int("fails", s.Fails), slog.Bool("available", s.Available)}
	if !s.DownUntil.IsZero() {
		attrs = append(attrs, slog.Time("down_until", s.DownUntil))
	}
	if s.Backup {
		attrs = append(attrs, slog.Bool("backup", true))
	}
	if s.Down {
		attrs = append(attrs, slog.Bool("down", true))
	}
	return slog.GroupValue(attrs...)
}

// An Upstream is a set of servers for the same requests, as nginx's upstream
// block is. Create one with [NewUpstream] and give it to one or more Proxies
// with [WithUpstream]; these share its counts. Its methods are safe for
// concurrent use. It must not be copied. It has no goroutines and holds no
// connections.
type Upstream struct {
	policy Policy
	set    atomic.Pointer[serverSet]

	mu      sync.Mutex        // held by SetServers
	states  map[string]*state // by Addr; includes former servers that still have tunnels
	changed chan struct{}     // closed at the next change; nil if nobody waits
}

// A serverSet is the set that SetServers replaces. It is immutable.
type serverSet struct {
	all   []*Candidate    // in the order given
	tiers [2][]*Candidate // primaries and backups, without those marked Down
}

// A state is the part of a server that SetServers keeps if the address stays.
type state struct {
	tunnels atomic.Int64
	opened  atomic.Int64 // tunnels in all
	failed  atomic.Int64 // failures in all
	health  health
	current int // used by roundRobin
}

// NewUpstream returns an Upstream of servers. policy chooses among them.
//
// NewUpstream reports every mistake, in one joined error: a nil policy, an
// empty list, a malformed or duplicate address, a number out of range.
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

// singleServer returns the Upstream of a Proxy without WithUpstream.
func singleServer(t *target) *Upstream {
	server := Server{Addr: t.addr}
	if t.network == "unix" {
		server.Addr = "unix:" + t.addr
	}
	u := &Upstream{policy: RoundRobin()}
	u.swap([]Server{server})
	return u
}

// SetServers replaces the servers of u. A server whose address is in both sets
// keeps its tunnels, its number of tunnels and its health. Tunnels to a removed
// server stay open, and its requests in progress continue. SetServers does not
// delay requests.
//
// SetServers reports the mistakes that [NewUpstream] does. If there is one, the
// set is unchanged.
func (u *Upstream) SetServers(servers ...Server) error {
	if err := checkServers(servers); err != nil {
		return err
	}
	u.swap(servers)
	return nil
}

// Changed returns a channel that is closed at the next call of SetServers that
// changes a server, or their order. Failures and recoveries are no change. Each change
// has a separate channel. To miss no change, get the channel before you call
// [Upstream.Servers].
func (u *Upstream) Changed() <-chan struct{} {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.changed == nil {
		u.changed = make(chan struct{})
	}
	return u.changed
}

// tellChange closes the channel of Changed. u.mu is held.
func (u *Upstream) tellChange(from, to *serverSet) {
	same := func(a, b *Candidate) bool { return a.server == b.server }
	if u.changed != nil && from != nil && !slices.EqualFunc(from.all, to.all, same) {
		close(u.changed)
		u.changed = nil
	}
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
	before := u.set.Swap(set)
	// Read the counts only after storing the set. route.take counts its tunnel
	// first and then loads the set. So either this loop sees the tunnel, or
	// route.take sees the new set and gives the tunnel up. In the other order this
	// loop could find no tunnel on a server, then route.take count one and still
	// load the old set: the server's state would be dropped with its tunnel, and if
	// the server came back, its count would start at 0.
	for addr, s := range u.states {
		if states[addr] == nil && s.tunnels.Load() > 0 {
			states[addr] = s
		}
	}
	u.states = states
	u.tellChange(before, set)
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
	c.poolName, c.literal = c.addr, literalAddr(c.addr)
	if path, unix := strings.CutPrefix(server.Addr, "unix:"); unix {
		c.network, c.addr, c.poolName = "unix", path, "unix-"+hex.EncodeToString([]byte(path))
	}
	return c
}

// Servers returns the state of each server, in the order given. The caller owns
// the slice.
func (u *Upstream) Servers() []ServerState {
	set := u.set.Load()
	states := make([]ServerState, len(set.all))
	for i, c := range set.all {
		s := ServerState{Server: c.server, Tunnels: c.Tunnels(), Opened: c.opened.Load(), Failed: c.failed.Load(),
			Available: !c.server.Down && c.available(true, false)}
		if !c.alwaysUp {
			s.Fails, s.DownUntil = c.health.report(c.server.FailTimeout)
		}
		states[i] = s
	}
	return states
}

// available reports whether a request may be sent to the server now: the server
// is up or due for a probe, or failOpen is set. An upgrade also needs room for
// a tunnel.
func (c *Candidate) available(tunnel, failOpen bool) bool {
	if tunnel && c.full() {
		return false
	}
	return failOpen || c.alwaysUp || c.health.available()
}

func (c *Candidate) full() bool {
	return c.server.MaxTunnels > 0 && c.tunnels.Load() >= int64(c.server.MaxTunnels)
}

// take takes the server for one request. It fails if a concurrent request has
// taken the server's last tunnel or its probe.
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

// reserve adds one to the tunnels of the server, unless it is full. It does not
// add first and subtract if that was too much: a concurrent request could see
// the excess and be refused although the server has room.
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
