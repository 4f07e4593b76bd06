package main

import (
	"fmt"
	"strings"
)

// The measures over HTTP/2, with TLS to the proxy: the tunnels are streams of ten
// connections. Only some of the peers can do that.

var http2Peers = []string{"wsproxy", "haproxy", "caddy"}

const (
	fewStreams  = 64
	manyStreams = 1000
)

var http2Measures = []measure{
	{name: "h2-rt-128-64", label: "128 B, 64 tunnels", kind: "h2-roundtrip", size: 128, conns: fewStreams, metrics: roundtrip, peers: http2Peers},
	{name: "h2-rt-128-1000", label: "128 B, 1000 tunnels", kind: "h2-roundtrip", size: 128, conns: manyStreams, metrics: roundtrip, peers: http2Peers},
	{name: "h2-handshake", label: "handshakes, 30 at a time", kind: "h2-handshake", conns: 30, peers: http2Peers, metrics: []metric{
		{"rate", "1/s", "handshakes/s"}, {"cpu", "µs", "CPU/handshake, µs"}, busy}},
	{name: "h2-idle", label: "idle tunnels", kind: "h2-open", size: 128, peers: http2Peers, metrics: []metric{
		{"few", "kB", fmt.Sprintf("kB/tunnel at %d", fewStreams)},
		{"many", "kB", fmt.Sprintf("kB/tunnel at %d", manyStreams)}}},
}

// over reports whether m is taken over a transport.
func (m measure) over(transport string) bool {
	return strings.HasPrefix(m.kind, "h2-") == (transport == "h2")
}
