package wsproxy

import (
	"net/http"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

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
