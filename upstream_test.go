package wsproxy

import (
	"math"
	"net/http"
	"net/netip"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestServersThatSetServersKeepsRetainTheirCountsAndHealth(t *testing.T) {
	u := newTestUpstream(t, RoundRobin(), Server{Addr: "a:1", MaxTunnels: 1}, Server{Addr: "b:1"}, fallback)
	held, _ := (&route{upstream: u, tunnel: true}).next()
	require.Equal(t, "a:1", held.Addr())
	require.Equal(t, "b:1", try(u, failed))
	require.NoError(t, u.SetServers(Server{Addr: "b:1", Weight: 2}, fallback))
	require.False(t, u.Servers()[0].Available, "b is still down")
	require.NoError(t, u.SetServers(Server{Addr: "a:1", MaxTunnels: 1}, Server{Addr: "b:1"}))
	require.Equal(t, 1, u.Servers()[0].Tunnels, "a was removed for a while, its tunnel was not")
	require.False(t, u.Servers()[0].Available, "and is still full")
	held.release()
	require.Zero(t, u.Servers()[0].Tunnels)
	require.NoError(t, u.SetServers(Server{Addr: "b:1"}))
	require.Len(t, u.states, 1, "a former server without tunnels is forgotten")
}

func TestMaxTunnelsIsExactWhileServersChange(t *testing.T) {
	const places, requests, swaps = 3, 8, 2000
	limited, other := Server{Addr: "a:1", MaxTunnels: places}, Server{Addr: "b:1", Backup: true}
	u := newTestUpstream(t, RoundRobin(), limited, other)
	var held, most atomic.Int64
	var stop atomic.Bool
	var all sync.WaitGroup
	for range requests {
		all.Go(func() {
			for !stop.Load() {
				l, ok := (&route{upstream: u, tunnel: true}).next()
				if !ok {
					continue
				}
				if l.Addr() == limited.Addr {
					n := held.Add(1)
					for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
					}
					runtime.Gosched()
					held.Add(-1)
				}
				l.release()
			}
		})
	}
	for i := 0; i < swaps || most.Load() < places; i++ {
		assert.NoError(t, u.SetServers(other))
		assert.NoError(t, u.SetServers(limited, other))
	}
	stop.Store(true)
	all.Wait()
	assert.EqualValues(t, places, most.Load())
	for _, s := range u.Servers() {
		assert.Zero(t, s.Tunnels, s.Addr)
	}
}

func TestEveryMistakeInServersIsReported(t *testing.T) {
	_, err := NewUpstream(nil)
	assert.EqualError(t, err, `wsproxy: NewUpstream: policy nil, want one such as RoundRobin()
wsproxy: no server, want at least one`)
	_, err = NewUpstream(RoundRobin(),
		Server{Addr: "a:80"}, Server{Addr: "a:80"}, Server{Addr: "a"}, Server{}, Server{Addr: ":80"}, Server{Addr: "a:http"},
		Server{Addr: "http://a:80"}, Server{Addr: "[::1]:80"}, Server{Addr: "::1:80"}, Server{Addr: "unix:/run/a b.sock"},
		Server{Addr: "unix:run"},
		Server{Addr: "n:1", Weight: -1, MaxTunnels: -2, MaxFails: -3, FailTimeout: -time.Second},
		Server{Addr: "w:1", Weight: math.MaxInt})
	assert.EqualError(t, err, `wsproxy: server "a:80" is listed twice, want it once
wsproxy: server "a", want host:port or unix:/path
wsproxy: server "", want host:port or unix:/path
wsproxy: server ":80", want host:port or unix:/path
wsproxy: server "a:http", want host:port or unix:/path
wsproxy: server "http://a:80": drop "http://", want host:port or unix:/path
wsproxy: server "::1:80", want host:port or unix:/path
wsproxy: server "unix:run", want host:port or unix:/path
wsproxy: server "n:1": Weight "-1" is negative, want a number or 0 for the default
wsproxy: server "n:1": MaxTunnels "-2" is negative, want a number or 0 for the default
wsproxy: server "n:1": MaxFails "-3" is negative, want a number or 0 for the default
wsproxy: server "n:1": FailTimeout "-1s" is negative, want a duration or 0 for the default
wsproxy: server "w:1": Weight "`+strconv.Itoa(math.MaxInt)+`", want at most 65535`)

	u := newTestUpstream(t, RoundRobin(), numbered(1)...)
	require.Error(t, u.SetServers())
	assert.Len(t, u.Servers(), 1, "a set that is refused changes nothing")

	_, err = New("http://app", WithUpstream(nil))
	assert.EqualError(t, err, "wsproxy: WithUpstream: nil or zero Upstream, want one that NewUpstream returned without an error")
	_, err = New("http://app", WithUpstream(new(Upstream)))
	assert.EqualError(t, err, "wsproxy: WithUpstream: nil or zero Upstream, want one that NewUpstream returned without an error")
	assert.Panics(t, func() { HashBy(nil) })
}

