package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A bench is one run.
type bench struct {
	settings
	ctx                 context.Context
	dir                 string // temporary
	cert                certificate
	files               int // limit on open files of a process
	proxyCore, loadCore int // -1: not pinned
	upstream, load      *child
	upstreamAddr        string
	k6Program           string  // "" without -k6
	pacedAddr           string  // of the load generator's own upstream
	pace                float64 // messages a second, of which tails are measured at a share; 0: not known yet
	report              report
}

func run(s settings) (err error) {
	runtime.LockOSThread() // see start
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	b := &bench{settings: s, ctx: ctx, proxyCore: -1, loadCore: -1}
	if b.dir, err = os.MkdirTemp("", "wsproxy-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if b.cert, err = newCertificate(b.dir); err != nil {
		return err
	}
	if b.files, err = raiseFiles(); err != nil {
		return err
	}
	if b.files < 1000 {
		return fmt.Errorf("a process may open only %d files, want 1000 or more (ulimit -Hn)", b.files)
	}
	b.chooseCores()
	b.report = report{Machine: thisMachine(), Rounds: s.rounds, Window: s.window.Seconds(), Quick: s.quick, Versions: map[string]string{}}
	b.report.Machine.Pinned = b.proxyCore >= 0

	if n := b.tunnels(manyTunnels); n < manyTunnels && !s.quick {
		b.report.Notes = append(b.report.Notes, fmt.Sprintf("open files are limited to %d: %d tunnels in place of %d", b.files, n, manyTunnels))
	}

	if s.k6 {
		if b.k6Program, err = buildK6(ctx, b.dir); err != nil {
			return err
		}
	}
	b.upstreamAddr, b.pacedAddr = freeAddr(), freeAddr()
	if b.upstream, err = start(ctx, role("upstream", b.loadCore, b.upstreamAddr)); err != nil {
		return err
	}
	defer b.upstream.stop()
	if b.load, err = start(ctx, role("load", b.loadCore, b.pacedAddr)); err != nil {
		return err
	}
	defer b.load.stop()
	if err := b.await(b.upstream, b.upstreamAddr); err != nil {
		return err
	}
	failures, err := b.rounds()
	if err != nil {
		return err
	}
	b.report.finish(b.transports())
	b.report.print(os.Stdout)
	if err := b.report.write(b.out); err != nil {
		return err
	}
	fmt.Printf("\nresults.json and the plots are in %s\n", b.out)
	if failures > 0 {
		return fmt.Errorf("%d samples failed", failures)
	}
	return nil
}

// rounds takes all samples.
func (b *bench) rounds() (failures int, err error) {
	var peers []peer
	for _, name := range b.peers {
		p, err := findPeer(b.ctx, name, b.dir)
		if err != nil {
			b.report.Notes = append(b.report.Notes, fmt.Sprintf("%s is left out: %v", name, err))
			fmt.Fprintln(os.Stderr, b.report.Notes[len(b.report.Notes)-1])
			continue
		}
		peers = append(peers, p)
		b.report.Peers = append(b.report.Peers, name)
		b.report.Versions[name] = p.version
	}
	for round := range b.settings.rounds {
		b.pace = 0
		for _, transport := range b.transports() {
			for _, group := range groups(b.selected(), b.quick) {
				for _, p := range rotate(peers, round) {
					if p.command == nil && transport != "plain" {
						continue // the upstream has no TLS
					}
					group := slices.DeleteFunc(slices.Clone(group), func(m measure) bool { return !m.runs(transport, p.name, round) })
					if len(group) == 0 {
						continue
					}
					b.progress(round, transport, group, p)
					samples := b.sample(p, transport, group)
					if b.ctx.Err() != nil {
						return failures, errors.New("interrupted")
					}
					for _, s := range samples {
						s.Round = round
						b.report.Samples = append(b.report.Samples, s)
						if s.Error != "" {
							failures++
							fmt.Fprintf(os.Stderr, "%s, %s, %s: %s\n", s.Peer, s.Transport, s.Measure, s.Error)
						} else if b.verbose {
							fmt.Fprintf(os.Stderr, "%s, %s, %s: %v\n", s.Peer, s.Transport, s.Measure, s.Values)
						}
					}
				}
			}
		}
	}
	return failures, nil
}

func (b *bench) progress(round int, transport string, group []measure, p peer) {
	what := group[0].label
	if len(group) > 1 {
		what = fmt.Sprintf("%d measures", len(group))
	}
	fmt.Fprintf(os.Stderr, "round %d of %d, %s, %s: %s\n", round+1, b.settings.rounds, transport, what, p.name)
}

// await waits until a child listens.
func (b *bench) await(p *child, addr string) error {
	for begun := time.Now(); time.Since(begun) < 10*time.Second; {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			conn.Close()
			return nil
		}
		select {
		case <-p.gone:
			return p.failed(errors.New("ended"))
		case <-time.After(5 * time.Millisecond):
		}
	}
	return p.failed(errors.New("does not listen after 10s"))
}

// chooseCores chooses the last core for the proxy and the first for the load.
func (b *bench) chooseCores() {
	var set unix.CPUSet
	if unix.SchedGetaffinity(0, &set) != nil || set.Count() < 2 {
		return
	}
	var cores []int
	for core := 0; len(cores) < set.Count(); core++ {
		if set.IsSet(core) {
			cores = append(cores, core)
		}
	}
	b.loadCore, b.proxyCore = cores[0], cores[len(cores)-1]
}

// raiseFiles raises the limit on open files of this process and its children to
// the maximum.
func raiseFiles() (int, error) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0, err
	}
	limit.Cur = min(limit.Max, 100_000)
	return int(limit.Cur), syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
}

// tunnels returns how many of n tunnels a proxy may hold, at two files each.
func (b *bench) tunnels(n int) int {
	if b.quick {
		n /= 50
	}
	return min(n, (b.files-500)/2)
}

// freeAddr returns a free loopback address. No outgoing connection takes its port,
// because those have 127.0.0.1.
func freeAddr() string {
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		return "127.0.0.2:0" // starting there fails with a better error
	}
	defer l.Close()
	return l.Addr().String()
}

func thisMachine() machine {
	m := machine{Cores: runtime.NumCPU(), CPU: runtime.GOARCH}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		m.Kernel, _, _ = strings.Cut(unix.ByteSliceToString(name.Release[:]), "-")
	}
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if field, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(field) == "model name" {
			m.CPU = strings.TrimSpace(value)
			break
		}
	}
	return m
}
