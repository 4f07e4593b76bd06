package wsproxy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A way is how one tunnel, or the attempt at one, comes to its end. The
// upstream's part runs after the handshake; the client's after its answer.
type way struct {
	name     string
	opts     []wsproxy.Option
	answer   string // instead of sampleSwitch
	upstream func(conn *net.TCPConn)
	client   func(conn *net.TCPConn, s *stand)
	own      bool // needs a proxy of its own
	either   bool // may come before the client has its 101
}

func readAll(conn io.Reader)      { io.Copy(io.Discard, conn) }
func readToEnd(conn *net.TCPConn) { readAll(conn) }
func reset(conn *net.TCPConn)     { conn.SetLinger(0); conn.Close() }

func halfClose(conn *net.TCPConn) {
	conn.CloseWrite()
	readAll(conn)
}

func sayAndHalfClose(conn *net.TCPConn) {
	io.WriteString(conn, "rest")
	halfClose(conn)
}

func clientDoes(act func(*net.TCPConn)) func(*net.TCPConn, *stand) {
	return func(conn *net.TCPConn, _ *stand) { act(conn) }
}

func closeNow(conn *net.TCPConn) { conn.Close() }

var ways = []way{
	{name: "client first", client: clientDoes(closeNow), upstream: readToEnd},
	{name: "upstream first", client: clientDoes(readToEnd), upstream: closeNow},
	{name: "both at once", client: clientDoes(closeNow), upstream: closeNow},
	{name: "client resets", client: clientDoes(reset), upstream: readToEnd},
	{name: "upstream resets", client: clientDoes(readToEnd), upstream: reset},
	{name: "both reset", client: clientDoes(reset), upstream: reset},
	{name: "client half-closes", client: clientDoes(halfClose), upstream: func(conn *net.TCPConn) { readAll(conn); sayAndHalfClose(conn) }},
	{name: "upstream half-closes", client: clientDoes(func(conn *net.TCPConn) { readAll(conn); sayAndHalfClose(conn) }), upstream: halfClose},
	{name: "half-close, then reset", client: clientDoes(func(conn *net.TCPConn) { conn.CloseWrite(); reset(conn) }), upstream: sayAndHalfClose},
	{name: "read timeout", opts: []wsproxy.Option{wsproxy.WithReadTimeout(5 * time.Millisecond), wsproxy.WithCloseTimeout(5 * time.Millisecond)},
		client: clientDoes(readToEnd), upstream: readToEnd, either: true},
	{name: "max lifetime", opts: []wsproxy.Option{wsproxy.WithMaxLifetime(5 * time.Millisecond), wsproxy.WithCloseTimeout(5 * time.Millisecond)},
		client: clientDoes(readToEnd), upstream: readToEnd, either: true},
	{name: "close timeout", opts: []wsproxy.Option{wsproxy.WithCloseTimeout(5 * time.Millisecond)},
		client: clientDoes(halfClose), upstream: func(conn *net.TCPConn) { readAll(conn); readAll(conn) }},
	{name: "context", client: func(conn *net.TCPConn, s *stand) { s.end(); readAll(conn) }, upstream: readToEnd, own: true},
	{name: "Shutdown", client: func(conn *net.TCPConn, s *stand) { s.p.Shutdown(endedContext()); readAll(conn) }, upstream: readToEnd, own: true},
	{name: "Close", client: func(conn *net.TCPConn, s *stand) { s.p.Close(); readAll(conn) }, upstream: readToEnd, own: true},
	{name: "refusal", answer: "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
		client: clientDoes(readToEnd), upstream: readToEnd},
	{name: "wrong accept", answer: strings.Replace(sampleSwitch, sampleAccept, sampleKey, 1),
		client: clientDoes(readToEnd), upstream: readToEnd},
	{name: "no answer", answer: " ", client: clientDoes(readToEnd), upstream: reset},
}

// A stand is a proxy and what a way needs to end its tunnels.
type stand struct {
	p   *wsproxy.Proxy
	ctx context.Context
	end func() // of the context, and of tunnels that it does not concern
}

// A course runs ways through one server, which finds the stand by the path,
// and one upstream, which finds the way by it.
type course struct {
	server   string
	upstream net.Listener
	handlers sync.WaitGroup
	mu       sync.Mutex
	stands   map[string]*stand
	next     int
}

func newCourse(t *testing.T) *course {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c := &course{upstream: l, stands: map[string]*stand{}}
	c.server = serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		s := c.stands[r.URL.Path]
		c.mu.Unlock()
		s.p.ServeHTTP(w, r.WithContext(s.ctx))
	}))
	c.handlers.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c.handlers.Go(func() { c.answer(conn.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		c.handlers.Wait()
	})
	return c
}

