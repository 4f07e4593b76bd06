package soak_test

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var (
	soakFor  = testkit.Scale(time.Second, 10*time.Second)
	soakOver = flag.String("soak.links", "", "TestSoak runs only over links whose name contains this `text`, such as TLS")
	soakSeed = flag.Uint64("soak.seed", 0, "the `number` that TestSoak's tunnels depend on; 0: a random one")
)

func init() {
	flag.Func("soak", "how long TestSoak lasts, a `duration` (default 1s, 10s if WSPROXY_STRESS=full)", func(value string) (err error) {
		if soakFor, err = time.ParseDuration(value); err != nil {
			return err
		}
		// Ten minutes are also the limit of go test.
		limit := flag.Lookup("test.timeout").Value
		if now, enough := limit.(flag.Getter).Get().(time.Duration), soakFor+5*time.Minute; 0 < now && now < enough {
			err = limit.Set(enough.String())
		}
		return err
	})
}

// soakWorkers returns how many tunnels are open at once. With the race detector and
// 32 of them, the largest do not end within soakPatience on two busy cores.
func soakWorkers() int {
	if testkit.RaceEnabled() {
		return 8
	}
	return 32
}

// soakIsLong reports whether the run is long enough to even out the effects of
// the garbage collector and the scheduler. A short soak only logs them.
func soakIsLong() bool { return soakFor >= time.Minute }

// A soak runs many tunnels of all kinds at once, over and over.
type soak struct {
	seed    uint64
	kinds   []*soakKind
	tunnels sync.Map // uint64 to *soakTunnel: the open tunnels
	last    atomic.Uint64
	closes  atomic.Int64
	stays   atomic.Int64

	mu       sync.Mutex
	stop     func()
	failures []string
	total    soakTotal
}

// soakLinks are the links of the soak.
var soakLinks = append(slices.Clip(testkit.Links), testkit.Link{Name: "TLS 1.2 both", TLSClient: true, TLSUpstream: true, MaxTLS: tls.VersionTLS12})

// TestSoak runs tunnels of every kind, with messages of all sizes, which end in
// every way, and checks each byte at both ends. Other tunnels stay open meanwhile.
// Afterwards descriptors, goroutines and memory are back where they were.
//
//	go test -run TestSoak -v ./internal/tests/soak -soak=10m -soak.links=TLS
func TestSoak(t *testing.T) {
	s := &soak{seed: *soakSeed}
	if s.seed == 0 {
		s.seed = rand.Uint64()
	}
	t.Logf("-soak=%v -soak.seed=%d", soakFor, s.seed)
	for _, l := range soakLinks {
		for i := range 4 {
			if detached := i&1 != 0; strings.Contains(l.Name, *soakOver) && (testkit.OwnSocket(l) || !detached) {
				s.serve(t, l, detached, i&2 != 0)
			}
		}
	}
	require.NotEmpty(t, s.kinds, "-soak.links=%s", *soakOver)
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	goroutines, descriptors := runtime.NumGoroutine(), testkit.Descriptors()
	atRest := func() soakSample {
		t.Helper()
		for deadline := time.Now().Add(testkit.Patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if runtime.NumGoroutine() <= goroutines && testkit.Descriptors() <= descriptors {
				break
			}
		}
		for range 3 { // a sync.Pool keeps items for two collections
			runtime.GC()
		}
		now := takeSoakSample()
		require.LessOrEqual(t, now.goroutines, goroutines, "goroutines at rest, seed %d", s.seed)
		require.LessOrEqual(t, now.descriptors, descriptors, "descriptors at rest, seed %d", s.seed)
		goroutines, descriptors = now.goroutines, now.descriptors // excludes what other tests left
		return now
	}

	s.run(t, min(soakFor/6, 10*time.Second), nil)
	before := atRest()
	s.total = soakTotal{}
	var samples []soakSample
	s.run(t, soakFor, func(now soakSample) { samples = append(samples, now) })
	for _, k := range s.kinds {
		k.Proxy.Shutdown(testkit.EndedContext()) // its loops do not linger
	}
	after := atRest()

	t.Logf("%v", &s.total)
	t.Logf("at rest before: %v", before)
	t.Logf("at rest after:  %v", after)
	if soakIsLong() {
		assert.LessOrEqual(t, after.alloc, before.alloc+2<<20, "live heap at rest, seed %d", s.seed)
		assert.LessOrEqual(t, after.inuse, before.inuse+4<<20, "heap in use at rest, seed %d", s.seed)
		// The portable relay has only a millisecond to tell the two apart.
		assert.LessOrEqual(t, s.total.softened, 3+s.total.resets/50, "resets seen as an end in order, of %d, seed %d", s.total.resets, s.seed)
	}
	s.compareQuarters(t, samples)

	var opened int64
	for _, k := range s.kinds {
		stats := k.Proxy.Stats()
		assert.Zero(t, stats.Live+stats.Handshakes, "%s: tunnels left, seed %d", k.name, s.seed)
		opened += stats.Opened
	}
	assert.EqualValues(t, s.begun(), opened, "tunnels opened, seed %d", s.seed)
	assert.EqualValues(t, s.begun(), s.closes.Load(), "calls of OnClose, seed %d", s.seed)
}

