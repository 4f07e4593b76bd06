package main

// A target is a bound for wsproxy: on its ratio to a peer, or on its own figure
// if the peer is "".
type target struct {
	label                      string
	transport, measure, metric string
	subject, peer              string
	least                      bool // the bound is a lower one
	bound                      float64
}

// against returns one target for each peer and bound.
func against(label, measure, metric string, least bool, bounds map[string]float64) []target {
	var list []target
	for _, peer := range defaultPeers {
		if bound, ok := bounds[peer]; ok {
			list = append(list, target{label, "plain", measure, metric, "wsproxy", peer, least, bound})
		}
	}
	return list
}

// targets returns all targets in the table's order.
func targets() []target {
	type bounds = map[string]float64
	var list []target
	add := func(more ...target) { list = append(list, more...) }
	add(against("CPU/round trip, 128 B, 64 connections", "rt-128-64", "cpu", false, bounds{"nginx": 1, "httputil": 0.85})...)
	add(against("CPU/round trip, 128 B, 1000 connections", "rt-128-1000", "cpu", false, bounds{"nginx": 0.92, "haproxy": 0.75, "httputil": 0.7})...)
	add(against("p50, 128 B, 1 connection", "rt-128-1", "p50", false, bounds{"nginx": 1.05})...)
	add(against("throughput, 64 KiB round trips", "rt-64k-16", "rate", true, bounds{"nginx": 3, "haproxy": 1.3, "caddy": 1.3, "httputil": 1.3})...)
	add(against("throughput, 64 KiB stream", "stream", "mbps", true, bounds{"nginx": 3, "haproxy": 1.3, "caddy": 1.3, "httputil": 1.3})...)
	add(against("CPU/round trip, 1 MiB", "rt-1m-4", "cpu", false, bounds{"caddy": 0.75, "httputil": 0.75})...)
	for _, memory := range []struct {
		subject, transport string
		bound, fresh       float64
	}{
		{"wsproxy-detached", "plain", 2.5, 2}, {"wsproxy-detached", "tls", 10.5, 15}, {"wsproxy", "plain", 20, 25}, {"wsproxy", "tls", 28, 36},
	} {
		label := "kB/idle tunnel of " + memory.subject
		add(target{label, memory.transport, "idle", "many", memory.subject, "", false, memory.bound},
			target{label + " before a collection", memory.transport, "idle", "fresh", memory.subject, "", false, memory.fresh})
	}
	add(target{"CPU/round trip, 128 B, 1000 connections", "tls", "rt-128-1000", "cpu", "wsproxy-detached", "nginx", false, 1})
	add(against("CPU/handshake", "handshake", "cpu", false, bounds{"nginx": 1.45, "httputil": 0.85, floorPeer: 1.25})...)
	add(against("CPU/session of 3 to 7 messages", "sessions", "cpu", false, bounds{"nginx": 1.3})...)
	add(against("connecting, p95, sessions", "sessions", "connect95", false, bounds{"nginx": 1.3})...)
	add(against("message, p99, sessions", "sessions", "p99", false, bounds{"nginx": 1.1})...)
	add(against("CPU/session, k6", "k6", "cpu", false, bounds{"nginx": 1.3})...)
	add(against("connecting, p95, k6", "k6", "connect95", false, bounds{"nginx": 1.3})...)
	add(against("message, p99, k6", "k6", "p99", false, bounds{"nginx": 1.1})...)
	add(against("8,000 at once, until all are open", "storm", "first", false, bounds{"nginx": 1.5, "haproxy": 1.5})...)
	add(against("… again", "storm", "again", false, bounds{"nginx": 1.5, "haproxy": 1.5})...)
	add(target{"… memory, third/second time", "plain", "storm", "growth", "wsproxy", "", false, 1.1})
	add(against("p99 at 50 % of the most, 9,000 idle beside", "tail", "p99-50", false, bounds{"nginx": 1.1, "haproxy": 1.1})...)
	add(against("… p99.9", "tail", "p999-50", false, bounds{"nginx": 1.25, "haproxy": 1.25})...)
	add(against("p99 at 80 % of the most, 9,000 idle beside", "tail", "p99-80", false, bounds{"nginx": 1.1, "haproxy": 1.1})...)
	add(against("… p99.9", "tail", "p999-80", false, bounds{"nginx": 1.25, "haproxy": 1.25})...)
	add(against("throughput, proxy on all cores", "cores", "rate", true, bounds{"nginx": 1, "haproxy": 1})...)
	add(against("p99, proxy on all cores", "cores", "p99", false, bounds{"nginx": 1.1, "haproxy": 1.1})...)
	add(against("throughput, all cores, every second idle", "skew", "rate", true, bounds{"nginx": 0.9, "haproxy": 0.9})...)
	add(target{"following frames: CPU/MB, 128 B messages", "plain", "stream-128", "cpu", "wsproxy", bytesPeer, false, 1.02})
	list = append(list, target{"CPU/handshake", "tls", "handshake", "cpu", "wsproxy", "nginx", false, 1})
	return list
}

// A verdict is a target and its result.
type verdict struct {
	Target    string  `json:"target"`
	Transport string  `json:"transport"`
	Against   string  `json:"against,omitempty"`
	Value     float64 `json:"value"`
	Bound     float64 `json:"bound"`
	Least     bool    `json:"least,omitempty"`
	Met       bool    `json:"met"`
}

// judge compares the figures with the targets. It leaves out targets without
// figures.
func judge(cells map[cell]series) []verdict {
	var verdicts []verdict
	for _, t := range targets() {
		subject := cells[cell{t.transport, t.measure, t.metric, t.subject}]
		value, _, _ := subject.summary()
		ok := len(subject) > 0
		if t.peer != "" {
			value, ok = ratio(subject, cells[cell{t.transport, t.measure, t.metric, t.peer}])
		}
		if !ok {
			continue
		}
		met := value <= t.bound
		if t.least {
			met = value >= t.bound
		}
		verdicts = append(verdicts, verdict{t.label, t.transport, t.peer, value, t.bound, t.least, met})
	}
	return verdicts
}
