package wsproxy

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func newTestUpstream(t testing.TB, policy Policy, servers ...Server) *Upstream {
	t.Helper()
	u, err := NewUpstream(policy, servers...)
	require.NoError(t, err)
	return u
}

// numbered returns n numbered servers.
func numbered(n int) []Server {
	servers := make([]Server, n)
	for i := range servers {
		servers[i].Addr = fmt.Sprintf("10.0.0.%d:80", i+1)
	}
	return servers
}

// next picks a server for a plain request and returns its address, or "" for
// none.
func next(u *Upstream) string {
	l, ok := (&route{upstream: u}).next()
	if !ok {
		return ""
	}
	return l.Addr()
}

func TestRoundRobinIsExactAndSmoothOverAPeriod(t *testing.T) {
	u := newTestUpstream(t, RoundRobin(),
		Server{Addr: "a:1", Weight: 5}, Server{Addr: "b:1"}, Server{Addr: "c:1"})
	for period := range 3 {
		var got string
		for range 7 {
			got += next(u)[:1]
		}
		assert.Equal(t, "aabacaa", got, "period %d: nginx's own example", period)
	}
}

func TestTheShareOfAServerThatIsDownIsSpreadByWeight(t *testing.T) {
	u := newTestUpstream(t, RoundRobin(),
		Server{Addr: "a:1", Weight: 2}, Server{Addr: "b:1", Weight: 4, Down: true}, Server{Addr: "c:1"})
	count := map[string]int{}
	for range 300 {
		count[next(u)]++
	}
	assert.Equal(t, map[string]int{"a:1": 200, "c:1": 100}, count)
}

func TestBackupsAreUsedOnlyWhenNoPrimaryCanBeTried(t *testing.T) {
	u := newTestUpstream(t, RoundRobin(),
		Server{Addr: "backup:1", Backup: true}, Server{Addr: "a:1", MaxTunnels: 1}, Server{Addr: "b:1", Down: true})
	r := route{upstream: u, tunnel: true}
	first, ok := r.next()
	require.True(t, ok)
	assert.Equal(t, "a:1", first.Addr())
	second, ok := r.next()
	require.True(t, ok, "a is full")
	assert.Equal(t, "backup:1", second.Addr())
	r.tried = append(r.tried, second.state)
	_, ok = r.next()
	assert.False(t, ok, "each server is tried once")
	first.release()
	assert.Equal(t, "a:1", next(u))
}

func TestLeastTunnelsFollowsTheWeights(t *testing.T) {
	u := newTestUpstream(t, LeastTunnels(), Server{Addr: "a:1", Weight: 3}, Server{Addr: "b:1"})
	for range 400 {
		_, ok := (&route{upstream: u, tunnel: true}).next()
		require.True(t, ok)
	}
	assert.Equal(t, 300, u.Servers()[0].Tunnels)
	assert.Equal(t, 100, u.Servers()[1].Tunnels)
}

func TestLeastTunnelsRotatesAmongTies(t *testing.T) {
	u := newTestUpstream(t, LeastTunnels(), numbered(4)...)
	count := map[string]int{}
	for range 400 {
		count[next(u)]++ // plain requests open no tunnel
	}
	for addr, n := range count {
		assert.Equal(t, 100, n, addr)
	}
}

func TestTwoChoicesKeepTheSpreadBounded(t *testing.T) {
	const servers, tunnels = 20, 20_000
	u := newTestUpstream(t, Random2(), numbered(servers)...)
	for range tunnels {
		_, ok := (&route{upstream: u, tunnel: true}).next()
		require.True(t, ok)
	}
	for _, s := range u.Servers() {
		// log2(log2(20)) + O(1) over the mean; one choice alone would be some 70 over.
		assert.InDelta(t, tunnels/servers, s.Tunnels, 10, s.Addr)
	}
}

func TestTwoChoicesFollowTheWeights(t *testing.T) {
	u := newTestUpstream(t, Random2(), Server{Addr: "a:1", Weight: 9}, Server{Addr: "b:1"})
	for range 10_000 {
		(&route{upstream: u, tunnel: true}).next()
	}
	assert.InDelta(t, 9000, u.Servers()[0].Tunnels, 10)
}

// byKey returns the server of each of n keys.
func byKey(u *Upstream, n int) []string {
	owners := make([]string, n)
	for i := range owners {
		r := route{upstream: u, request: &http.Request{Host: fmt.Sprint("key-", i)}}
		if l, ok := r.next(); ok {
			owners[i] = l.Addr()
		}
	}
	return owners
}

func byHost() Policy { return HashBy(func(r *http.Request) string { return r.Host }) }

