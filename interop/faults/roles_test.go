//go:build linux

package faults_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
)

// An actor adds the state of its kind of process to a report.
type actor func(*report)

// play runs a process. It replies to commands until the test that started it
// ends.
func play(r role) {
	var act actor
	var addr string
	var certificate []byte
	switch r.Kind {
	case "proxy", "upstream":
		l, err := net.Listen("tcp", cmp.Or(r.Listen, "127.0.0.1:0"))
		for deadline := time.Now().Add(patience); err != nil && time.Now().Before(deadline); l, err = net.Listen("tcp", r.Listen) {
			time.Sleep(10 * time.Millisecond) // another process holds a killed server's port for a moment
		}
		if err != nil {
			panic(err)
		}
		s := &httptest.Server{Listener: l, Config: &http.Server{}}
		if r.Kind == "proxy" {
			logged := new(lockedBuffer)
			s.Config.Handler, act = newProxy(r, logged)
			s.Config.ErrorLog = slog.NewLogLogger(slog.NewTextHandler(logged, nil), slog.LevelWarn)
			s.Config.ReadHeaderTimeout, s.Config.ReadTimeout, s.Config.WriteTimeout = r.ReadHeaderTimeout, r.ReadTimeout, r.WriteTimeout
		} else {
			u := &upstream{ends: map[string]int{}}
			s.Config.Handler, s.Config.ConnState, act = u, u.state, u.report
		}
		if r.TLS {
			s.StartTLS()
			certificate = s.Certificate().Raw
		} else {
			s.Start()
		}
		addr = l.Addr().String()
	default:
		act = func(rep *report) { rep.Lost = lost.Load() }
	}
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var c command
		if in.Decode(&c) != nil {
			os.Exit(0)
		}
		rep := report{Addr: addr, Certificate: certificate}
		switch c.Do {
		case "collect":
			debug.FreeOSMemory()
		case "stacks":
			stacks := make([]byte, 1<<20)
			rep.Stacks = string(stacks[:runtime.Stack(stacks, true)])
		case "ip":
			if said, err := exec.Command("ip", c.Args...).CombinedOutput(); err != nil {
				rep.Err = fmt.Sprintf("ip %q: %v: %s", c.Args, err, said)
			}
		case "forward":
			if err := forward(r); err != nil {
				rep.Err = err.Error()
			}
		}
		var m runtime.MemStats
		if c.Do == "collect" {
			runtime.ReadMemStats(&m)
			rep.Heap = int64(m.HeapInuse + m.StackInuse)
		}
		rep.Goroutines = runtime.NumGoroutine()
		act(&rep)
		if out.Encode(rep) != nil {
			os.Exit(0)
		}
	}
}

// newProxy returns the Proxy that r describes.
func newProxy(r role, logged *lockedBuffer) (*wsproxy.Proxy, actor) {
	var mu sync.Mutex
	endings := map[string]int{}
	opts := []wsproxy.Option{
		wsproxy.WithLogger(slog.New(slog.NewTextHandler(logged, nil))),
		testkit.OnClose(func(_ *wsproxy.Tunnel, e wsproxy.Ending) {
			how := e.Reason.String()
			if e.Err != nil {
				how += ", " + describe(e.Err)
			}
			mu.Lock()
			defer mu.Unlock()
			endings[how]++
		}),
		wsproxy.WithMaxTunnels(r.MaxTunnels),
		wsproxy.WithPing(r.PingInterval, r.PingTimeout),
	}
	if r.Detached {
		opts = append(opts, wsproxy.WithDetached())
	}
	if r.Connect > 0 {
		opts = append(opts, wsproxy.WithConnectTimeout(r.Connect))
	}
	if r.Read > 0 {
		opts = append(opts, wsproxy.WithReadTimeout(r.Read))
	}
	if r.Send > 0 {
		opts = append(opts, wsproxy.WithSendTimeout(r.Send))
	}
	if r.Close > 0 {
		opts = append(opts, wsproxy.WithCloseTimeout(r.Close))
	}
	if r.DNS != "" {
		resolver := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "udp", r.DNS)
		}}
		opts = append(opts, wsproxy.WithDialContext((&net.Dialer{Resolver: resolver}).DialContext))
	}
	p, err := wsproxy.New(r.Target, opts...)
	if err != nil {
		panic(err)
	}
	return p, func(rep *report) {
		s := p.Stats()
		rep.Live, rep.Handshakes, rep.Opened = s.Live, s.Handshakes, s.Opened
		rep.FromClient, rep.FromUpstream = s.FromClient.Bytes, s.FromUpstream.Bytes
		rep.Log = logged.String()
		mu.Lock()
		defer mu.Unlock()
		rep.Endings = map[string]int{}
		for how, n := range endings {
			rep.Endings[how] = n
		}
	}
}

// describe returns the text of an error without addresses.
func describe(err error) string {
	switch {
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "reset"
	case errors.Is(err, wsproxy.ErrCut):
		return "cut"
	}
	return err.Error()
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
