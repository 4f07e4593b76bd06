//go:build unix

package upstream_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// dialCounts records when each address was dialed.
type dialCounts struct {
	mu    sync.Mutex
	times map[string][]time.Time
}

func (d *dialCounts) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	d.mu.Lock()
	d.times[addr] = append(d.times[addr], time.Now())
	d.mu.Unlock()
	return new(net.Dialer).DialContext(ctx, network, addr)
}

func (d *dialCounts) of(addr string) []time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.times[addr])
}

// roundTrip opens a tunnel and reads the echo of a word.
func roundTrip(addr string) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.(*net.TCPConn).SetLinger(0) // leaves no port in TIME_WAIT
	conn.SetDeadline(time.Now().Add(testkit.Patience))
	if _, err := io.WriteString(conn, testkit.SampleRequest+"hello"); err != nil {
		return err
	}
	br := bufio.NewReader(conn)
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		return err
	}
	if res.StatusCode == http.StatusGatewayTimeout {
		return errHung
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("status %s", res.Status)
	}
	br.Discard(len("hello")) // fails if the server is killed meanwhile
	return nil
}

// errHung is a 504, which requests to a hung server get.
var errHung = errors.New("status 504")

// Servers in separate processes are killed and restarted, hang (the kernel
// accepts connections for a stopped process), recover, respond with 503, and
// are slow.
func TestNoClientSeesAnErrorWhileOneHealthyServerIsLeft(t *testing.T) {
	t.Parallel()
	clients := testkit.Scale(50, 200)
	if testkit.RaceEnabled() {
		clients = 50
	}
	const failTimeout = 300 * time.Millisecond
	killed, stopped, busy, slow, healthy := startBackend(t, testkit.HeldAddr(t)), startBackend(t, "127.0.0.1:0"),
		startBackend(t, "127.0.0.1:0"), startBackend(t, "127.0.0.1:0"), startBackend(t, "127.0.0.1:0")
	var servers []wsproxy.Server
	for _, b := range []*backend{killed, stopped, busy, slow, healthy} {
		servers = append(servers, wsproxy.Server{Addr: b.addr, FailTimeout: failTimeout})
	}
	servers[4].MaxFails = wsproxy.NeverDown // a slow machine must not mark the healthy server down
	u := testkit.Servers(t, wsproxy.RoundRobin(), servers...)
	dials := &dialCounts{times: map[string][]time.Time{}}
	_, proxy := testkit.ServeProxy(t, "http://app.example", wsproxy.WithUpstream(u), wsproxy.WithDialContext(dials.dial),
		wsproxy.WithReadTimeout(testkit.Scale(2*time.Second, 4*time.Second)), // only the hung server may exceed it
		wsproxy.WithRetryStatus(503))

	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	var connects, errs, late atomic.Int64
	for range clients {
		all.Go(func() {
			pace := time.NewTicker(100 * time.Millisecond)
			defer pace.Stop()
			for ctx.Err() == nil {
				connects.Add(1)
				if err := roundTrip(proxy); err == errHung {
					late.Add(1)
				} else if err != nil && errs.Add(1) < 10 {
					t.Errorf("a client saw: %v", err)
				}
				<-pace.C
			}
		})
	}
	available := func(i int) func() bool { return func() bool { return u.Servers()[i].Available } }
	unavailable := func(i int) func() bool { return func() bool { return !u.Servers()[i].Available } }

	require.NoError(t, stopped.Process.Signal(syscall.SIGSTOP))
	killed.kill()
	testkit.Eventually(t, unavailable(0), "the killed server counts as up")
	testkit.Eventually(t, func() bool { return u.Servers()[0].Tunnels == 0 }, "a client that took the dead server for well keeps it")
	since := time.Now() // later dials to it are probes
	testkit.Eventually(t, unavailable(1), "the hung server counts as up")
	busy.set(t, "503")
	before := len(dials.of(busy.addr))
	testkit.Eventually(t, func() bool { return len(dials.of(busy.addr)) > before+10 }, "no client reaches the busy server")
	assert.Zero(t, u.Servers()[2].Fails, "a status counts")
	slow.set(t, "slow")

	const windows = 4
	var probes []time.Time
	testkit.Eventually(t, func() bool {
		probes = slices.DeleteFunc(dials.of(killed.addr), func(at time.Time) bool { return at.Before(since) })
		return time.Since(since) > windows*failTimeout && len(probes) >= 2
	}, "the dead server is not tried again")
	assert.LessOrEqual(t, len(probes), 1+int(time.Since(since)/failTimeout), "probes: one in each fail timeout")

	startBackend(t, killed.addr)
	require.NoError(t, stopped.Process.Signal(syscall.SIGCONT))
	busy.set(t, "healthy")
	for i, what := range []string{"restarted", "continued", "idle"} {
		testkit.Eventually(t, available(i), "the %s server stays down", what)
		before := len(dials.of(servers[i].Addr))
		testkit.Eventually(t, func() bool { return len(dials.of(servers[i].Addr)) > before+10 }, "no client reaches the %s server", what)
	}
	cancel()
	all.Wait()
	assert.Zero(t, errs.Load(), "of %d connects", connects.Load())
	t.Logf("%d connects, %d that the hung server kept, %d probes of the dead server", connects.Load(), late.Load(), len(probes))
	testkit.Eventually(t, func() bool {
		return !slices.ContainsFunc(u.Servers(), func(s wsproxy.ServerState) bool { return s.Tunnels != 0 })
	}, "tunnels still count: %v", u.Servers())
}

