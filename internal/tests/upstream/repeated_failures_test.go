package upstream_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A journal is a slog.Handler that keeps the lines as text.
type journal struct {
	mu             sync.Mutex
	warnings, rest []string
}

func (j *journal) option() wsproxy.Option                   { return wsproxy.WithLogger(slog.New(j)) }
func (j *journal) Enabled(context.Context, slog.Level) bool { return true }
func (j *journal) WithAttrs([]slog.Attr) slog.Handler       { return j }
func (j *journal) WithGroup(string) slog.Handler            { return j }
func (j *journal) Handle(_ context.Context, r slog.Record) error {
	line := r.Message
	r.Attrs(func(a slog.Attr) bool {
		if a.Key != "client" && a.Key != "path" {
			line += fmt.Sprintf(" %s=%v", a.Key, a.Value)
		}
		return true
	})
	j.mu.Lock()
	defer j.mu.Unlock()
	if r.Level >= slog.LevelWarn {
		j.warnings = append(j.warnings, line)
	} else {
		j.rest = append(j.rest, line)
	}
	return nil
}

// take returns the warnings since the last call.
func (j *journal) take() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	lines := j.warnings
	j.warnings = nil
	return lines
}

// A switchboard is a network of servers, each with the error that dialing it
// returns. A server without an error answers with 200.
type switchboard map[string]error

func (s switchboard) dial(_ context.Context, _, addr string) (net.Conn, error) {
	if err := s[addr]; err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		if far.Read(make([]byte, 4096)); true {
			far.Write([]byte("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"))
		}
	}()
	return near, nil
}

var refused = os.NewSyscallError("connect", syscall.ECONNREFUSED)

// A hijackable is a ResponseWriter for upgrades that do not succeed.
type hijackable struct{ *httptest.ResponseRecorder }

func (hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return nil, nil, errors.ErrUnsupported
}

// send sends n requests, upgrades and plain ones in turn.
func send(p *wsproxy.Proxy, n int) {
	for i := range n {
		r := httptest.NewRequest("GET", "/", nil)
		if i%2 == 0 {
			r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
				"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {testkit.SampleKey}}
		}
		p.ServeHTTP(hijackable{httptest.NewRecorder()}, r)
	}
}

// Before, each attempt was a warning: a few clients of 14 products that waited
// for their server to come back wrote 980 lines.
func TestRepeatedFailuresOfAServerAreOneWarningIn10Seconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log journal
		net := switchboard{"a:1": refused}
		p := testkit.NewProxy(t, "http://a:1", log.option(), wsproxy.WithDialContext(net.dial))
		const first = "request failed status=502 error=wsproxy: upstream failed: server a:1: dial tcp: connect: connection refused"
		send(p, 1)
		require.Equal(t, []string{first}, log.take(), "the first is logged at once")
		time.Sleep(3 * time.Second)
		send(p, 30)
		time.Sleep(6999 * time.Millisecond)
		send(p, 7)
		require.Empty(t, log.take())
		require.Len(t, log.rest, 37, "each is logged at debug level")
		require.Equal(t, first, log.rest[0])
		time.Sleep(time.Millisecond)
		const more = "server failed repeatedly server=a:1 more=%d in=%v error=wsproxy: upstream failed: server a:1: dial tcp: connect: connection refused"
		send(p, 3)
		require.Equal(t, []string{fmt.Sprintf(more, 37, "9.999s"), first}, log.take())

		net["a:1"] = nil // it recovers
		time.Sleep(time.Hour)
		require.Empty(t, log.take(), "no goroutine waits")
		send(p, 2)
		require.Equal(t, []string{fmt.Sprintf(more, 2, "0s")}, log.take())
		net["a:1"] = refused
		send(p, 1)
		require.Equal(t, []string{first}, log.take(), "a new outage has a count of its own")
		send(p, 4)
		p.Close()
		require.Equal(t, []string{fmt.Sprintf(more, 4, "0s")}, log.take())
		require.NoError(t, p.Shutdown(t.Context()))
		require.Empty(t, log.take())
	})
}

