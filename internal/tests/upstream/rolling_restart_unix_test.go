//go:build unix

package upstream_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/frame"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A store is an application that keeps each message, and then acknowledges it.
type store struct {
	mu   sync.Mutex
	kept map[string]int
}

func (s *store) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	conn, brw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	io.WriteString(conn, testkit.SampleSwitch)
	for {
		f, err := testkit.ReadFrame(brw)
		if err != nil {
			return
		}
		if f.First == testkit.Text {
			s.mu.Lock()
			s.kept[f.Payload]++
			s.mu.Unlock()
		}
		f.Masked = false
		if _, err := io.WriteString(conn, f.String()); err != nil || f.First == testkit.Close {
			return
		}
	}
}

// A replica is one of the proxies behind the balancer.
type replica struct {
	proxy  *wsproxy.Proxy
	server *http.Server
	addr   string
	served chan struct{}
}

func startReplica(t testing.TB, addr string, u *wsproxy.Upstream) *replica {
	t.Helper()
	var l net.Listener
	testkit.Eventually(t, func() (ok bool) {
		var err error
		l, err = net.Listen("tcp", addr)
		return err == nil
	}, "cannot listen at %s again", addr)
	r := &replica{proxy: testkit.NewProxy(t, "http://app.example", wsproxy.WithUpstream(u)), addr: l.Addr().String(), served: make(chan struct{})}
	r.server = &http.Server{Handler: r.proxy, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)}
	go func() {
		defer close(r.served)
		r.server.Serve(l)
	}()
	t.Cleanup(func() {
		r.proxy.Close()
		r.server.Close()
		<-r.served
	})
	return r
}

// stop drains the replica as docs/scaling.md describes: it accepts no new
// connections and sends a Close frame through every tunnel.
func (r *replica) stop(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
	defer cancel()
	drained := make(chan error, 1)
	r.server.RegisterOnShutdown(func() { drained <- r.proxy.Shutdown(ctx) })
	require.NoError(t, r.server.Shutdown(ctx))
	require.NoError(t, <-drained, "tunnels were closed at the deadline")
}

// startHAProxy runs HAProxy as a layer 4 load balancer for the replicas, on an
// inherited socket, and returns its address.
func startHAProxy(t testing.TB, replicas []*replica) string {
	t.Helper()
	program, err := exec.LookPath("haproxy")
	if err != nil {
		program, err = exec.LookPath("/usr/sbin/haproxy")
	}
	if err != nil {
		testkit.Missing(t, "haproxy is not installed")
	}
	var config strings.Builder
	config.WriteString("global\n  maxconn 1000\ndefaults\n  mode tcp\n  retries 3\n  option redispatch 1\n" +
		"  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n" +
		"listen replicas\n  bind fd@3\n  balance leastconn\n")
	for i, r := range replicas {
		fmt.Fprintf(&config, "  server replica%d %s check inter 50ms fall 1 rise 1\n", i, r.addr)
	}
	path := filepath.Join(t.TempDir(), "haproxy.cfg")
	require.NoError(t, os.WriteFile(path, []byte(config.String()), 0o600))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	socket, err := l.(*net.TCPListener).File()
	require.NoError(t, err)
	defer socket.Close()
	cmd := exec.Command(program, "-db", "-f", path)
	cmd.ExtraFiles = []*os.File{socket} // descriptor 3
	var output strings.Builder
	cmd.Stdout, cmd.Stderr = &output, &output
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Log(output.String())
		}
	})
	return l.Addr().String()
}

// connect opens a tunnel through the balancer.
func connect(addr string) (net.Conn, *bufio.Reader, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, nil, err
	}
	conn.SetDeadline(time.Now().Add(testkit.Patience))
	br := bufio.NewReader(conn)
	_, err = io.WriteString(conn, testkit.SampleRequest)
	if err == nil {
		var res *http.Response
		if res, err = http.ReadResponse(br, nil); err == nil && res.StatusCode != http.StatusSwitchingProtocols {
			err = errors.New(res.Status)
		}
	}
	if err != nil {
		conn.Close()
		return nil, nil, err
	}
	return conn, br, nil
}

// A chatter sends one message after another, repeats each until it is
// acknowledged, and reconnects when it receives a Close frame.
type chatter struct {
	name             string
	acked, goneAway  atomic.Int64
	refused, resents atomic.Int64
}

