package upstream_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// drainGone is the code of docs/scaling.md.
func drainGone(ctx context.Context, proxy *wsproxy.Proxy, u *wsproxy.Upstream, grace time.Duration) {
	for changed := u.Changed(); ; {
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
		changed = u.Changed() // before Servers, so that no change is missed
		before := u.Servers()
		time.AfterFunc(grace, func() {
			servers := append(u.Servers(), before...) // gone then and still gone
			proxy.Drain(ctx, time.Minute, func(t *wsproxy.Tunnel) bool {
				return !slices.ContainsFunc(servers, func(s wsproxy.ServerState) bool { return s.Addr == t.Server() })
			})
		})
	}
}

// Tunnels to a server that DNS no longer lists stayed for as long as both ends
// liked (traefik#9455, pingora#571, gateway-api#5014).
func TestTunnelsOfAServerThatLeftCanBeDrainedAfterAGraceTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := wsproxy.Server{Addr: "a:1"}, wsproxy.Server{Addr: "b:1"}
		u := testkit.Servers(t, wsproxy.RoundRobin(), a, b)
		r := testkit.NewMemRigTo(t, "http://group", nil, wsproxy.WithUpstream(u), wsproxy.WithReadTimeout(0))
		for range 4 {
			client, server := testkit.Ends(r.Tunnel(t))
			client.AnswerPings()
			server.AnswerPings()
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { drainGone(ctx, r.Proxy, u, time.Minute); close(done) }()
		left := func() (servers []string) {
			synctest.Wait()
			for tunnel := range r.Proxy.Tunnels() {
				servers = append(servers, tunnel.Server())
			}
			slices.Sort(servers)
			return servers
		}
		synctest.Wait()
		require.NoError(t, u.SetServers(b)) // and soon back
		time.Sleep(30 * time.Second)
		require.NoError(t, u.SetServers(a, b))
		time.Sleep(5 * time.Minute)
		assert.Equal(t, []string{"a:1", "a:1", "b:1", "b:1"}, left())

		require.NoError(t, u.SetServers(b))
		time.Sleep(59 * time.Second)
		assert.Equal(t, []string{"a:1", "a:1", "b:1", "b:1"}, left(), "within the grace time")
		time.Sleep(time.Second)
		assert.Equal(t, []string{"a:1", "b:1", "b:1"}, left())
		time.Sleep(30 * time.Second)
		assert.Equal(t, []string{"b:1", "b:1"}, left())
		assert.Equal(t, wsproxy.CloseFrame{Code: 1012, Reason: "service restart"}, (<-r.Ended).ClientClose)
		cancel()
		<-done
	})
}

// In a rollout one server leaves after another. The drain of the first took the
// tunnels of one that had left, or had only been missing from one answer, a
// moment before.
func TestEachServerThatLeavesHasTheWholeGraceTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c := wsproxy.Server{Addr: "a:1"}, wsproxy.Server{Addr: "b:1"}, wsproxy.Server{Addr: "c:1"}
		u := testkit.Servers(t, wsproxy.RoundRobin(), a, b, c)
		r := testkit.NewMemRigTo(t, "http://group", nil, wsproxy.WithUpstream(u), wsproxy.WithReadTimeout(0))
		for range 3 {
			client, server := testkit.Ends(r.Tunnel(t))
			client.AnswerPings()
			server.AnswerPings()
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { drainGone(ctx, r.Proxy, u, time.Minute); close(done) }()
		synctest.Wait()
		live := func() int {
			synctest.Wait()
			return r.Proxy.Stats().Live
		}
		require.NoError(t, u.SetServers(b, c))
		time.Sleep(59 * time.Second)
		require.NoError(t, u.SetServers(c))
		time.Sleep(time.Second)
		assert.Equal(t, 2, live(), "a has left a minute ago, b a second ago")
		require.NoError(t, u.SetServers(b, c))
		time.Sleep(5 * time.Minute)
		assert.Equal(t, 2, live(), "b is back")
		cancel()
		<-done
	})
}
