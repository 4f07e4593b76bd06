package wsproxytest

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/memconn"
)

// A Proxy forwards WebSockets between clients and a server, and calls a Handler
// for each frame. It is also an http.Handler, for use in a mux. Its methods are
// safe for concurrent use, but Refuse, Tunnel and URL can fail the test and must
// be called on the test's goroutine.
type Proxy struct {
	t       testing.TB
	inner   *wsproxy.Proxy
	handler *interceptor
	front   *http.Server
	back    *http.Server // nil for NewURL
	entry   *memconn.Listener
	client  *http.Transport
	serving tracker // requests, at either end

	mu       sync.Mutex
	over     bool          // the test has ended
	live     []*Tunnel     // all tunnels, including those that are not open yet
	opened   []*Tunnel     // by N
	changed  chan struct{} // closed and replaced when a tunnel opens
	refusals []int         // statuses of handshakes that failed
	refuse   int           // handshakes still to be refused, negative: all
	status   int
	url      string
	seeds    []string

	logging sync.Mutex
	silent  bool // the test may have ended and accepts no more logs
}

// New serves server in memory and returns a Proxy to it. server may be any handler
// that upgrades. An [http.Server] calls it.
//
// A nil h forwards everything. opts configure the wsproxy.Proxy inside, whose
// read, send and close timeouts are off by default. WithDialContext has no effect,
// because connections to server are in memory.
//
// When the test ends, all tunnels are cut. If a Handler has not returned 5 seconds
// later, the test fails and logs the Handler's stack. A failed test logs the
// transcript and the Handlers' seeds.
func New(t testing.TB, server http.Handler, h Handler, opts ...wsproxy.Option) *Proxy {
	t.Helper()
	if server == nil {
		t.Fatalf("wsproxytest: New without a server, want an http.Handler; NewURL is for a running one")
	}
	p := newProxy(t, h)
	exit := memconn.Listen(memconn.Size)
	opts = append(slices.Clone(opts), wsproxy.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := exit.Dial(ctx)
		if err != nil {
			return nil, err
		}
		upgraded, _ := ctx.Value(upgradedKey{}).(*atomic.Pointer[Tunnel])
		return &serverConn{conn, upgraded}, nil
	}))
	p.back = &http.Server{Handler: p.serving.wrap(server), ErrorLog: log.New(testLog{p}, "server: ", 0)}
	p.start("http://server.test", opts)
	go p.back.Serve(exit)
	return p
}

// NewURL is like [New] with a running server. target and opts are those of
// [wsproxy.New].
func NewURL(t testing.TB, target string, h Handler, opts ...wsproxy.Option) *Proxy {
	t.Helper()
	p := newProxy(t, h)
	p.start(target, opts)
	return p
}

func newProxy(t testing.TB, h Handler) *Proxy {
	p := &Proxy{t: t, entry: memconn.Listen(memconn.Size), changed: make(chan struct{})}
	p.handler = &interceptor{handler: h, proxy: p, there: map[string]int{}}
	p.client = &http.Transport{DialContext: p.Dial}
	return p
}

func (p *Proxy) start(target string, opts []wsproxy.Option) {
	p.t.Helper()
	logger := slog.New(slog.NewTextHandler(testLog{p}, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
	var err error
	p.inner, err = wsproxy.New(target, append([]wsproxy.Option{
		wsproxy.WithReadTimeout(0), wsproxy.WithSendTimeout(0), wsproxy.WithCloseTimeout(0), wsproxy.WithLogger(logger)}, opts...)...)
	if err != nil {
		p.t.Fatalf("wsproxytest: %v", err)
	}
	p.handler.next = p.inner
	p.front = &http.Server{Handler: p.serving.wrap(p), ErrorLog: log.New(testLog{p}, "proxy: ", 0)}
	p.t.Cleanup(p.end)
	go p.front.Serve(p.entry)
}

func withoutTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// Dial connects to the proxy in memory. It ignores network and addr, so that it
// fits the dialers of WebSocket clients. The connection is not encrypted, so use
// ws URLs. The caller must close it.
func (p *Proxy) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := p.entry.Dial(ctx)
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// Client returns an HTTP client that connects with Dial, for plain requests and
// for libraries that upgrade over an http.Client.
func (p *Proxy) Client() *http.Client { return &http.Client{Transport: p.client} }

// URL returns the proxy's URL, ws://127.0.0.1 with a port, for clients that need a
// socket. The proxy starts to listen at the first call. In a synctest bubble the
// clock then stops until the test ends.
func (p *Proxy) URL() string {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.url == "" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			p.t.Fatalf("wsproxytest: %v", err)
		}
		p.url = "ws://" + l.Addr().String()
		go p.front.Serve(l)
	}
	return p.url
}

