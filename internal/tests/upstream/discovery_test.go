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
	var logged bytes.Buffer
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
		go func() { watched <- u.Watch(ctx, r) }()
		synctest.Wait()
		require.Equal(t, []string{"a:1", "b:1"}, addrs(u), "at once")
		require.Empty(t, logged.String())

		after := func(d time.Duration, warning string, want ...string) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			require.Equal(t, want, addrs(u))
			require.Contains(t, logged.String(), warning)
			logged.Reset()
		}
		found.Store(&lookup{servers: []wsproxy.Server{{Addr: "c:1"}}, again: 5 * time.Second})
		after(5*time.Second-1, "", "a:1", "b:1")
		after(1, "", "c:1")
		found.Store(&lookup{again: 5 * time.Second})
		after(5*time.Second, "no server", "c:1")
		found.Store(&lookup{servers: []wsproxy.Server{{Addr: "bad"}}, again: 5 * time.Second})
		after(5*time.Second, `server \"bad\", want`, "c:1")
		found.Store(&lookup{err: errors.New("lookup failed")})
		after(5*time.Second, "lookup failed", "c:1")
		found.Store(&lookup{servers: []wsproxy.Server{{Addr: "d:1"}}, again: 5 * time.Second})
		after(time.Second-1, "", "c:1")
		after(1, "", "d:1")

		cancel()
		assert.ErrorIs(t, <-watched, context.Canceled)
	})
}

func TestAnInvalidPortFailsTheLookup(t *testing.T) {
	_, again, err := wsproxy.DNS("localhost", 0, 0).Resolve(t.Context())
	assert.EqualError(t, err, `wsproxy: port "0" of "localhost", want 1 to 65535`)
	assert.Equal(t, 5*time.Second, again)
}
