package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// named is an upstream that sends its name, as a response or as the first message
// of a tunnel.
func named(t *testing.T, name string) string {
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			io.WriteString(w, name)
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if !assert.NoError(t, err) {
			return
		}
		defer conn.Close()
		io.WriteString(conn, testkit.SampleSwitch+"\x81"+string(rune(len(name)))+name)
		io.Copy(io.Discard, rw) // until the proxy ends it
	})
}

// open opens a tunnel and returns the name of its server.
func (c *command) open(t *testing.T, path, fields string) (*peer, string) {
	t.Helper()
	p, res := c.ask(t, path, upgradeFields+fields)
	require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	_, name := p.frame(t)
	return p, name
}

// leave closes a tunnel and waits until the command no longer counts it.
func (c *command) leave(t *testing.T, p *peer) {
	t.Helper()
	before := strings.Count(c.stderr.String(), closedTunnel)
	p.Close()
	c.forgets(t, before+1)
}

func TestSeveralTargetsAreServersForTheSameRequests(t *testing.T) {
	a := named(t, "a")
	b := named(t, "b")
	c := start(t, a, strings.Replace(b, "http://", "ws://", 1)+"/") // ws is http, and no path is /
	var got string
	for range 3 {
		_, body := c.get(t, "/", "")
		_, name := c.open(t, "/", "")
		got += body + name
	}
	require.Equal(t, "ababab", got)

	code, _, stderr := status(t, "http://a", "ftp://b", "c:80")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, `wsproxy: target "ftp://b"`)
	require.Contains(t, stderr, `wsproxy: target "c:80"`)
	code, _, stderr = status(t, "http://a", "http://a:80/")
	require.Equal(t, 1, code)
	require.Equal(t, "wsproxy: server \"a:80\" is listed twice, want it once\n", stderr)
}

func TestAUnixSocketCanBeOneOfTheServers(t *testing.T) {
	dir := testkit.SocketDir(t)
	l, err := net.Listen("unix", dir+"/b.sock")
	require.NoError(t, err)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "unix "+r.RequestURI) })}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	c := start(t, named(t, "tcp")+"/app", "http://unix:"+dir+"/b.sock:/app/")
	_, first := c.get(t, "/x", "")
	_, second := c.get(t, "/x", "")
	require.Equal(t, "tcp, unix /app/x", first+", "+second)

	// As the first one it also names the servers, which New does not take from
	// a socket.
	c = start(t, "http://unix:"+dir+"/b.sock:/app/", named(t, "tcp")+"/app")
	_, first = c.get(t, "/x", "")
	_, second = c.get(t, "/x", "")
	require.Equal(t, "unix /app/x, tcp", first+", "+second)
}

func TestPolicyChoosesTheServer(t *testing.T) {
	a, b := named(t, "a"), named(t, "b")
	begin := func(t *testing.T, policy string) *command {
		return start(t, "-listen", "127.0.0.1:0", "-log", "debug", "-trusted-proxy", "127.0.0.1", "-policy", policy, a, b)
	}
	t.Run("round-robin", func(t *testing.T) {
		c := begin(t, "round-robin")
		_, first := c.open(t, "/", "")
		p, second := c.open(t, "/", "")
		c.leave(t, p)
		_, third := c.open(t, "/", "")
		require.Equal(t, "aba", first+second+third)
	})
	t.Run("least-tunnels", func(t *testing.T) {
		c := begin(t, "least-tunnels")
		_, first := c.open(t, "/", "")
		p, second := c.open(t, "/", "")
		c.leave(t, p)
		_, third := c.open(t, "/", "")
		require.Equal(t, "abb", first+second+third, "b has fewer")
	})
	t.Run("random2", func(t *testing.T) {
		c := begin(t, "random2")
		firsts := map[string]bool{}
		for range 64 { // of two servers the one with fewer tunnels, or any
			_, first := c.open(t, "/", "")
			_, second := c.open(t, "/", "")
			require.NotEqual(t, first, second)
			firsts[first] = true
		}
		require.Len(t, firsts, 2)
	})
	t.Run("hash-ip", func(t *testing.T) {
		c := begin(t, "hash-ip")
		all := map[string]bool{}
		for i := range 64 {
			_, first := c.get(t, "/one", fmt.Sprintf("X-Forwarded-For: 192.0.2.%d\r\n", i))
			_, second := c.get(t, "/two", fmt.Sprintf("X-Forwarded-For: 192.0.2.%d\r\n", i))
			require.Equal(t, first, second)
			all[first] = true
		}
		require.Len(t, all, 2)
	})
	t.Run("hash-uri", func(t *testing.T) {
		c := begin(t, "hash-uri")
		all := map[string]bool{}
		for i := range 64 { // the query is part of it
			_, first := c.get(t, fmt.Sprintf("/?room=%d", i), "X-Forwarded-For: 192.0.2.1\r\n")
			_, second := c.get(t, fmt.Sprintf("/?room=%d", i), "X-Forwarded-For: 192.0.2.2\r\n")
			require.Equal(t, first, second)
			all[first] = true
		}
		require.Len(t, all, 2)
	})
}

func TestMaxFailsAndFailTimeoutTakeAServerDown(t *testing.T) {
	good := named(t, "good")
	for _, test := range []struct {
		args string
		want int // requests to the server that fails, of 8 whose turns alternate
	}{
		{"-fail-timeout 1h", 1},
		{"-fail-timeout 1h -max-fails 3", 3},
		{"-fail-timeout 1h -max-fails 0", 4},
		{"-fail-timeout 1ns", 4},
	} {
		t.Run(test.args, func(t *testing.T) {
			var hits atomic.Int64
			bad := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				hits.Add(1)
				panic(http.ErrAbortHandler)
			})
			c := start(t, append(strings.Fields(test.args), bad, good)...)
			for range 8 {
				code, body := c.get(t, "/", "")
				require.Equal(t, http.StatusOK, code)
				require.Equal(t, "good", body)
			}
			require.EqualValues(t, test.want, hits.Load())
		})
	}
}

func TestMaxTriesLimitsTheServersForOneRequest(t *testing.T) {
	for args, want := range map[string]int64{"": 3, "-max-tries 1": 1, "-max-tries 2": 2, "-max-tries 0": 4} {
		var hits atomic.Int64
		var bad []string
		for range 4 {
			bad = append(bad, serve(t, func(http.ResponseWriter, *http.Request) {
				hits.Add(1)
				panic(http.ErrAbortHandler)
			}))
		}
		c := start(t, append(strings.Fields(args), bad...)...)
		code, _ := c.get(t, "/", "")
		require.Equal(t, http.StatusBadGateway, code)
		require.Equal(t, want, hits.Load(), args)
	}
}

func TestRetryStatusGoesToTheNextServer(t *testing.T) {
	good := named(t, "good")
	for args, want := range map[string]int{"": 503, "-retry-status 502": 503, "-retry-status 502 -retry-status 503": 200} {
		busy := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
		c := start(t, append(strings.Fields(args), busy, good)...)
		for range 2 {
			code, _ := c.get(t, "/", "")
			require.Equal(t, want, code, args)
			want = http.StatusOK // the good one's turn, or its answer again
		}
	}
}

func TestFlagsForSeveralServersAreOfNoEffectWithOne(t *testing.T) {
	bad := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	c := start(t, "-policy", "hash-ip", "-max-fails", "1", "-fail-timeout", "1h", "-max-tries", "1", "-retry-status", "503", bad)
	for range 3 {
		code, _ := c.get(t, "/", "")
		require.Equal(t, http.StatusServiceUnavailable, code, "its own answer")
	}
}