// ServeHTTP serves one request. It calls the Handler for the frames of a
// WebSocket, and forwards other requests as a wsproxy.Proxy does.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if isWebSocket(r) {
		if refused, status := p.takeRefusal(); refused {
			refuse(w, status)
			return
		}
	}
	p.handler.ServeHTTP(w, r)
}

// Refuse makes the next n handshakes fail with status, which must be from 200 to
// 599 or 0. With 0 their connections are reset. If n is negative, all handshakes
// fail until Refuse(0, 0) is called. The server does not see them.
func (p *Proxy) Refuse(n, status int) {
	p.t.Helper()
	if status != 0 && (status < 200 || status > 599) {
		p.t.Fatalf("wsproxytest: Refuse with status %d, want 0 for a reset, or 200 to 599", status)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse, p.status = n, status
}

func (p *Proxy) takeRefusal() (refused bool, status int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.refuse == 0 {
		return false, 0
	}
	if p.refuse > 0 {
		p.refuse--
	}
	p.refusals = append(p.refusals, p.status)
	return true, p.status
}

func refuse(w http.ResponseWriter, status int) {
	if status != 0 {
		http.Error(w, strings.ToLower(http.StatusText(status)), status)
		return
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	resetConn(conn)
}

// tunnelWait is how long Tunnel waits.
const tunnelWait = 10 * time.Second

// Tunnel returns the nth tunnel, counted from 1 in the order in which they
// opened. It waits until that tunnel opens, and fails the test after 10 seconds.
// In a synctest bubble these are seconds of the bubble's clock.
func (p *Proxy) Tunnel(n int) *Tunnel {
	p.t.Helper()
	if n < 1 {
		p.t.Fatalf("wsproxytest: Tunnel(%d), want a number from 1", n)
	}
	timer := time.NewTimer(tunnelWait)
	defer timer.Stop()
	for {
		p.mu.Lock()
		opened, changed := p.opened, p.changed
		p.mu.Unlock()
		if len(opened) >= n {
			// The test must not act on the tunnel before the client has the 101.
			t := opened[n-1]
			changed = t.ready
			select {
			case <-t.ready:
				return t
			default:
			}
		}
		select {
		case <-changed:
		case <-timer.C:
			p.t.Fatalf("wsproxytest: no tunnel %d within %v: %s", n, tunnelWait, p.summary())
		}
	}
}

// summary describes what has happened so far.
func (p *Proxy) summary() string {
	p.mu.Lock()
	tunnels, refusals := p.opened, slices.Clone(p.refusals)
	p.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "%d opened", len(tunnels))
	for i, status := range refusals {
		if i == 0 {
			fmt.Fprintf(&b, ", %d handshakes failed:", len(refusals))
		}
		if i == 10 {
			b.WriteString(" …")
			break
		}
		switch status {
		case 0:
			b.WriteString(" no response")
		default:
			fmt.Fprintf(&b, " %d", status)
		}
	}
	if len(tunnels) > 0 {
		fmt.Fprintf(&b, "; the transcript so far:\n%s", transcript(tunnels).shortened())
	}
	return b.String()
}

// Transcript returns the transcript so far. If a tunnel has ended and its Handler
// has not returned, Transcript waits for the Handler, for at most a second.
func (p *Proxy) Transcript() Transcript {
	p.mu.Lock()
	opened := p.opened
	p.mu.Unlock()
	timeout := time.NewTimer(time.Second)
	defer timeout.Stop()
	for _, t := range opened {
		for _, d := range t.to {
			if t.isOver() && !d.awaitEnd(timeout.C) {
				return transcript(opened)
			}
		}
	}
	return transcript(opened)
}

// track makes the end of the test stop t. It reports false if the test has ended.
func (p *Proxy) track(t *Tunnel) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.live = append(p.live, t)
	return !p.over
}

func (p *Proxy) noteOpened(t *Tunnel) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.opened = append(p.opened, t)
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Proxy) noteRefusal(status int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refusals = append(p.refusals, status)
}

func (p *Proxy) noteSeed(name string, seed uint64) {
	text := fmt.Sprintf("%s has seed %d", name, seed)
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Contains(p.seeds, text) {
		p.seeds = append(p.seeds, text)
	}
}
