package main

import (
	"errors"
	"os"
	"time"
)

// sample starts a peer, takes its measures and ends it.
func (b *bench) sample(p peer, transport string, group []measure) []sample {
	t := trial{bench: b, upstream: b.upstream, addr: b.upstreamAddr, tls: transport != "plain", http2: transport == "h2"}
	if group[0].kind == "tail" {
		t.addr = b.pacedAddr
	}
	started := t.start(p, group)
	defer t.stop()
	defer t.hangUp()
	var samples []sample
	for _, m := range group {
		s, err := sample{Transport: transport, Measure: m.name, Peer: p.name}, started
		if err == nil {
			s.Values, s.TLS, err = t.take(m)
			t.hangUp()
		}
		if err != nil {
			s.Error = err.Error()
		}
		samples = append(samples, s)
	}
	return samples
}

// A trial is a proxy that runs and is measured.
type trial struct {
	*bench
	upstream *child
	addr     string // the proxy's, or without one the upstream's
	tls      bool
	http2    bool
	dir      string
	proxy    *child // nil: none
	pids     []int
}

func (t *trial) start(p peer, group []measure) (err error) {
	if group[0].kind == "k6" { // the bench's own upstream is pinned
		t.addr = freeAddr()
		if t.upstream, err = start(t.ctx, role("upstream", -1, t.addr)); err != nil {
			return err
		}
		if err := t.await(t.upstream, t.addr); err != nil {
			return err
		}
	}
	if p.command == nil {
		return nil
	}
	if t.dir, err = os.MkdirTemp(t.bench.dir, "proxy-"); err != nil {
		return err
	}
	at := place{addr: freeAddr(), upstream: t.addr, dir: t.dir, files: t.files, core: t.proxyCore, threads: 1, http2: t.http2}
	if len(group) == 1 && group[0].spread && t.proxyCore >= 0 {
		at.core, at.threads = -1, t.report.Machine.Cores
	}
	t.addr = at.addr
	at.collect = len(group) == 1 && group[0].collect
	if t.tls {
		at.cert = &t.cert
	}
	c, err := p.command(at)
	if err != nil {
		return err
	}
	if t.proxy, err = start(t.ctx, c); err != nil {
		return err
	}
	if err := t.await(t.proxy, t.addr); err != nil {
		return err
	}
	if p.name == "nginx" { // the master listens before a worker has started
		if err := t.do(&result{}, job{Kind: "open", Conns: 1, Size: 1}); err != nil {
			return err
		}
		if err := t.do(&result{}, job{Kind: "close"}); err != nil {
			return err
		}
	}
	t.pids = family(t.proxy.cmd.Process.Pid)
	return nil
}

// hangUp ends all tunnels from the upstream's side. This leaves no port in
// TIME_WAIT, and no proxy keeps reading a stream whose client is gone.
func (t *trial) hangUp() {
	var reply struct{}
	if t.upstream.ask("reset", &reply) == nil {
		t.load.ask(job{Kind: "close"}, &result{})
	}
}

// stop ends the proxy.
func (t *trial) stop() {
	if t.proxy != nil {
		t.proxy.stop()
	}
	if t.upstream != nil && t.upstream != t.bench.upstream {
		t.upstream.stop()
	}
	if t.dir != "" {
		os.RemoveAll(t.dir)
	}
}

// do runs a job on the load generator.
func (t *trial) do(res *result, j job) error {
	j.Addr, j.TLS, j.PIDs = t.addr, t.tls, t.pids
	if err := t.load.ask(j, res); err != nil {
		return err
	}
	if res.Error != "" {
		err := errors.New(res.Error)
		if t.proxy != nil {
			return t.proxy.failed(err)
		}
		return err
	}
	return nil
}

// take takes one measure.
func (t *trial) take(m measure) (values map[string]float64, tls string, err error) {
	switch m.kind {
	case "open":
		values, err = t.idle(m)
		return values, "", err
	case "storm":
		values, err = t.storm(m)
		return values, "", err
	case "tail":
		values, err = t.tail(m)
		return values, "", err
	case "k6":
		values, err = t.k6(m)
		return values, "", err
	case "h2-open":
		values, err = t.http2Idle(m)
		return values, "", err
	}
	var res result
	j := job{Kind: m.kind, Size: m.size, Conns: m.conns, Window: t.window, Warm: t.window / 4, Think: think}
	if m.kind == "sessions" {
		j.Warm, j.Window = 2*think, 10*t.window // a session takes a second
	}
	if t.quick {
		j.Conns, j.Think = min(j.Conns, 16), think/100
		j.Warm = t.window / 4
	}
	if err := t.do(&res, j); err != nil {
		return nil, "", err
	}
	micro := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
	amount := float64(res.Count)
	values = map[string]float64{}
	switch m.kind {
	case "stream":
		amount = float64(res.Bytes) / 1e6
		values["mbps"] = amount / res.Window.Seconds()
	case "roundtrip", "h2-roundtrip", "skew", "sessions":
		values["p50"], values["p99"] = micro(res.P50), micro(res.P99)
		if m.kind == "sessions" {
			values["connect95"] = micro(res.Connect)
		}
		values["rate"] = amount / res.Window.Seconds()
	default:
		values["rate"] = amount / res.Window.Seconds()
	}
	if t.proxy != nil {
		values["cpu"] = micro(res.CPU) / amount
		values["busy"] = 100 * res.CPU.Seconds() / res.Window.Seconds()
	}
	return values, res.TLS, nil
}

// idle opens tunnels and measures the memory that they add and the CPU that
// they use while idle.
func (t *trial) idle(m measure) (map[string]float64, error) {
	if t.proxy == nil {
		return map[string]float64{}, nil
	}
	// Memory that the first tunnels make a proxy allocate once is not counted.
	if err := t.do(&result{}, job{Kind: "open", Size: m.size, Conns: 8}); err != nil {
		return nil, err
	}
	if err := t.do(&result{}, job{Kind: "close"}); err != nil {
		return nil, err
	}
	before, err := t.settled()
	if err != nil {
		return nil, err
	}
	values := map[string]float64{}
	for _, step := range []struct {
		name  string
		conns int
	}{{"few", t.tunnels(fewTunnels)}, {"many", t.tunnels(manyTunnels)}} {
		if err := t.do(&result{}, job{Kind: "open", Size: m.size, Conns: step.conns}); err != nil {
			return nil, err
		}
		if step.name == "many" {
			time.Sleep(min(freshAfter, 6*t.window))
			fresh, err := memory(t.pids)
			if err != nil {
				return nil, err
			}
			values["fresh"] = float64(fresh-before) / float64(step.conns) / 1e3
		}
		now, err := t.settled()
		if err != nil {
			return nil, err
		}
		values[step.name] = float64(now-before) / float64(step.conns) / 1e3
	}
	begun := time.Now()
	used, err := cpuTime(t.pids)
	if err != nil {
		return nil, err
	}
	select {
	case <-time.After(3 * t.window):
	case <-t.ctx.Done():
	}
	after, err := cpuTime(t.pids)
	values["cpu"] = float64((after - used).Microseconds()) / 1e3 / time.Since(begun).Seconds()
	return values, err
}

// settled returns the proxy's memory some time after the last traffic.
func (t *trial) settled() (int64, error) {
	pause := t.window / 4
	time.Sleep(pause)
	if t.proxy.in != nil {
		var reply struct{}
		if err := t.proxy.ask("settle", &reply); err != nil {
			return 0, err
		}
		time.Sleep(pause)
	}
	return memory(t.pids)
}
