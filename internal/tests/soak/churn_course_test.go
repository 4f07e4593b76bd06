package soak_test

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A way is one way for a tunnel, or a handshake, to end. upstream runs after
// the request has been read, client after the response.
type way struct {
	name     string
	opts     []wsproxy.Option
	timeout  func(time.Duration) wsproxy.Option // one more option, with the course's timeout
	response string                             // the upstream's response; default: SampleSwitch
	upstream func(conn *testkit.Peer)
	client   func(conn *testkit.Peer, s *fixture)
	own      bool // needs a separate proxy
	either   bool // the tunnel may end before the client has its 101
	unopened bool // it may end before the upstream's 101

	reasons []wsproxy.Reason // the ending has one of them
	cut     bool             // the proxy closes an end that does not close by itself
}

func readAll(conn *testkit.Peer)  { io.Copy(io.Discard, conn) }
func closeNow(conn *testkit.Peer) { conn.Close() }

func halfClose(conn *testkit.Peer) {
	conn.CloseWrite()
	readAll(conn)
}

func sayAndHalfClose(conn *testkit.Peer) {
	io.WriteString(conn, "rest")
	halfClose(conn)
}

// talkOn keeps sending after the other end has closed.
func talkOn(conn *testkit.Peer) {
	readAll(conn)
	for {
		if _, err := io.WriteString(conn, "more"); err != nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func clientDoes(act func(*testkit.Peer)) func(*testkit.Peer, *fixture) {
	return func(conn *testkit.Peer, _ *fixture) { act(conn) }
}

var (
	clientFirst   = []wsproxy.Reason{wsproxy.ReasonClientClosed}
	upstreamFirst = []wsproxy.Reason{wsproxy.ReasonUpstreamClosed}
	eitherFirst   = []wsproxy.Reason{wsproxy.ReasonClientClosed, wsproxy.ReasonUpstreamClosed}
	cutSoon       = wsproxy.WithCloseTimeout(2 * time.Millisecond)
)

// aThird returns timeout for a third of the time, for a timeout that does not
// bound the handshake.
func aThird(timeout func(time.Duration) wsproxy.Option) func(time.Duration) wsproxy.Option {
	return func(d time.Duration) wsproxy.Option { return timeout(d / 3) }
}

var ways = []way{
	{name: "client first", client: clientDoes(closeNow), upstream: readAll, reasons: clientFirst},
	{name: "upstream first", client: clientDoes(readAll), upstream: closeNow, reasons: upstreamFirst},
	{name: "both at once", client: clientDoes(closeNow), upstream: closeNow, reasons: eitherFirst},
	{name: "client resets", client: clientDoes((*testkit.Peer).Reset), upstream: readAll, reasons: clientFirst},
	{name: "upstream resets", client: clientDoes(readAll), upstream: (*testkit.Peer).Reset, reasons: upstreamFirst},
	{name: "both reset", client: clientDoes((*testkit.Peer).Reset), upstream: (*testkit.Peer).Reset, reasons: eitherFirst},
	{name: "client half-closes", client: clientDoes(halfClose), upstream: func(conn *testkit.Peer) { readAll(conn); sayAndHalfClose(conn) },
		reasons: clientFirst},
	{name: "upstream half-closes", client: clientDoes(func(conn *testkit.Peer) { readAll(conn); sayAndHalfClose(conn) }), upstream: halfClose,
		reasons: upstreamFirst},
	{name: "half-close, then reset", client: clientDoes(func(conn *testkit.Peer) { conn.CloseWrite(); conn.Reset() }), upstream: sayAndHalfClose,
		reasons: eitherFirst},
	{name: "read timeout", timeout: wsproxy.WithReadTimeout, opts: []wsproxy.Option{cutSoon}, client: clientDoes(readAll), upstream: readAll,
		either: true, unopened: true, reasons: []wsproxy.Reason{wsproxy.ReasonReadTimeout}, cut: true},
	{name: "max lifetime", timeout: aThird(wsproxy.WithMaxLifetime), opts: []wsproxy.Option{cutSoon}, client: clientDoes(readAll), upstream: readAll,
		either: true, reasons: []wsproxy.Reason{wsproxy.ReasonMaxLifetime}, cut: true},
	{name: "close timeout", opts: []wsproxy.Option{cutSoon}, client: clientDoes(halfClose), upstream: talkOn, reasons: clientFirst, cut: true},
	{name: "context", client: func(conn *testkit.Peer, s *fixture) { s.end(); readAll(conn) }, upstream: readAll, own: true,
		reasons: []wsproxy.Reason{wsproxy.ReasonContextDone}},
	{name: "Shutdown", client: func(conn *testkit.Peer, s *fixture) { s.p.Shutdown(testkit.EndedContext()); readAll(conn) }, upstream: readAll, own: true,
		reasons: []wsproxy.Reason{wsproxy.ReasonShutdown}},
	{name: "Close", client: func(conn *testkit.Peer, s *fixture) { s.p.Close(); readAll(conn) }, upstream: readAll, own: true,
		reasons: []wsproxy.Reason{wsproxy.ReasonKilled}},
	{name: "refusal", response: "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", client: clientDoes(readAll), upstream: readAll},
	{name: "wrong accept", response: strings.Replace(testkit.SampleSwitch, testkit.SampleAccept, testkit.SampleKey, 1), client: clientDoes(readAll), upstream: readAll},
	{name: "no response", response: " ", client: clientDoes(readAll), upstream: (*testkit.Peer).Reset},
}

// A fixture is a proxy, and what a way needs to end the proxy's tunnels.
type fixture struct {
	p   *wsproxy.Proxy
	ctx context.Context
	end func() // cancels the context, and closes tunnels that it does not end
}

// A course runs ways through one server and one upstream. The server finds the
// fixture, and the upstream the way, by the path of the request.
type course struct {
	server   string
	tls      *tls.Config // for clients, nil without TLS
	timeout  time.Duration
	patience time.Duration
	upstream net.Listener
	handlers sync.WaitGroup

	mu       sync.Mutex
	fixtures map[string]*fixture
	next     int
	counts   []wayCount // by way
	wrong    []string   // unexpected endings
}

type wayCount struct{ tried, opened, ended int }

// newCourse returns a course whose ways use timeout to end tunnels. Its server
// uses TLS if l has TLS for the client.
func newCourse(t *testing.T, l testkit.Link, timeout time.Duration) *course {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	c := &course{upstream: listener, fixtures: map[string]*fixture{}, timeout: timeout,
		patience: testkit.Patience * time.Duration(testkit.Scale(1, 3)), counts: make([]wayCount, len(ways))}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		s := c.fixtures[r.URL.Path]
		c.mu.Unlock()
		s.p.ServeHTTP(w, r.WithContext(s.ctx))
	}))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	if l.TLSClient {
		_, c.tls = testkit.TLS()
		testkit.StartTLS(s)
	} else {
		s.Start()
	}
	c.server = s.Listener.Addr().String()
	c.handlers.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			c.handlers.Go(func() { c.serve(testkit.NewPeer(conn)) })
		}
	})
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
		listener.Close()
		c.handlers.Wait()
	})
	return c
}

