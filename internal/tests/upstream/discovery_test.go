package upstream_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

type resolverFunc func(context.Context) ([]wsproxy.Server, time.Duration, error)

func (f resolverFunc) Resolve(ctx context.Context) ([]wsproxy.Server, time.Duration, error) {
	return f(ctx)
}

// A lookup is one result of a Resolver.
type lookup struct {
	servers []wsproxy.Server
	again   time.Duration
	err     error
}

// addrs returns the addresses of u's servers.
func addrs(u *wsproxy.Upstream) []string {
	var got []string
	for _, s := range u.Servers() {
		got = append(got, s.Addr)
	}
	return got
}

func TestWatchKeepsTheLastGoodServers(t *testing.T) {
	var logged bytes.Buffer // behind the back of the Proxy's own logger
	defer slog.SetDefault(slog.Default())
	slog.SetDefault(slog.New(slog.NewTextHandler(&logged, nil)))
	synctest.Test(t, func(t *testing.T) {
		var found atomic.Pointer[lookup]
		r := resolverFunc(func(context.Context) ([]wsproxy.Server, time.Duration, error) {
			l := found.Load()
			return l.servers, l.again, l.err
		})
		u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: "first:1"})
		ctx, cancel := context.WithCancel(t.Context())
		watched := make(chan error)
		found.Store(&lookup{servers: []wsproxy.Server{{Addr: "a:1"}, {Addr: "b:1"}}, again: 5 * time.Second})
		failures := make(chan error, 10)
		go func() { watched <- u.Watch(ctx, r, func(err error) { failures <- err }) }()
		synctest.Wait()
		require.Equal(t, []string{"a:1", "b:1"}, addrs(u), "at once")
		require.Empty(t, failures)

		after := func(d time.Duration, failure string, want ...string) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			require.Equal(t, want, addrs(u))
			if failure != "" {
				require.ErrorContains(t, <-failures, failure)
			}
			require.Empty(t, failures)
		}
		found.Store(&lookup{servers: []wsproxy.Server{{Addr: "c:1"}}, again: 5 * time.Second})
		after(5*time.Second-1, "", "a:1", "b:1")
		after(1, "", "c:1")
		found.Store(&lookup{again: 5 * time.Second})
		after(5*time.Second, "no server", "c:1")
		found.Store(&lookup{servers: []wsproxy.Server{{Addr: "bad"}}, again: 5 * time.Second})
		after(5*time.Second, `server "bad", want`, "c:1")
		found.Store(&lookup{err: errors.New("lookup failed")})
		after(5*time.Second, "lookup failed", "c:1")
		found.Store(&lookup{servers: []wsproxy.Server{{Addr: "d:1"}}, again: 5 * time.Second})
		after(time.Second-1, "", "c:1")
		after(1, "", "d:1")

		cancel()
		assert.ErrorIs(t, <-watched, context.Canceled)

		found.Store(&lookup{err: errors.New("lookup failed")})
		ctx, cancel = context.WithCancel(t.Context())
		go func() { watched <- u.Watch(ctx, r, nil) }()
		time.Sleep(10 * time.Second)
		cancel()
		assert.ErrorIs(t, <-watched, context.Canceled)
		assert.Empty(t, logged.String())
	})
}

// The tunnels of servers that left had to be found by asking Servers again and
// again.
func TestChangedTellsOfEachChangeOfTheServersOnce(t *testing.T) {
	a, b := wsproxy.Server{Addr: "a:1"}, wsproxy.Server{Addr: "b:1"}
	u := testkit.Servers(t, wsproxy.RoundRobin(), a)
	closed := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	for _, test := range []struct {
		name    string
		servers []wsproxy.Server
		changes bool
	}{
		{"the same", []wsproxy.Server{a}, false},
		{"the same, with a default", []wsproxy.Server{{Addr: "a:1", Weight: 1, MaxFails: 1}}, false},
		{"one more", []wsproxy.Server{a, b}, true},
		{"another order", []wsproxy.Server{b, a}, true},
		{"a mistake", []wsproxy.Server{{Addr: "bad"}}, false},
		{"a weight", []wsproxy.Server{b, {Addr: "a:1", Weight: 2}}, true},
		{"one less", []wsproxy.Server{b}, true},
	} {
		first, second := u.Changed(), u.Changed()
		err := u.SetServers(test.servers...)
		assert.Equal(t, test.name == "a mistake", err != nil, test.name)
		assert.Equal(t, test.changes, closed(first), test.name)
		assert.Equal(t, test.changes, closed(second), test.name)
		assert.False(t, closed(u.Changed()), test.name)
	}
}

func TestAnInvalidPortFailsTheLookup(t *testing.T) {
	_, again, err := wsproxy.DNS{Name: "localhost"}.Resolve(t.Context())
	assert.EqualError(t, err, `wsproxy: port "0" of "localhost", want 1 to 65535`)
	assert.Equal(t, 5*time.Second, again)
}
