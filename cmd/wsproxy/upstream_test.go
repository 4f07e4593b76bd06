package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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
	dir, err := os.MkdirTemp("", "wsproxy") // t.TempDir may be too long for a socket
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
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

// nameserver makes net.DefaultResolver return the set addresses for every name
// until the test ends.
func nameserver(t *testing.T) (set func(addrs ...string)) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	var addrs atomic.Pointer[[]string]
	set = func(a ...string) { addrs.Store(&a) }
	set()
	var answering sync.WaitGroup
	answering.Go(func() {
		b := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			conn.WriteTo(answer(b[:n], *addrs.Load()), from)
		}
	})
	before := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
	t.Cleanup(func() {
		net.DefaultResolver = before
		conn.Close()
		answering.Wait()
	})
	return set
}

// answer returns the response to a DNS query (RFC 1035, section 4).
func answer(query []byte, addrs []string) []byte {
	end := 12
	for query[end] != 0 {
		end += 1 + int(query[end])
	}
	end++
	res := append([]byte{query[0], query[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, query[12:end+4]...)
	if query[end+1] != 1 { // of type A
		return res
	}
	res[7] = byte(len(addrs))
	for _, addr := range addrs {
		ip := netip.MustParseAddr(addr).As4()
		res = append(append(res, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4), ip[:]...)
	}
	return res
}

// neighbours are two servers on the same port of 127.0.0.1 and 127.0.0.2. Each
// responds with its address.
func neighbours(t *testing.T) (port string) {
	t.Helper()
	for range 20 {
		second, err := net.Listen("tcp", "127.0.0.2:0")
		if err != nil {
			testkit.Missing(t, "no second address of the loopback interface: %v", err) // macOS has but one
		}
		_, port, _ = net.SplitHostPort(second.Addr().String())
		first, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil { // it is taken there
			second.Close()
			continue
		}
		for _, l := range []net.Listener{first, second} {
			ip := l.Addr().(*net.TCPAddr).IP.String()
			s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, ip+" ") })}
			go s.Serve(l)
			t.Cleanup(func() { s.Close() })
		}
		return port
	}
	require.Fail(t, "no port is free on both addresses")
	return ""
}

func TestDNSFollowsTheAddressesOfTheTargetsName(t *testing.T) {
	port := neighbours(t)
	set := nameserver(t)
	target := "http://chat.test.:" + port

	code, stdout, stderr := status(t, "-dns", "20ms", target)
	require.Equal(t, 1, code, "a name without an address")
	require.Empty(t, stdout)
	require.Contains(t, stderr, "wsproxy: lookup chat.test.")

	set("127.0.0.1", "127.0.0.2")
	c := start(t, "-dns", "20ms", target)
	require.Contains(t, c.line, fmt.Sprintf(" -> %s (now 127.0.0.1:%s, 127.0.0.2:%s)\n", target, port, port))
	three := func() (got string) {
		for range 3 {
			_, body := c.get(t, "/", "")
			got += body
		}
		return got
	}
	require.Contains(t, []string{"127.0.0.1 127.0.0.2 127.0.0.1 ", "127.0.0.2 127.0.0.1 127.0.0.2 "}, three())
	set("127.0.0.2")
	require.Eventually(t, func() bool { return three() == strings.Repeat("127.0.0.2 ", 3) }, testkit.Patience, time.Millisecond)
	set()
	c.stderr.Await(t, "level=WARN msg=\"servers not found")
	require.Equal(t, strings.Repeat("127.0.0.2 ", 3), three(), "the last ones stay")
	require.NotContains(t, c.stderr.String(), "request failed")
}

func TestASignalEndsTheFirstLookup(t *testing.T) {
	before := net.DefaultResolver
	defer func() { net.DefaultResolver = before }()
	asked := make(chan net.Conn, 100)
	over := t.Context()
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		if over.Err() != nil {
			return nil, over.Err()
		}
		ours, theirs := net.Pipe() // nobody reads the other end
		context.AfterFunc(over, func() { theirs.Close() })
		asked <- ours
		return ours, nil
	}}
	signals := make(chan os.Signal, 2)
	exited := make(chan int, 1)
	var stdout, stderr testkit.Buffer
	go func() { exited <- run(signals, []string{"-dns", "5s", "http://chat.test."}, &stdout, &stderr) }()
	<-asked
	began := time.Now()
	signals <- os.Interrupt
	require.Equal(t, 1, <-exited)
	require.Less(t, time.Since(began), 4*time.Second)
	require.Equal(t, "wsproxy: a signal arrived before wsproxy had started\n", stderr.String())
}
