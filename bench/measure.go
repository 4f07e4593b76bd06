package main

import "fmt"

// A measure is one thing done to a proxy. It yields one value for each of its
// metrics.
type measure struct {
	name    string
	label   string
	kind    string // of the load's job
	size    int    // of messages
	conns   int
	metrics []metric
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
)

// The figures depend on these sizes. -quick uses small ones.
const (
	fewTunnels  = 1000
	manyTunnels = 9000
)

var measures = []measure{
	{"rt-128-1", "128 B, 1 connection", "roundtrip", 128, 1, roundtrip},
	{"rt-128-64", "128 B, 64 connections", "roundtrip", 128, 64, roundtrip},
	{"rt-128-1000", "128 B, 1000 connections", "roundtrip", 128, 1000, roundtrip},
	{"rt-1k-64", "1 KiB, 64 connections", "roundtrip", 1 << 10, 64, roundtrip},
	{"rt-64k-16", "64 KiB, 16 connections", "roundtrip", 64 << 10, 16, roundtrip},
	{"rt-1m-4", "1 MiB, 4 connections", "roundtrip", 1 << 20, 4, roundtrip},
	{"stream", "stream of 64 KiB messages to 8 clients", "stream", 1, 8, []metric{
		{"mbps", "MB/s", "MB/s"}, {"cpu", "µs", "CPU/MB, µs"}, busy}},
	{"handshake", "handshakes, 32 at a time", "handshake", 0, 32, []metric{
		{"rate", "1/s", "handshakes/s"}, {"cpu", "µs", "CPU/handshake, µs"}, busy}},
	{"idle", "idle tunnels", "open", 128, 0, []metric{
		{"few", "kB", fmt.Sprintf("kB/tunnel at %d", fewTunnels)},
		{"many", "kB", fmt.Sprintf("kB/tunnel at %d", manyTunnels)},
		{"cpu", "ms", fmt.Sprintf("CPU at %d, ms/s", manyTunnels)}}},
}

func measureNames() []string {
	var names []string
	for _, m := range measures {
		names = append(names, m.name)
	}
	return names
}

// portablePeer runs only if -peers names it.
const portablePeer = "wsproxy-portable"

// defaultPeers are the others, in the table's order.
var defaultPeers = []string{"direct", "wsproxy", "wsproxy-detached", "nginx", "haproxy", "caddy", "httputil", floorPeer}

// floorPeer is the least that a proxy over net/http does. It runs only where
// handshakes are measured.
const floorPeer = "floor"

// runs reports whether m is measured for a peer.
func (m measure) runs(peer string) bool { return peer != floorPeer || m.kind == "handshake" }

// measuresOf returns those of list that are measured for a peer.
func measuresOf(list []measure, peer string) []measure {
	var some []measure
	for _, m := range list {
		if m.runs(peer) {
			some = append(some, m)
		}
	}
	return some
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