func (c *chatter) run(ctx context.Context, addr string) error {
	for resend := false; ctx.Err() == nil; resend = true {
		conn, br, err := connect(addr)
		if err != nil { // the port is closed and the balancer has not yet checked it
			c.refused.Add(1)
			continue
		}
		if resend {
			c.resents.Add(1)
		}
		err = c.talk(ctx, conn, br)
		conn.Close()
		if err != nil {
			return fmt.Errorf("%s after %d messages: %w", c.name, c.acked.Load(), err)
		}
	}
	return nil
}

// talk returns nil once the connection has been closed with a Close frame.
func (c *chatter) talk(ctx context.Context, conn net.Conn, br *bufio.Reader) error {
	send := func(first byte, payload string) error {
		_, err := io.WriteString(conn, testkit.Frame{First: first, Masked: true, Payload: payload}.String())
		return err
	}
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for ; ctx.Err() == nil; <-pace.C {
		message := c.name + " " + strconv.FormatInt(c.acked.Load(), 10)
		conn.SetDeadline(time.Now().Add(testkit.Patience))
		if err := send(testkit.Text, message); err != nil {
			return err
		}
		f, err := testkit.ReadFrame(br)
		switch {
		case err != nil:
			return err
		case f.First == testkit.Close:
			if code, reason := frame.ParseClose([]byte(f.Payload)); code != 1001 {
				return fmt.Errorf("closed with %d %q", code, reason)
			}
			c.goneAway.Add(1)
			return send(testkit.Close, f.Payload)
		case f.Payload != message:
			return fmt.Errorf("acknowledged %q, want %q", f.Payload, message)
		}
		c.acked.Add(1)
	}
	return send(testkit.Close, testkit.ClosePayload(1000, ""))
}

func TestARollingRestartBehindHAProxyLosesNoMessage(t *testing.T) {
	const clients = 60
	kept := &store{kept: map[string]int{}}
	u := testkit.Servers(t, wsproxy.LeastTunnels(), wsproxy.Server{Addr: testkit.Serve(t, kept)}, wsproxy.Server{Addr: testkit.Serve(t, kept)})
	replicas := make([]*replica, 3)
	for i := range replicas {
		replicas[i] = startReplica(t, testkit.HeldAddr(t), u)
	}
	front := startHAProxy(t, replicas)
	reached := func(r *replica) func() bool {
		return func() bool {
			if conn, _, err := connect(front); err == nil {
				conn.Close()
			}
			return r.proxy.Stats().Opened > 0
		}
	}
	for _, r := range replicas {
		testkit.Eventually(t, reached(r), "HAProxy does not reach a replica")
	}

	ctx, cancel := context.WithCancel(t.Context())
	chatters := make([]*chatter, clients)
	var all sync.WaitGroup
	for i := range chatters {
		chatters[i] = &chatter{name: fmt.Sprint("client ", i)}
		all.Go(func() {
			if err := chatters[i].run(ctx, front); err != nil {
				t.Error(err)
			}
		})
	}
	progress := func() {
		t.Helper()
		from := make([]int64, clients)
		for i, c := range chatters {
			from[i] = c.acked.Load()
		}
		for i, c := range chatters {
			testkit.Eventually(t, func() bool { return t.Failed() || c.acked.Load() > from[i]+1 }, "%s is not back", c.name)
		}
	}
	progress()
	for i, r := range replicas {
		r.stop(t)
		progress()
		replicas[i] = startReplica(t, r.addr, u)
		testkit.Eventually(t, reached(replicas[i]), "HAProxy does not reach the new replica")
	}
	progress()
	cancel()
	all.Wait()

	var acked, goneAway, refused, resent, again int64
	for _, c := range chatters {
		assert.Positive(t, c.goneAway.Load(), "%s never received a Close frame", c.name)
		acked += c.acked.Load()
		goneAway += c.goneAway.Load()
		refused += c.refused.Load()
		resent += c.resents.Load()
		for n := range c.acked.Load() {
			require.Positive(t, kept.kept[fmt.Sprint(c.name, " ", n)], "%s: message %d was acknowledged and is lost", c.name, n)
		}
	}
	for _, n := range kept.kept {
		again += int64(n - 1)
	}
	t.Logf("%d messages, %d Close 1001, %d refused connects, %d reconnects, %d messages kept twice", acked, goneAway, refused, resent, again)
}