// serve plays the upstream in one tunnel.
func (c *course) serve(conn *testkit.Peer) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(c.patience))
	r, err := http.ReadRequest(conn.Reader)
	if err != nil {
		return
	}
	var w, id int
	fmt.Sscanf(r.URL.Path, "/%d/%d", &w, &id)
	response := ways[w].response
	if response == "" {
		response = testkit.SampleSwitch
	}
	io.WriteString(conn, response)
	if response == testkit.SampleSwitch {
		io.ReadFull(conn, make([]byte, len("go")))
	}
	ways[w].upstream(conn)
}

// newFixture returns a fixture for a way, and its path.
func (c *course) newFixture(t *testing.T, w int, detached bool) (*fixture, string) {
	way := ways[w]
	opts := append(c.count(w, detached), way.opts...)
	if way.timeout != nil {
		opts = append(opts, way.timeout(c.timeout))
	}
	if detached {
		opts = append(opts, wsproxy.WithDetached())
	}
	s := &fixture{p: testkit.NewProxy(t, "http://"+c.upstream.Addr().String(), opts...)}
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
	c.fixtures[path] = s
	return s, path
}

// count returns options that record how the tunnels of a way end.
func (c *course) count(w int, detached bool) []wsproxy.Option {
	way, reasons := ways[w], ways[w].reasons
	if detached && slices.Contains(reasons, wsproxy.ReasonContextDone) {
		reasons = []wsproxy.Reason{wsproxy.ReasonKilled} // the context does not end a detached tunnel
	}
	return []wsproxy.Option{testkit.OnOpen(func(*wsproxy.Tunnel, *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.counts[w].opened++
	}), testkit.OnClose(func(_ *wsproxy.Tunnel, ending wsproxy.Ending) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.counts[w].ended++
		if !slices.Contains(reasons, ending.Reason) || way.cut && !errors.Is(ending.Err, wsproxy.ErrCut) {
			c.wrong = append(c.wrong, fmt.Sprintf("%s, detached %t: %v, %v", way.name, detached, ending.Reason, ending.Err))
		}
	})}
}

