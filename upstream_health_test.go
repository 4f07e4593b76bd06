package wsproxy

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// downAll marks every server of u down.
func downAll(u *Upstream) {
	for _, c := range u.set.Load().all {
		l, _ := c.take(false, false)
		l.settle(failed)
	}
}

// Before, while all servers were down, every client got 503 until a server was
// due for a probe.
func TestAllServersAreTriedWhenAllAreDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newTestUpstream(t, RoundRobin(), Server{Addr: "a:1"}, Server{Addr: "b:1"}, fallback)
		downAll(u)
		require.Equal(t, "a:1", try(u, failed))
		require.Equal(t, "b:1", try(u, abandoned))
		require.Equal(t, "a:1", try(u, succeeded), "in turn, the primaries only")
		require.True(t, u.Servers()[0].Available, "a success marks it up")
		require.False(t, u.Servers()[1].Available)
		require.Equal(t, "a:1", try(u, succeeded), "no request fails open while a server is up")

		require.Equal(t, "a:1", try(u, failed))
		r := route{upstream: u}
		var order []string
		for l, ok := r.next(); ok; l, ok = r.next() {
			order = append(order, l.Addr())
			r.tried = append(r.tried, l.state)
		}
		assert.Equal(t, []string{"b:1", "a:1", "fallback:1"}, order, "each once, a backup last")
	})
}

func TestABackupThatIsUpIsTriedBeforePrimariesThatAreDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newTestUpstream(t, RoundRobin(), Server{Addr: "a:1"}, fallback)
		require.Equal(t, "a:1", try(u, failed))
		r := route{upstream: u}
		l, _ := r.next()
		require.Equal(t, "fallback:1", l.Addr())
		r.tried = append(r.tried, l.state)
		_, ok := r.nextUp()
		require.False(t, ok)
		l, ok = r.next()
		require.True(t, ok, "all remaining servers are down")
		assert.Equal(t, "a:1", l.Addr())
	})
}

// A busy proxy would delay the probe for ever.
func TestAFailureWhileAllAreDownDoesNotDelayTheProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newTestUpstream(t, RoundRobin(), Server{Addr: "a:1"}, Server{Addr: "b:1"})
		downAll(u)
		until := u.Servers()[0].DownUntil
		for range 9 {
			time.Sleep(time.Second)
			try(u, failed)
			try(u, failed)
		}
		state := u.Servers()[0]
		assert.Equal(t, until, state.DownUntil)
		assert.Equal(t, 10, state.Fails)

		time.Sleep(time.Second)
		probe, _ := (&route{upstream: u}).next()
		require.Equal(t, asProbe, probe.by)
		assert.Equal(t, time.Now().Add(10*time.Second), u.Servers()[0].DownUntil)
		other, _ := (&route{upstream: u}).next()
		require.Equal(t, asProbe, other.by, "the other's")
		third, _ := (&route{upstream: u}).next()
		require.Equal(t, lastResort, third.by)
		third.settle(succeeded)
		assert.True(t, third.available(false, false))
		probe.settle(failed)
		other.settle(failed)
		assert.True(t, third.available(false, false), "a probe sent before the server came up")
	})
}

func TestFailingOpenSkipsServersThatAreFullOrMarkedDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newTestUpstream(t, RoundRobin(), Server{Addr: "a:1", MaxTunnels: 1}, Server{Addr: "b:1"}, Server{Addr: "c:1", Down: true})
		held, _ := (&route{upstream: u, tunnel: true}).next()
		require.Equal(t, "a:1", held.Addr())
		require.Equal(t, "b:1", try(u, failed))
		held.settle(failed)
		r := route{upstream: u, tunnel: true}
		l, _ := r.next()
		require.Equal(t, "b:1", l.Addr())
		r.tried = append(r.tried, l.state)
		_, ok := r.next()
		assert.False(t, ok, "a is full, c marked Down")
	})
}

