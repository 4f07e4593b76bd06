package lifecycle_test

import (
	"context"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// startTunnels opens n tunnels whose ends answer Close frames.
func startTunnels(t *testing.T, r *testkit.MemRig, n int) {
	for range n {
		client, server := testkit.Ends(r.Tunnel(t))
		client.AnswerPings()
		server.AnswerPings()
	}
}

// All clients that reconnect at once are more than a fleet bears (istio#58100,
// envoy#35391, envoy#45250).
func TestDrainSpreadsTheEndsEvenlyAndAtRandom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 40
		ids, ends := make(chan uint64, n), make(chan time.Duration, n)
		start := time.Now()
		r := testkit.NewMemRig(t, nil, testkit.OnClose(func(tunnel *wsproxy.Tunnel, e wsproxy.Ending) {
			ids <- tunnel.ID()
			ends <- time.Since(start)
			assert.Equal(t, wsproxy.ReasonShutdown, e.Reason)
			assert.NoError(t, e.Err)
			assert.Equal(t, wsproxy.CloseFrame{Code: 1012, Reason: "service restart"}, e.ClientClose, "the answer")
			assert.Equal(t, wsproxy.CloseFrame{Code: 1012, Reason: "service restart"}, e.UpstreamClose, "the answer")
		}))
		startTunnels(t, r, n)
		require.NoError(t, r.Proxy.Drain(context.Background(), 20*time.Second, nil))
		assert.Zero(t, r.Proxy.Stats().Live)
		var order []uint64
		for i := range n {
			assert.Equal(t, time.Duration(i)*500*time.Millisecond, <-ends)
			order = append(order, <-ids)
		}
		assert.False(t, slices.IsSorted(order), "in the order in which they opened: %v", order)
	})
}

func TestDrainTakesTheTunnelsThatMatchAndAreOpenNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil)
		startTunnels(t, r, 6)
		asked := map[uint64]int{}
		drained := make(chan error)
		go func() {
			drained <- r.Proxy.Drain(context.Background(), 10*time.Second, func(tunnel *wsproxy.Tunnel) bool {
				asked[tunnel.ID()]++
				return tunnel.ID()%2 == 0
			})
		}()
		synctest.Wait()
		startTunnels(t, r, 1) // is not refused, and stays
		require.NoError(t, <-drained)
		assert.Equal(t, map[uint64]int{1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1}, asked)
		var left []uint64
		for tunnel := range r.Proxy.Tunnels() {
			left = append(left, tunnel.ID())
		}
		slices.Sort(left)
		assert.Equal(t, []uint64{1, 3, 5, 7}, left)
	})
}

func TestTheEndOfItsContextStopsADrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil)
		assert.NoError(t, r.Proxy.Drain(testkit.EndedContext(), time.Hour, nil), "without a tunnel")
		startTunnels(t, r, 10)
		assert.ErrorIs(t, r.Proxy.Drain(testkit.EndedContext(), 0, nil), context.Canceled)
		synctest.Wait()
		assert.Equal(t, 10, r.Proxy.Stats().Live, "with a context that had ended")
		ctx, cancel := context.WithTimeout(context.Background(), 45*time.Second)
		defer cancel()
		start := time.Now()
		assert.ErrorIs(t, r.Proxy.Drain(ctx, 100*time.Second, nil), context.DeadlineExceeded)
		assert.Equal(t, 45*time.Second, time.Since(start))
		synctest.Wait()
		assert.Equal(t, 5, r.Proxy.Stats().Live)
		time.Sleep(10 * time.Second) // within the read timeout
		assert.Equal(t, 5, r.Proxy.Stats().Live, "tunnels that were not told")
		assert.NoError(t, r.Proxy.Drain(context.Background(), 0, nil), "once more")
	})
}

// Some ends answer late, or not at all, or have left before their turn.
func TestDrainWaitsForTheEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil, wsproxy.WithUpgrades("websocket", "tcp"), wsproxy.WithCloseTimeout(7*time.Second))
		leaves, server := r.Tunnel(t)
		r.Tunnel(t) // does not answer
		startTunnels(t, r, 1)
		client := r.Send(t, testkit.PlainGet("/x", "Upgrade: tcp", "Connection: upgrade"))
		raw := <-r.Upstreams
		raw.Request(t)
		raw.Send(t, "HTTP/1.1 101 Switching\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n")
		client.WantSwitch(t)
		leaves.Close()
		server.Close()
		start := time.Now()
		require.NoError(t, r.Proxy.Drain(context.Background(), 0, nil))
		assert.Equal(t, 7*time.Second, time.Since(start))
		client.ExpectEOF(t, "") // nothing can be said on it
		assert.Zero(t, r.Proxy.Stats().Live)
	})
}

