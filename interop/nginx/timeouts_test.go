package nginx_test

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

// keptBy makes one end send bytes for longer than the read timeout of a second,
// and notes whether the other received them all.
func keptBy(pick func(c, up *peer) (from, to *peer)) func(x *stage) {
	return func(x *stage) {
		for try := 0; ; try++ {
			from, to := pick(x.open("/websocket"))
			begin := time.Now()
			longest := time.Duration(0)
			var failed error
			for last := begin; failed == nil && time.Since(begin) < 2500*time.Millisecond; last = time.Now() {
				time.Sleep(50 * time.Millisecond)
				if _, failed = io.WriteString(from, "."); failed == nil {
					_, failed = io.ReadFull(to, make([]byte, 1))
				}
				longest = max(longest, time.Since(last))
			}
			from.Close()
			to.Close()
			if failed != nil && longest > 500*time.Millisecond && try < 3 {
				x.n = 0 // the machine was too busy for a result
				x.up[0].begin(respondWith(switching))
				continue
			}
			x.note("tunnel after 2.5 s", "%v", failed)
			return
		}
	}
}

// flood writes until a write fails.
func flood(p *peer) string {
	chunk := make([]byte, 64<<10)
	for {
		if _, err := p.Write(chunk); errors.Is(err, os.ErrDeadlineExceeded) {
			return "held up"
		} else if err != nil {
			return "cut"
		}
	}
}

// drained reports whether a connection ends, whatever arrives before. Whether
// it ends with a reset is chance.
func drained(p *peer) string {
	said := p.rest()
	end := said[strings.LastIndex(said, ", ")+2:]
	if end == "EOF" || end == "RST" {
		return "cut"
	}
	return end
}

// stalls sends text, and then nothing until the proxy closes the connection.
func stalls(text string) reply {
	return func(c *peer, _ message) fate {
		io.WriteString(c, text)
		io.Copy(io.Discard, c)
		return closes
	}
}

var timeoutTrials = []trial{{
	name: "silence on a tunnel", differs: []string{idleTunnels},
	play: func(x *stage) {
		c, up := x.open("/websocket")
		x.note("client: end", "%s", c.lastWords())
		x.note("upstream: end", "%s", up.lastWords())
	},
	response: switching,
}, {
	name:     "only the client speaks",
	play:     keptBy(func(c, up *peer) (from, to *peer) { return c, up }),
	response: switching,
}, {
	name:     "only the upstream speaks",
	play:     keptBy(func(c, up *peer) (from, to *peer) { return up, c }),
	response: switching,
}, {
	name: "no response to an upgrade", differs: []string{closeAfter, errorPages},
	request: upgrade("/websocket"),
	reply:   stalls(""),
}, {
	name: "no response to a GET", differs: []string{errorPages},
	request: request("GET /"),
	reply:   stalls(""),
}, {
	name: "a response that stalls in its header", differs: []string{closeAfter, errorPages},
	request: upgrade("/websocket"),
	reply:   stalls("HTTP/1.1 101 Switching"),
}, {
	name: "a response that stalls in its body", differs: []string{responseBuffering},
	request: request("GET /"),
	reply:   stalls("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 9\r\n\r\nbody"),
}}

var sendTimeoutTrials = []trial{{
	name: "an upstream that does not read",
	play: func(x *stage) {
		c, up := x.open("/websocket")
		flooded := make(chan string, 1)
		go func() { flooded <- flood(c) }()
		x.note("client: end", "%s", drained(c))
		x.note("upstream: end", "%s", drained(up))
		c.Close()
		<-flooded
	},
	response: switching,
}, {
	name: "a client that does not read",
	play: func(x *stage) {
		c, up := x.open("/websocket")
		flooded := make(chan string, 1)
		go func() { flooded <- flood(up) }()
		x.note("upstream: end", "%s", drained(up))
		x.note("client: end", "%s", drained(c))
		up.Close()
		<-flooded
	},
	response: switching,
}}

// timed are recipes with one trial each, which run in parallel.
func timed() (timed []recipe) {
	add := func(trials []trial, replace []string, opts ...wsproxy.Option) {
		for _, tr := range trials {
			timed = append(timed, recipe{
				name: tr.name, conf: "full", servers: []string{"127.0.0.1:3000"}, trials: []trial{tr},
				replace:     append(replace, " ssl;", ";"),
				counterpart: single("/", append(opts, wsproxy.WithCloseTimeout(time.Second))...),
			})
		}
	}
	add(timeoutTrials, []string{"proxy_read_timeout 300s", "proxy_read_timeout 1s"}, wsproxy.WithReadTimeout(time.Second))
	timed = append(timed, recipe{
		name: "connecting", conf: "full", servers: []string{"127.0.0.1:3000"}, instead: fullQueueAddr,
		replace:     []string{"proxy_connect_timeout 10s", "proxy_connect_timeout 1s", " ssl;", ";"},
		counterpart: single("/", wsproxy.WithConnectTimeout(time.Second)),
		trials: []trial{{
			name: "a server that does not accept", differs: []string{closeAfter, errorPages},
			request: upgrade("/"),
		}},
	})
	add(sendTimeoutTrials, []string{"send_timeout 300s", "send_timeout 1s"}, wsproxy.WithSendTimeout(time.Second))
	return timed
}

// fullQueueAddr returns an address that accepts no connection because its queue
// is full.
func fullQueueAddr(t testing.TB) string {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	require.NoError(t, err)
	t.Cleanup(func() { syscall.Close(fd) })
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	require.NoError(t, syscall.Listen(fd, 0))
	name, err := syscall.Getsockname(fd)
	require.NoError(t, err)
	addr := (&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: name.(*syscall.SockaddrInet4).Port}).String()
	for range 8 {
		conn, err := net.DialTimeout("tcp", addr, 300*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { conn.Close() })
	}
	testkit.Missing(t, "this system's queue cannot be filled")
	return ""
}