// A beaten policy lets another request take its first choice first.
type beaten struct {
	Policy
	taken *bool
}

func (p beaten) Pick(r *http.Request, ip netip.Addr, servers []*Candidate) *Candidate {
	c := p.Policy.Pick(r, ip, servers)
	if !*p.taken {
		*p.taken = true
		c.reserve()
	}
	return c
}

func TestARequestThatLosesTheRaceForAServersLastSlotGetsAnotherServer(t *testing.T) {
	for name, policy := range map[string]Policy{"round robin": RoundRobin(), "least tunnels": LeastTunnels(), "two choices": Random2()} {
		t.Run(name, func(t *testing.T) {
			taken := false
			u := newTestUpstream(t, beaten{policy, &taken}, Server{Addr: "a:1", MaxTunnels: 6}, Server{Addr: "b:1", MaxTunnels: 1})
			for range 5 {
				u.set.Load().all[0].reserve()
			}
			_, ok := (&route{upstream: u, tunnel: true}).next()
			assert.True(t, ok, "no server, though one has a place")
		})
	}
}

func TestAProbeUsesUpItsWindowEvenIfItIsNeverSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newTestUpstream(t, RoundRobin(), Server{Addr: "a:1"}, Server{Addr: "b:1"})
		c := u.set.Load().all[0]
		l, _ := c.take(false, false)
		l.settle(failed)
		for range 3 {
			_, ok := c.take(false, false)
			require.False(t, ok, "before the window is over")
			time.Sleep(10 * time.Second)
			probe, ok := c.take(false, false) // it is never settled
			require.True(t, ok && probe.by == asProbe, "one probe a window")
		}
	})
}

func TestServersWithoutAnAlternativeAreAlwaysUp(t *testing.T) {
	for name, test := range map[string]struct{ before, after []Server }{
		"the only one not marked Down":       {[]Server{{Addr: "a:1"}, {Addr: "b:1", Down: true}}, nil},
		"one that becomes NeverDown":         {[]Server{{Addr: "a:1"}, {Addr: "b:1"}}, []Server{{Addr: "a:1", MaxFails: NeverDown}, {Addr: "b:1"}}},
		"one whose last sibling was removed": {[]Server{{Addr: "a:1"}, {Addr: "b:1"}}, []Server{{Addr: "a:1"}}},
	} {
		t.Run(name, func(t *testing.T) {
			u := newTestUpstream(t, RoundRobin(), test.before...)
			l, _ := u.set.Load().all[0].take(false, false)
			l.settle(failed)
			if test.after != nil {
				require.NoError(t, u.SetServers(test.after...))
			}
			assert.True(t, u.Servers()[0].Available)
		})
	}
}

func TestOnlyIPAddressesAreLiteral(t *testing.T) {
	for addr, want := range map[string]string{
		"192.0.2.1:80":          "192.0.2.1:80",
		"[2001:db8::1]:80":      "[2001:db8::1]:80",
		"[::ffff:192.0.2.1]:80": "192.0.2.1:80", // as package net dials it
		"app.example:80":        "invalid AddrPort",
		"[fe80::1%eth0]:80":     "invalid AddrPort",
		"0.0.0.0:80":            "invalid AddrPort",
		"[::]:80":               "invalid AddrPort",
		"[::ffff:0.0.0.0]:80":   "invalid AddrPort",
		"192.0.2.1:http":        "invalid AddrPort",
		"/run/app.sock":         "invalid AddrPort",
	} {
		assert.Equal(t, want, literalAddr(addr).String(), addr)
	}
}