func TestADrainEndsWithTheTunnelsAndNotWithItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, end := range map[string]func(p *wsproxy.Proxy){
			"Shutdown":      func(p *wsproxy.Proxy) { assert.NoError(t, p.Shutdown(context.Background())) },
			"Close":         func(p *wsproxy.Proxy) { p.Close() },
			"another Drain": func(p *wsproxy.Proxy) { assert.NoError(t, p.Drain(context.Background(), -1, nil)) },
		} {
			r := testkit.NewMemRig(t, nil)
			startTunnels(t, r, 10)
			drained := make(chan error, 2)
			for range 2 {
				go func() { drained <- r.Proxy.Drain(context.Background(), time.Hour, nil) }()
			}
			time.Sleep(time.Second)
			start := time.Now()
			end(r.Proxy)
			assert.NoError(t, <-drained, name)
			assert.NoError(t, <-drained, name)
			assert.Zero(t, time.Since(start), name)
			assert.NoError(t, r.Proxy.Drain(context.Background(), time.Hour, nil), "after %s", name)
		}
	})
}

// While Shutdown waits for an end, Drain has nothing left to say and waits too.
func TestDrainDuringShutdownWaitsWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil)
		client, server := testkit.Ends(r.Tunnel(t))
		done := make(chan error)
		go func() { done <- r.Proxy.Shutdown(context.Background()) }()
		client.ExpectClose(t, 1001)
		go func() { done <- r.Proxy.Drain(context.Background(), 0, nil) }()
		synctest.Wait()
		client.SendFrame(t, testkit.Close, testkit.ClosePayload(1001, ""))
		testkit.AnswerClose(t, 1001, server)
		server.ExpectEOF(t, "")
		assert.NoError(t, <-done)
		assert.NoError(t, <-done)
	})
}

func TestADrainHasNoGoroutineForATunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil)
		startTunnels(t, r, 100)
		synctest.Wait()
		before := runtime.NumGoroutine()
		ctx, cancel := context.WithCancel(context.Background())
		drained := make(chan error)
		go func() { drained <- r.Proxy.Drain(ctx, time.Hour, nil) }()
		synctest.Wait()
		assert.LessOrEqual(t, runtime.NumGoroutine(), before+1)
		cancel()
		assert.ErrorIs(t, <-drained, context.Canceled)
	})
}

// As a rollout of one server does it.
func TestDrainOfOneServerOverEveryLink(t *testing.T) {
	testkit.OverLinks(t, nil, func(t *testing.T, l testkit.Link) {
		r := l.Start(t, func(h http.Handler) http.Handler { return h })
		client, server := testkit.Ends(r.Tunnel(t))
		drained := make(chan error, 2)
		go func() {
			drained <- r.Proxy.Drain(context.Background(), 0, func(tunnel *wsproxy.Tunnel) bool { return tunnel.Server() == "another:80" })
			drained <- r.Proxy.Drain(context.Background(), 0, func(tunnel *wsproxy.Tunnel) bool { return strings.HasPrefix(tunnel.Path(), "/chat") })
		}()
		assert.NoError(t, testkit.Within(t, drained, "the drain of another server"))
		testkit.AnswerClose(t, 1012, client, server)
		assert.NoError(t, testkit.Within(t, drained, "the drain of this one"))
		assert.Zero(t, r.Proxy.Stats().Live)
	})
}

// match is the user's: its failure is the caller's, and no tunnel's.
func TestADrainWhoseMatchFailsClosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil)
		startTunnels(t, r, 3)
		for _, fail := range []func(){func() { panic("boo") }, runtime.Goexit} {
			done := make(chan any)
			go func() {
				defer close(done)
				defer func() { recover() }()
				calls := 0
				r.Proxy.Drain(context.Background(), 0, func(*wsproxy.Tunnel) bool {
					if calls++; calls == 3 {
						fail()
					}
					return true
				})
			}()
			<-done
			synctest.Wait()
			assert.Equal(t, 3, r.Proxy.Stats().Live)
		}
		assert.NoError(t, r.Proxy.Drain(context.Background(), 0, func(tunnel *wsproxy.Tunnel) bool {
			_, ok := r.Proxy.Tunnel(tunnel.ID()) // no lock is held
			return ok && r.Proxy.Stats().Live == 3
		}))
		assert.Zero(t, r.Proxy.Stats().Live)
	})
}

// A hook may wait for what another goroutine asks of the proxy.
func TestShutdownAndDrainWaitForABlockedHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		blocked, release := make(chan struct{}), make(chan struct{})
		r := testkit.NewMemRig(t, nil, testkit.OnClose(func(*wsproxy.Tunnel, wsproxy.Ending) {
			close(blocked)
			<-release
		}))
		startTunnels(t, r, 1)
		done := make(chan error, 2)
		go func() { done <- r.Proxy.Drain(context.Background(), 0, nil) }()
		<-blocked
		go func() { done <- r.Proxy.Shutdown(testkit.EndedContext()) }()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		assert.ErrorIs(t, r.Proxy.Drain(ctx, 0, nil), context.DeadlineExceeded)
		synctest.Wait()
		assert.Empty(t, done)
		assert.Equal(t, 1, r.Proxy.Stats().Live)
		close(release)
		<-done
		<-done
		assert.Zero(t, r.Proxy.Stats().Live)
	})
}