// A server that fails every other request would otherwise be logged each time.
func TestAServerThatFailsNowAndThenIsOneWarningIn10Seconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log journal
		net := switchboard{}
		p := testkit.NewProxy(t, "http://a:1", log.option(), wsproxy.WithDialContext(net.dial))
		for range 20 {
			net["a:1"] = refused
			send(p, 1)
			net["a:1"] = nil
			send(p, 1)
		}
		require.Len(t, log.take(), 1)
	})
}

func TestAnotherKindOfFailureIsLoggedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log journal
		net := switchboard{"a:1": refused}
		p := testkit.NewProxy(t, "http://a:1", log.option(), wsproxy.WithDialContext(net.dial))
		causes := map[string]error{"refused": refused, "no route": syscall.EHOSTUNREACH, "timeout": os.ErrDeadlineExceeded,
			"no such host": fmt.Errorf("no such host"), "no such host again": fmt.Errorf("no such host, %d", time.Now().UnixNano())}
		for range 3 {
			for _, err := range causes {
				net["a:1"] = err
				send(p, 10)
			}
		}
		require.Len(t, log.take(), 4, "the texts of errors do not count, which may differ each time")
		p.Close()
		require.Len(t, log.take(), 4)
	})
}

func TestEachServersFailuresAreCountedApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log journal
		net := switchboard{"a:1": refused, "b:1": refused}
		u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: "a:1", MaxFails: wsproxy.NeverDown},
			wsproxy.Server{Addr: "b:1", MaxFails: wsproxy.NeverDown}, wsproxy.Server{Addr: "c:1", MaxFails: wsproxy.NeverDown})
		p := testkit.NewProxy(t, "http://app.example", log.option(), wsproxy.WithUpstream(u), wsproxy.WithDialContext(net.dial))
		send(p, 30)
		lines := log.take()
		require.Len(t, lines, 2)
		assert.Equal(t, "server failed, trying the next error=server a:1: dial tcp: connect: connection refused next=b:1", lines[0])
		assert.Equal(t, "server failed, trying the next error=server b:1: dial tcp: connect: connection refused next=c:1", lines[1])

		net["c:1"] = refused
		send(p, 1)
		lines = log.take()
		require.Len(t, lines, 2, "clients now get a 502, and that is news")
		assert.Contains(t, lines[len(lines)-1], "request failed status=502")
		send(p, 30)
		lines = log.take()
		require.LessOrEqual(t, len(lines), 3, "each server can be the last")

		// a and b are removed. Their counts appear at the next request all the same.
		require.NoError(t, u.SetServers(wsproxy.Server{Addr: "d:1"}))
		time.Sleep(10 * time.Second)
		send(p, 1)
		lines = log.take()
		for _, server := range []string{"a:1", "b:1"} {
			assert.Contains(t, fmt.Sprint(lines), "server failed repeatedly server="+server)
		}
		send(p, 10)
		require.Empty(t, log.take())
	})
}

// Through real sockets, by clients that all retry at once.
func TestAnUpstreamThatIsDownDoesNotFillTheLog(t *testing.T) {
	var log journal
	start := time.Now()
	_, proxy := testkit.ServeProxy(t, "http://"+testkit.RefusingAddr(t), log.option())
	var clients sync.WaitGroup
	for range 10 {
		clients.Go(func() {
			for range 10 {
				res, err := http.Get("http://" + proxy)
				if assert.NoError(t, err) {
					res.Body.Close()
				}
			}
		})
	}
	clients.Wait()
	windows := 1 + int(time.Since(start)/(10*time.Second))
	require.LessOrEqual(t, len(log.take()), 2*windows)
	require.GreaterOrEqual(t, len(log.rest), 100-windows)
}