func TestRendezvousFollowsTheWeights(t *testing.T) {
	const keys = 100_000
	servers := numbered(4) // the smallest share is 10,000 keys, so that 3 % are three deviations
	total := 0
	for i := range servers {
		servers[i].Weight = i + 1
		total += i + 1
	}
	count := map[string]int{}
	for _, owner := range byKey(newTestUpstream(t, byHost(), servers...), keys) {
		count[owner]++
	}
	for _, s := range servers {
		share := float64(keys) * float64(s.Weight) / float64(total)
		assert.InEpsilon(t, share, count[s.Addr], 0.03, "share of %s", s.Addr)
	}
}

func TestRendezvousMovesOnlyTheKeysOfARemovedServer(t *testing.T) {
	const keys = 20_000
	servers := numbered(10)
	u := newTestUpstream(t, byHost(), servers...)
	before := byKey(u, keys)
	gone := servers[3].Addr
	require.NoError(t, u.SetServers(append(servers[:3:3], servers[4:]...)...))
	heirs := map[string]int{}
	moved := 0
	for i, owner := range byKey(u, keys) {
		if before[i] == gone {
			heirs[owner]++
		} else if before[i] != owner {
			moved++
		}
	}
	assert.Zero(t, moved, "keys of others moved")
	assert.Len(t, heirs, 9, "all others inherit")

	require.NoError(t, u.SetServers(servers...))
	assert.True(t, slices.Equal(before, byKey(u, keys)), "and it gets back what it had")
}

func TestAllReplicasHashAKeyToTheSameServer(t *testing.T) {
	// The values are fixed: every build, machine and order of servers gives the
	// same.
	servers := numbered(5)
	u := newTestUpstream(t, byHost(), servers[4], servers[2], servers[0], servers[3], servers[1])
	assert.Equal(t, byKey(newTestUpstream(t, byHost(), servers...), 1000), byKey(u, 1000))
	assert.Equal(t, uint64(0xf52a15e9a9b5e89b), hashString(""), "mixed FNV-1a offset")
	assert.Equal(t, hashString("key"), hashString([]byte("key")))
}

func TestAClientKeepsItsServer(t *testing.T) {
	u := newTestUpstream(t, HashByClientIP(), numbered(5)...)
	owners := map[string]bool{}
	for i := range 50 {
		r := route{upstream: u, client: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})}
		first, _ := r.next()
		second, _ := r.next()
		require.Equal(t, first.Addr(), second.Addr())
		owners[first.Addr()] = true
	}
	assert.Len(t, owners, 5)
	assert.NotEmpty(t, next(u), "a client without an address has a server too")
}

// An empty key is a key like any other: all replicas choose the same server for
// it, so one server gets all requests without a key. The doc comments did not
// say so.
func TestRequestsWithAnEmptyKeyShareOneServer(t *testing.T) {
	u := newTestUpstream(t, HashBy(func(r *http.Request) string { return r.URL.Query().Get("room") }), numbered(5)...)
	owners := map[string]bool{}
	for i := range 50 {
		r := route{upstream: u, request: &http.Request{URL: &url.URL{RawQuery: fmt.Sprint("id=", i)}}}
		c, _ := r.next()
		owners[c.Addr()] = true
	}
	assert.Len(t, owners, 1)
}

func TestAPolicyMayRefuse(t *testing.T) {
	foreign := newTestUpstream(t, RoundRobin(), numbered(1)...).set.Load().all[0]
	for _, picked := range []*Candidate{nil, foreign} {
		u := newTestUpstream(t, policyFunc(func([]*Candidate) *Candidate { return picked }), numbered(3)...)
		assert.Empty(t, next(u))
	}
}

type policyFunc func([]*Candidate) *Candidate

func (f policyFunc) Pick(_ *http.Request, _ netip.Addr, servers []*Candidate) *Candidate {
	return f(servers)
}

func policies() map[string]Policy {
	return map[string]Policy{"RoundRobin": RoundRobin(), "LeastTunnels": LeastTunnels(), "Random2": Random2(),
		"HashBy": byHost(), "HashByClientIP": HashByClientIP()}
}

func TestPickingDoesNotAllocate(t *testing.T) {
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		t.Skip("sync.Pool drops items at random under the race detector")
	}
	request, client := &http.Request{Host: "key"}, netip.MustParseAddr("192.0.2.1")
	for name, policy := range policies() {
		u := newTestUpstream(t, policy, numbered(10)...)
		assert.Zero(t, testing.AllocsPerRun(1000, func() {
			r := route{upstream: u, request: request, client: client, tunnel: true}
			l, _ := r.next()
			l.settle(succeeded)
			l.release()
		}), name)
	}
}

func BenchmarkPick(b *testing.B) {
	request, client := &http.Request{Host: "key"}, netip.MustParseAddr("192.0.2.1")
	for name, policy := range policies() {
		b.Run(name, func(b *testing.B) {
			u := newTestUpstream(b, policy, numbered(10)...)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					r := route{upstream: u, request: request, client: client, tunnel: true}
					l, _ := r.next()
					l.settle(succeeded)
					l.release()
				}
			})
		})
	}
}