// answer is the upstream's part of one tunnel.
func (c *course) answer(conn *net.TCPConn) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	r, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	var w, id int
	fmt.Sscanf(r.URL.Path, "/%d/%d", &w, &id)
	answer := ways[w].answer
	if answer == "" {
		answer = sampleSwitch
	}
	io.WriteString(conn, answer)
	if answer == sampleSwitch {
		io.ReadFull(conn, make([]byte, len("go")))
	}
	ways[w].upstream(conn)
}

// newStand returns a stand for a way and its path.
func (c *course) newStand(t *testing.T, w int, detached bool) (*stand, string) {
	opts := ways[w].opts
	if detached {
		opts = append(opts[:len(opts):len(opts)], wsproxy.WithDetached())
	}
	s := &stand{p: newProxy(t, "http://"+c.upstream.Addr().String(), opts...)}
	var cancel context.CancelFunc
	s.ctx, cancel = context.WithCancel(context.Background())
	t.Cleanup(cancel)
	s.end = func() {
		cancel()
		if detached {
			s.p.Close()
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next++
	path := fmt.Sprintf("/%d/%d", w, c.next)
	c.stands[path] = s
	return s, path
}

// run is the client's part of one tunnel. ready is called between the answer
// and the end.
func (c *course) run(w int, s *stand, path string, ready func()) error {
	conn, res, err := c.ask(path)
	ready()
	if conn == nil {
		return err
	}
	defer conn.Close()
	switch switched := res != nil && res.StatusCode == http.StatusSwitchingProtocols; {
	case ways[w].either && !switched:
		return nil
	case err != nil:
		return fmt.Errorf("%s: %w", ways[w].name, err)
	case switched != (ways[w].answer == ""):
		return fmt.Errorf("%s: answered %s", ways[w].name, res.Status)
	case switched:
		io.WriteString(conn, "go")
	}
	ways[w].client(conn, s)
	return nil
}

func (c *course) ask(path string) (*net.TCPConn, *http.Response, error) {
	raw, err := net.Dial("tcp", c.server)
	if err != nil {
		return nil, nil, err
	}
	raw.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(raw, strings.Replace(sampleRequest, "/chat", path, 1)); err != nil {
		return raw.(*net.TCPConn), nil, err
	}
	res, err := http.ReadResponse(bufio.NewReader(raw), nil)
	return raw.(*net.TCPConn), res, err
}

// times returns a number of tunnels: the small one by default.
func times(small, full int) int {
	if os.Getenv("WSPROXY_STRESS") == "full" {
		return full
	}
	return small
}

// leavesNothing checks that the process is back where it was.
func leavesNothing(t *testing.T, test func()) {
	t.Helper()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	goroutines, descriptors := runtime.NumGoroutine(), openDescriptors()
	test()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if runtime.NumGoroutine() <= goroutines && openDescriptors() <= descriptors {
			return
		}
	}
	assert.LessOrEqual(t, runtime.NumGoroutine(), goroutines, "goroutines")
	assert.LessOrEqual(t, openDescriptors(), descriptors, "descriptors")
}

func TestTunnelsOneAfterAnotherLeaveNothingBehind(t *testing.T) {
	n := times(300, 10_000)
	for _, detached := range []bool{false, true} {
		t.Run(fmt.Sprintf("detached %t", detached), func(t *testing.T) {
			c := newCourse(t)
			stands, paths := make([]*stand, len(ways)), make([]string, len(ways))
			leavesNothing(t, func() {
				for i := range n / 2 {
					w := i % len(ways)
					if stands[w] == nil || ways[w].own {
						stands[w], paths[w] = c.newStand(t, w, detached)
					}
					require.NoError(t, c.run(w, stands[w], paths[w], func() {}), ways[w].name)
				}
				for w, s := range stands {
					eventually(t, func() bool { return s.p.Stats().Live+s.p.Stats().Handshakes == 0 }, "%s: a tunnel is left", ways[w].name)
				}
			})
		})
	}
}

func TestTunnelsSideBySideLeaveNothingBehind(t *testing.T) {
	n := times(200, 2_000)
	c := newCourse(t)
	stands, paths := make([]*stand, len(ways)), make([]string, len(ways))
	leavesNothing(t, func() {
		var all, open sync.WaitGroup
		open.Add(n)
		errs := make(chan error, n)
		for i := range n {
			w := i % len(ways)
			if stands[w] == nil || ways[w].own {
				stands[w], paths[w] = c.newStand(t, w, false)
			}
			s, path := stands[w], paths[w]
			all.Go(func() {
				errs <- c.run(w, s, path, func() {
					open.Done()
					open.Wait() // so that all are open at once
				})
			})
		}
		all.Wait()
		close(errs)
		for err := range errs {
			require.NoError(t, err)
		}
		for w, s := range stands {
			eventually(t, func() bool { return s.p.Stats().Live+s.p.Stats().Handshakes == 0 }, "%s: a tunnel is left", ways[w].name)
		}
	})
}