// A policy that refuses the available servers is not asked about the others.
func TestAPolicyThatRefusesDoesNotFailOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newTestUpstream(t, policyFunc(func(servers []*Candidate) *Candidate {
			if servers[0].Addr() == "a:1" {
				return servers[0]
			}
			return nil
		}), Server{Addr: "a:1"}, Server{Addr: "b:1"})
		require.Equal(t, "a:1", try(u, failed))
		assert.Empty(t, next(u), "b is up and refused")
	})
}

// try settles one request to u and returns the server's address.
func try(u *Upstream, v verdict) string {
	l, ok := (&route{upstream: u}).next()
	if !ok {
		return ""
	}
	l.settle(v)
	return l.Addr()
}

// fallback is an extra server in every health test, because a set's only server
// is never marked down.
var fallback = Server{Addr: "fallback:1", Backup: true}

func TestFailuresWithinTheWindowMarkAServerDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newTestUpstream(t, RoundRobin(), Server{Addr: "a:1", MaxFails: 3, FailTimeout: 10 * time.Second}, fallback)
		try(u, failed)
		try(u, failed)
		require.Equal(t, 2, u.Servers()[0].Fails)
		time.Sleep(10*time.Second + 1)
		require.Zero(t, u.Servers()[0].Fails, "the window is over")
		try(u, failed)
		try(u, succeeded)
		try(u, failed)
		require.True(t, u.Servers()[0].Available)
		require.Equal(t, "a:1", try(u, failed))
		state := u.Servers()[0]
		assert.Equal(t, ServerState{Server: Server{Addr: "a:1", Weight: 1, MaxFails: 3, FailTimeout: 10 * time.Second},
			Failed: 5, Fails: 3, DownUntil: time.Now().Add(10 * time.Second)}, state)
		assert.Equal(t, "fallback:1", try(u, succeeded))
	})
}

func TestOneProbeAWindowDecidesWhetherAServerIsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newTestUpstream(t, RoundRobin(), Server{Addr: "a:1"}, fallback)
		late, _ := (&route{upstream: u}).next()
		require.Equal(t, "a:1", try(u, failed))
		for range 3 {
			time.Sleep(10*time.Second - 1)
			require.Equal(t, "fallback:1", next(u), "before the window is over")
			time.Sleep(time.Nanosecond)
			probe, _ := (&route{upstream: u}).next()
			require.Equal(t, "a:1", probe.Addr())
			require.Equal(t, "fallback:1", next(u), "while the probe is under way")
			late.settle(failed) // it was sent before the server was marked down
			late.settle(succeeded)
			require.Equal(t, "fallback:1", next(u), "still")
			probe.settle(failed)
			require.Equal(t, "fallback:1", next(u), "after it failed")
		}
		time.Sleep(10 * time.Second)
		require.Equal(t, "a:1", try(u, abandoned), "its client leaves")
		require.Equal(t, "fallback:1", next(u), "and has used the window up")
		time.Sleep(10 * time.Second)
		require.Equal(t, "a:1", try(u, succeeded), "so the next one probes")
		require.Equal(t, "a:1", next(u))
		assert.Equal(t, ServerState{Server: Server{Addr: "a:1", Weight: 1, MaxFails: 1, FailTimeout: 10 * time.Second},
			Failed: 7, Available: true}, u.Servers()[0])
	})
}

func TestTheOnlyServerIsNeverMarkedDown(t *testing.T) {
	u := newTestUpstream(t, RoundRobin(), Server{Addr: "a:1"})
	for range 3 {
		require.Equal(t, "a:1", try(u, failed))
	}
	assert.True(t, u.Servers()[0].Available)
}

func TestAServerWithNeverDownIsTriedAgain(t *testing.T) {
	u := newTestUpstream(t, RoundRobin(), Server{Addr: "a:1", MaxFails: NeverDown}, fallback)
	for range 100 {
		require.Equal(t, "a:1", try(u, failed))
	}
}
