package main

import (
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A client whose messages are too large reconnects and sends them again.
func TestRepeatedEndingsAreOneLineAndTheirNumber(t *testing.T) {
	t.Parallel()
	url, conns := switches(t)
	c := start(t, "-max-message-size", "5", "-log", "info", "-access-log", "text", url)
	for range 5 {
		client, server := c.tunnel(t, conns)
		client.sendFrame(t, text, "123456")
		server.wantClose(t, "\x03\xf1message too big")
		server.Close()
		client.Close()
	}
	require.Equal(t, 5, strings.Count(strings.Join(c.logged(t, 10), "\n"), "reason=limit"), "the access log collapses nothing")
	c.signals <- syscall.SIGTERM
	require.Zero(t, c.exit(t), c.stderr)
	require.Equal(t, 1, strings.Count(c.stderr.String(), `msg="the proxy ended a tunnel"`), c.stderr)
	require.Regexp(t, `level=INFO msg="and 4 more in \d+s" reason=limit route=/\n`, c.stderr.String(), "at the exit, which does not wait")
}

func TestTunnelsThatTheirEndsCloseAreNotLogged(t *testing.T) {
	t.Parallel()
	url, conns := switches(t)
	c := start(t, "-access-log", "text", url)
	for range 3 {
		client, server := c.tunnel(t, conns)
		client.Close()
		server.Close()
	}
	c.logged(t, 6)
	c.signals <- syscall.SIGTERM
	require.Zero(t, c.exit(t), c.stderr)
	require.NotContains(t, c.stderr.String(), "tunnel ")
}

func TestRepeatsAreCountedInWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var lines []string
		said := func() (got []string) {
			mu.Lock()
			defer mu.Unlock()
			got, lines = lines, nil
			return got
		}
		begin := time.Now()
		r := repeats[string]{window: 10 * time.Second, more: func(key string, n int, within time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			lines = append(lines, fmt.Sprintf("at %v: %d %s in %v", time.Since(begin), n, key, within))
		}}
		for range 38 {
			r.first("a")
		}
		require.True(t, r.first("b"), "another key")
		time.Sleep(9 * time.Second)
		require.False(t, r.first("a"))
		require.Empty(t, said())
		time.Sleep(2 * time.Second) // at 11 s
		synctest.Wait()
		require.Equal(t, []string{"at 10s: 38 a in 10s"}, said())
		require.True(t, r.first("b"), "its window had no repeats and has ended")
		require.False(t, r.first("a"), "the next window has begun")
		time.Sleep(30 * time.Second) // at 41 s
		synctest.Wait()
		require.Equal(t, []string{"at 20s: 1 a in 10s"}, said())
		require.Empty(t, r.counted, "no memory of keys without repeats")

		require.True(t, r.first("a"))
		r.first("a")
		r.first("b")
		time.Sleep(3 * time.Second)
		r.flush()
		require.Equal(t, []string{"at 44s: 1 a in 3s"}, said())
		require.Empty(t, r.counted)
		time.Sleep(time.Minute)
		require.Empty(t, said())
	})
}