func TestServersCanChangeWhileTunnelsOpenAndEnd(t *testing.T) {
	const tunnels, rounds = 1000, 2
	var servers []wsproxy.Server
	for i := range 6 {
		servers = append(servers, wsproxy.Server{Addr: testkit.Serve(t, testkit.Echo(fmt.Sprint(i)))})
	}
	u := testkit.Servers(t, wsproxy.LeastTunnels(), servers...)
	p, proxy := testkit.ServeProxy(t, "http://app.example", wsproxy.WithUpstream(u), wsproxy.WithReadTimeout(testkit.Patience))

	changing, stop := context.WithCancel(t.Context())
	changed := make(chan int)
	go func() {
		n := 0
		for tick := time.NewTicker(2 * time.Millisecond); changing.Err() == nil; n++ {
			<-tick.C
			from := n % 5
			if err := u.SetServers(servers[from : from+2]...); err != nil {
				t.Error(err)
			}
		}
		changed <- n
	}()

	var open, all sync.WaitGroup
	open.Add(tunnels)
	for range tunnels {
		all.Go(func() {
			for round := range rounds {
				if err := echoTunnel(proxy, func() {
					if round == 0 { // first all at once, then independently
						open.Done()
						open.Wait()
					}
				}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	stop()
	n := <-changed
	require.NoError(t, u.SetServers(servers...))
	testkit.Eventually(t, func() bool {
		return !slices.ContainsFunc(u.Servers(), func(s wsproxy.ServerState) bool { return s.Tunnels != 0 })
	}, "tunnels still count: %v", u.Servers())
	assert.EqualValues(t, tunnels*rounds, p.Stats().Opened)
	t.Logf("%d changes of the servers", n)
}

// echoTunnel opens a tunnel, reads an echo, calls opened, and reads another
// echo.
func echoTunnel(addr string, opened func()) error {
	once := sync.OnceFunc(opened)
	defer once()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.(*net.TCPConn).SetLinger(0)
	conn.SetDeadline(time.Now().Add(3 * testkit.Patience))
	if _, err := io.WriteString(conn, testkit.SampleRequest+"early"); err != nil {
		return err
	}
	br := bufio.NewReader(conn)
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		return fmt.Errorf("status %s", res.Status)
	}
	once()
	if _, err := io.WriteString(conn, "late"); err != nil {
		return err
	}
	got := make([]byte, len("earlylate"))
	if _, err := io.ReadFull(br, got); err != nil || string(got) != "earlylate" {
		return fmt.Errorf("echoed %q: %w", got, err)
	}
	return nil
}