// awaitEndings waits until no tunnel is open.
func (c *course) awaitEndings(t *testing.T) {
	t.Helper()
	for path, s := range c.fixtures {
		gone := func() bool { return s.p.Stats().Live+s.p.Stats().Handshakes == 0 }
		if !gone() {
			testkit.Eventually(t, gone, "%s: a tunnel is still open", path)
		}
		s.p.Shutdown(testkit.EndedContext()) // its loops do not linger
	}
}

// allRight reports whether all tunnels so far ended as expected.
func (c *course) allRight() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.wrong) == 0
}

// judge checks, once no tunnel is open, that each way had its tunnels and that
// they ended as expected.
func (c *course) judge(t *testing.T) {
	t.Helper()
	for w, way := range ways {
		n := c.counts[w]
		assert.Equal(t, n.opened, n.ended, "%s: endings", way.name)
		switch {
		case way.response != "":
			assert.Zero(t, n.opened, "%s: tunnels", way.name)
		case way.unopened:
			assert.Positive(t, n.opened, "%s: tunnels, of %d", way.name, n.tried)
			t.Logf("%s: %d tunnels, of %d", way.name, n.opened, n.tried)
		default:
			assert.Equal(t, n.tried, n.opened, "%s: tunnels", way.name)
		}
	}
	assert.Empty(t, c.wrong, "endings, %d of them wrong", len(c.wrong))
}

// run plays the client in one tunnel. It calls ready between the response and
// the end.
func (c *course) run(w int, s *fixture, path string, ready func()) error {
	c.mu.Lock()
	c.counts[w].tried++
	c.mu.Unlock()
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
	case switched != (ways[w].response == ""):
		return fmt.Errorf("%s: status %s", ways[w].name, res.Status)
	case switched:
		io.WriteString(conn, "go")
	}
	ways[w].client(conn, s)
	return nil
}

func (c *course) ask(path string) (*testkit.Peer, *http.Response, error) {
	raw, err := net.Dial("tcp", c.server)
	if err != nil {
		return nil, nil, err
	}
	raw.SetDeadline(time.Now().Add(c.patience))
	conn := testkit.NewPeer(raw)
	if c.tls != nil {
		conn = testkit.NewPeer(tls.Client(raw, c.tls))
	}
	if _, err := io.WriteString(conn, strings.Replace(testkit.SampleRequest, "/chat", path, 1)); err != nil {
		return conn, nil, err
	}
	res, err := http.ReadResponse(conn.Reader, nil)
	return conn, res, err
}