// serve runs one kind of proxy and its upstream.
func (s *soak) serve(t *testing.T, l testkit.Link, detached, framed bool) {
	k := &soakKind{name: l.Name, link: l, detached: detached, framed: framed}
	opts := []wsproxy.Option{wsproxy.WithCloseTimeout(soakPatience), testkit.OnOpen(func(tunnel *wsproxy.Tunnel, _ *http.Request) {
		if tun := s.find(tunnel.Path()); tun != nil {
			tun.tunnel.Store(tunnel)
		}
	}), testkit.OnClose(func(tunnel *wsproxy.Tunnel, ending wsproxy.Ending) {
		s.closes.Add(1)
		if tunnel.Path() == stayPath {
			s.judgeStay(ending)
		} else if tun := s.find(tunnel.Path()); tun != nil && tun.closes.Add(1) == 1 {
			tun.ended <- ending
		} else {
			s.fail("OnClose of %s once more, with %+v", tunnel.Path(), ending)
		}
	})}
	if detached {
		k.name += ", detached"
		opts = append(opts, wsproxy.WithDetached(), wsproxy.WithDialContext(dialNarrow))
	}
	if framed {
		k.name += ", frame by frame"
		opts = append(opts, wsproxy.WithPing(20*time.Millisecond, soakPatience), wsproxy.WithMaxClientMessageSize(soakLimit), wsproxy.WithMaxUpstreamMessageSize(soakLimit))
	}
	k.Rig = l.Start(t, func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithCancel(r.Context())
			defer cancel()
			if tun := s.find(r.URL.Path); tun != nil {
				defer context.AfterFunc(tun.ctx, cancel)()
			}
			next.ServeHTTP(w, r.WithContext(ctx))
		})
	}, opts...)
	if k.HTTP2 != nil {
		k.connect(t)
	}
	s.kinds = append(s.kinds, k)
	go func() {
		for conn := range k.Upstream.Conns {
			go s.accept(conn)
		}
	}()
}

// dialNarrow dials with a small send buffer, so that the proxy soon waits for
// an upstream that does not read.
func dialNarrow(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetWriteBuffer(soakNarrow)
	}
	return conn, err
}

// accept plays the upstream's end of a tunnel.
func (s *soak) accept(conn *testkit.Peer) {
	conn.SetDeadline(time.Now().Add(soakPatience))
	r, err := http.ReadRequest(conn.Reader)
	if err != nil {
		conn.Close()
		s.fail("the upstream got no request: %v", err)
		return
	}
	if r.URL.Path == stayPath {
		s.echo(conn)
		return
	}
	tun := s.find(r.URL.Path)
	if tun == nil {
		conn.Close()
		s.fail("the upstream got a request for %s, which is over", r.URL.Path)
		return
	}
	end := tun.ends[soakUpstream]
	end.Peer = conn
	accept := testkit.Accept(r.Header.Get("Sec-WebSocket-Key"))
	end.run(strings.Replace(testkit.SampleSwitch, testkit.SampleAccept, accept, 1), func() error { return nil })
}

// find returns an open tunnel by its path.
func (s *soak) find(path string) *soakTunnel {
	var id uint64
	fmt.Sscanf(path, "/%d", &id)
	tun, _ := s.tunnels.Load(id)
	found, _ := tun.(*soakTunnel)
	return found
}

// fail ends the run.
func (s *soak) fail(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = append(s.failures, fmt.Sprintf(format, args...))
	s.stop()
}

// run makes workers open one tunnel after the other for some time, and takes
// samples meanwhile.
func (s *soak) run(t *testing.T, d time.Duration, sample func(soakSample)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	s.mu.Lock()
	s.stop = cancel
	s.mu.Unlock()
	var workers sync.WaitGroup
	for range soakWorkers() {
		workers.Go(func() {
			for ctx.Err() == nil {
				s.one()
			}
		})
	}
	s.stay(ctx, &workers)
	if sample != nil {
		ticks := time.NewTicker(max(d/200, 50*time.Millisecond))
		defer ticks.Stop()
		minute := time.NewTicker(time.Minute)
		defer minute.Stop()
		for ctx.Err() == nil {
			select {
			case <-ticks.C:
				sample(takeSoakSample())
			case <-minute.C:
				s.mu.Lock()
				t.Logf("%d tunnels, %d messages, %d MB; %v", s.total.tunnels, s.total.messages, s.total.bytes/1e6, takeSoakSample())
				s.mu.Unlock()
			case <-ctx.Done():
			}
		}
	}
	workers.Wait()
	s.mu.Lock()
	failures := strings.Join(s.failures, "\n")
	s.mu.Unlock()
	require.Empty(t, failures)
	testkit.Eventually(t, func() bool { return s.closes.Load() >= s.begun() }, "%d calls of OnClose, want %d", s.closes.Load(), s.begun())
}

// one runs one tunnel.
func (s *soak) one() {
	tun := s.plan(s.last.Add(1))
	s.tunnels.Store(tun.id, tun)
	defer s.tunnels.Delete(tun.id)
	ending, err := tun.play()
	if err != nil {
		s.fail("%s: %v", tun.name, err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total.add(tun, ending)
}
