package main

import (
	"fmt"
	"slices"
	"time"
)

// A measure is one thing done to a proxy. It yields one value for each of its
// metrics.
type measure struct {
	name    string
	label   string
	kind    string // of the load's job
	size    int    // of messages
	conns   int
	metrics []metric

	peers   []string // nil: all but floorPeer
	plain   bool     // it is not taken over TLS
	spread  bool     // the proxy runs on all cores
	collect bool     // Go programs collect garbage five times a second
	rounds  int      // at most; 0: any number
}

// A metric is one figure of a measure.
type metric struct {
	name string
	unit string
	note string // in the table
}

var (
	rate      = metric{"rate", "1/s", "round trips/s"}
	cpu       = metric{"cpu", "µs", "CPU/round trip, µs"}
	p50       = metric{"p50", "µs", "p50, µs"}
	p99       = metric{"p99", "µs", "p99, µs"}
	busy      = metric{"busy", "%", "proxy's core busy, %"}
	roundtrip = []metric{rate, cpu, p50, p99, busy}
	streamed  = []metric{{"mbps", "MB/s", "MB/s"}, {"cpu", "µs", "CPU/MB, µs"}, busy}
)

// The figures depend on these sizes. -quick uses small ones.
const (
	fewTunnels  = 1000
	manyTunnels = 9000

	stormClients = 8000
)

// freshAfter is how long after the last tunnel has opened "fresh" is measured: the
// memory with the garbage that handshakes leave, before a collection is forced.
const freshAfter = 3 * time.Second

var measures = append([]measure{
	{name: "rt-128-1", label: "128 B, 1 connection", kind: "roundtrip", size: 128, conns: 1, metrics: roundtrip},
	{name: "rt-128-64", label: "128 B, 64 connections", kind: "roundtrip", size: 128, conns: 64, metrics: roundtrip},
	{name: "rt-128-1000", label: "128 B, 1000 connections", kind: "roundtrip", size: 128, conns: 1000, metrics: roundtrip},
	{name: "rt-1k-64", label: "1 KiB, 64 connections", kind: "roundtrip", size: 1 << 10, conns: 64, metrics: roundtrip},
	{name: "rt-64k-16", label: "64 KiB, 16 connections", kind: "roundtrip", size: 64 << 10, conns: 16, metrics: roundtrip},
	{name: "rt-1m-4", label: "1 MiB, 4 connections", kind: "roundtrip", size: 1 << 20, conns: 4, metrics: roundtrip},
	{name: "stream", label: "stream of 64 KiB messages to 8 clients", kind: "stream", size: 64 << 10, conns: 8, metrics: streamed},
	{name: "stream-128", label: "stream of 128 B messages to 8 clients", kind: "stream", size: 128, conns: 8, metrics: streamed,
		plain: true, peers: []string{"wsproxy", bytesPeer, "nginx", "haproxy"}},
	{name: "handshake", label: "handshakes, 32 at a time", kind: "handshake", conns: 32, metrics: []metric{
		{"rate", "1/s", "handshakes/s"}, {"cpu", "µs", "CPU/handshake, µs"}, busy},
		peers: append([]string{floorPeer}, usualPeers...)},
	{name: "sessions", label: "sessions of 3 to 7 messages by 1200 users", kind: "sessions", size: 128, conns: 1200, plain: true,
		peers: proxies, metrics: []metric{
			{"rate", "1/s", "sessions/s"}, {"cpu", "µs", "CPU/session, µs"},
			{"connect95", "µs", "connecting, p95, µs"}, {"p99", "µs", "message, p99, µs"}}},
	k6Measure,
	{name: "storm", label: fmt.Sprintf("%d clients connect at once, three times", stormClients), kind: "storm", size: 128, conns: stormClients, plain: true,
		peers: servers, rounds: 2, metrics: []metric{
			{"first", "ms", "all open after, ms"}, {"again", "ms", "all open again, ms"}, {"cpu", "µs", "CPU/client, µs"},
			{"memory", "MB", "memory, MB"}, {"growth", "", "memory, third/second"}}},
	{name: "tail", label: fmt.Sprintf("128 B at fixed rates, %d idle tunnels beside", manyTunnels), kind: "tail", size: 128, conns: 256, plain: true,
		peers: servers, collect: true, metrics: []metric{
			{"rate", "1/s", "round trips/s at most"},
			{"p99-50", "µs", "p99 at 50 %, µs"}, {"p999-50", "µs", "p99.9 at 50 %, µs"},
			{"p99-80", "µs", "p99 at 80 %, µs"}, {"p999-80", "µs", "p99.9 at 80 %, µs"}}},
	{name: "cores", label: "proxy on all cores, 128 B, 256 connections", kind: "roundtrip", size: 128, conns: 256, plain: true, spread: true,
		peers: servers, metrics: []metric{rate, cpu, p99}},
	{name: "skew", label: "the same, every second connection idle", kind: "skew", size: 128, conns: 256, plain: true, spread: true,
		peers: servers, metrics: []metric{rate, cpu, p99}},
	{name: "idle", label: "idle tunnels", kind: "open", size: 128, rounds: 2, metrics: []metric{
		{"few", "kB", fmt.Sprintf("kB/tunnel at %d", fewTunnels)},
		{"many", "kB", fmt.Sprintf("kB/tunnel at %d", manyTunnels)},
		{"fresh", "kB", fmt.Sprintf("… at %d, %v after opening", manyTunnels, freshAfter)},
		{"cpu", "ms", fmt.Sprintf("CPU at %d, ms/s", manyTunnels)}}},
}, http2Measures...)

func measureNames() []string {
	var names []string
	for _, m := range measures {
		names = append(names, m.name)
	}
	return names
}

// portablePeer runs only if -peers names it.
const portablePeer = "wsproxy-portable"

// bytesPeer is wsproxy for a protocol other than WebSocket, whose frames it does
// not follow.
const bytesPeer = "wsproxy-bytes"

// floorPeer does only what a proxy over net/http must do for a handshake.
const floorPeer = "floor"

var (
	usualPeers = []string{"direct", "wsproxy", "wsproxy-detached", "nginx", "haproxy", "caddy", "httputil", portablePeer}
	proxies    = usualPeers[1:]
	servers    = []string{"wsproxy", "wsproxy-detached", "nginx", "haproxy", portablePeer}
)

// defaultPeers are all but the portable one, in the table's order.
var defaultPeers = append(slices.Clone(usualPeers[:len(usualPeers)-1]), floorPeer, bytesPeer)

// runs reports whether m is taken of a peer.
func (m measure) runs(transport, peer string, round int) bool {
	switch {
	case !m.over(transport), m.plain && transport == "tls", m.rounds > 0 && round >= m.rounds:
		return false
	case m.peers == nil:
		return slices.Contains(usualPeers, peer)
	}
	return slices.Contains(m.peers, peer)
}

// groups splits measures into those that share a proxy: none do, except in a
// quick run.
func groups(list []measure, quick bool) [][]measure {
	if quick {
		return [][]measure{list}
	}
	var each [][]measure
	for _, m := range list {
		each = append(each, []measure{m})
	}
	return each
}

// rotate returns list with its first n moved to the end, so that no peer is
// always the first.
func rotate[T any](list []T, n int) []T {
	n %= max(len(list), 1)
	return append(append([]T(nil), list[n:]...), list[:n]...)
}
