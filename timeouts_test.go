package wsproxy

import (
	"math"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// addTunnel puts an idle tunnel into p's registry as if it had been opened.
func addTunnel(t *testing.T, p *Proxy) *Tunnel {
	t.Helper()
	client, _ := net.Pipe()
	upstream, _ := net.Pipe()
	require.NoError(t, p.tunnels.reserve(netip.Addr{}))
	tunnel := &Tunnel{p: p, opened: time.Now(), server: p.upstream.set.Load().all[0]}
	tunnel.relay = newConnRelay(tunnel, client, upstream)
	draining, cutFor := p.tunnels.add(tunnel)
	require.False(t, draining)
	require.Zero(t, cutFor)
	return tunnel
}

func TestTheTimerStopsWithTheLastTunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := New("http://upstream")
		require.NoError(t, err)
		assert.Nil(t, p.tunnels.timer, "a timer before the first tunnel")
		for range 3 {
			first, second := addTunnel(t, p), addTunnel(t, p)
			time.Sleep(25 * time.Second) // with the least timeout of 10 s: two sweeps
			p.tunnels.remove(first)
			p.tunnels.remove(second)
			assert.False(t, p.tunnels.timer.Stop(), "the timer runs on without tunnels")
		}

		// A sweep that fires while the last tunnel ends must not start the
		// timer again.
		last := addTunnel(t, p)
		p.tunnels.remove(last)
		p.tunnels.sweep()
		assert.False(t, p.tunnels.timer.Stop(), "a late sweep sets the timer again")
	})
}

func TestATunnelAddedAfterTheLastOneEndedIsTimed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := New("http://upstream")
		require.NoError(t, err)
		for range 3 {
			tunnel := addTunnel(t, p)
			one := make([]byte, 1)
			start := time.Now()
			_, err := tunnel.relay.(*connRelay).client.conn.Read(one) // until the sweeper closes it
			require.Error(t, err)
			assert.Equal(t, time.Minute, time.Since(start))
			assert.Equal(t, ReasonReadTimeout, reasonOf(tunnel))
			p.tunnels.remove(tunnel)
		}
	})
}

func TestTheDefaultTimeoutsEqualNginxs(t *testing.T) {
	p, err := New("http://upstream")
	require.NoError(t, err)
	assert.Equal(t, time.Minute, p.connectTimeout)
	assert.Equal(t, timeouts{read: time.Minute, send: time.Minute, close: 10 * time.Second}, p.timeouts())
}

// The epoch was a nanosecond early, so that a stamp of 0 could mean never.
func TestAStampOfTheEpochIsSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s sweeper
		s.init(timeouts{})
		start := time.Now()
		var unset stamp
		assert.False(t, unset.isSet())
		assert.True(t, s.now().isSet())
		assert.Less(t, unset, s.now())
		assert.Equal(t, s.now(), s.stamp(start))
		assert.Equal(t, start, s.time(s.now()))
		time.Sleep(time.Second)
		assert.Equal(t, s.now(), s.stamp(start).add(time.Second))
		assert.Equal(t, time.Second, s.now().sub(s.stamp(start)))
		assert.Equal(t, stamp(math.MaxInt64), s.now().add(math.MaxInt64))
	})
}

func TestAnAtomicStampKeepsTheFirst(t *testing.T) {
	var a atomicStamp
	assert.False(t, a.Load().isSet())
	a.storeFirst(1)
	a.storeFirst(2)
	assert.Equal(t, stamp(1), a.Load())
	a.clear()
	assert.False(t, a.Load().isSet())
}

// reasonOf returns why t ends, or 0 if it does not end.
func reasonOf(t *Tunnel) Reason {
	reason, _ := t.settled()
	return reason
}

// After a SIGSTOP or a pause of the machine, the sweep and the bytes that
// arrived meanwhile are due at once: 3 of 6 busy tunnels ended with
// ReasonReadTimeout. On a busy machine 100 ms were too short to read them.
func TestASweepAfterAPauseChecksAgainBeforeItEndsTunnels(t *testing.T) {
	for name, heard := range map[string]bool{"busy": true, "idle": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, err := New("http://upstream")
				require.NoError(t, err)
				tunnel := addTunnel(t, p)
				tunnel.fromClient.t, tunnel.fromUpstream.t = tunnel, tunnel
				p.tunnels.timer.Stop() // no timer runs in a pause
				time.Sleep(2 * time.Minute)

				p.tunnels.sweep()
				assert.Zero(t, reasonOf(tunnel), "the first sweep after the pause ends the tunnel")
				time.Sleep(longestPause - pause)
				assert.Zero(t, reasonOf(tunnel), "the bytes of a long pause may take long to read")
				if heard {
					tunnel.fromClient.heard.Store(p.tunnels.now())
				}
				time.Sleep(pause)
				synctest.Wait()
				if !heard {
					assert.Equal(t, ReasonReadTimeout, reasonOf(tunnel))
				} else {
					assert.Zero(t, reasonOf(tunnel))
					time.Sleep(time.Minute - pause)
					synctest.Wait()
					assert.Equal(t, ReasonReadTimeout, reasonOf(tunnel), "the timeout that follows the pause")
				}
				p.tunnels.remove(tunnel)
			})
		})
	}
}

// Each late sweep put itself off, so that no timeout held on a machine that is
// overloaded without end.
func TestSweepsThatAreAlwaysLateEndTunnels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := New("http://upstream")
		require.NoError(t, err)
		tunnel := addTunnel(t, p)
		tunnel.fromClient.t, tunnel.fromUpstream.t = tunnel, tunnel
		for range 2 {
			p.tunnels.timer.Stop()
			time.Sleep(2 * time.Minute)
			p.tunnels.sweep()
		}
		assert.Equal(t, ReasonReadTimeout, reasonOf(tunnel))
		p.tunnels.remove(tunnel)
	})
}

func TestTunnelsThatOpenTogetherDoNotEndTogether(t *testing.T) {
	var s sweeper
	s.init(timeouts{lifetime: 1000 * time.Minute})
	const n = 200
	perTenth := make(map[time.Duration]int)
	for id := range uint64(n) {
		lifetime := s.lifetimeOf(id)
		require.True(t, 900*time.Minute <= lifetime && lifetime <= 1000*time.Minute, lifetime)
		perTenth[(1000*time.Minute-lifetime)/(10*time.Minute)]++
	}
	for tenth, ends := range perTenth {
		assert.InDelta(t, n/10, ends, 2, "tenth %d of the time in which tunnels end", tenth)
	}
	s.init(timeouts{})
	assert.Zero(t, s.lifetimeOf(1), "without a limit")
}
