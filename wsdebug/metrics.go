package wsdebug

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"example.com/wsproxy"
)

// Metrics returns a handler that responds with the counts of p and u in
// Prometheus's text format. u is the [wsproxy.Upstream] of p. It may be nil, and
// then the metrics wsproxy_server_up and wsproxy_server_failures_total are absent.
//
//	wsproxy_tunnels{server}                 gauge    open tunnels
//	wsproxy_handshakes                      gauge    upgrade requests without a response yet
//	wsproxy_tunnels_opened_total            counter
//	wsproxy_tunnels_closed_total{reason}    counter  by Reason: "client_closed", "read_timeout"
//	wsproxy_handshakes_refused_total{code}  counter  by status of the response
//	wsproxy_retries_total                   counter  as Stats.Retries
//	wsproxy_forwarded_bytes_total{from}     counter  from "client" and "upstream"
//	wsproxy_messages_total{from}            counter
//	wsproxy_server_up{server}               gauge    0 for a server that is marked Down or down after failures, else 1
//	wsproxy_server_failures_total{server}   counter  as ServerState.Failed
//
// Bytes and messages are counted as they pass, not when the tunnel ends. The servers of
// wsproxy_tunnels are those of p, also without u, and former ones as long as they
// have tunnels. No label has a value that a client chooses.
//
// Package wsprom has the same metrics for programs that use Prometheus's client
// library, and histograms of durations.
func Metrics(p *wsproxy.Proxy, u *wsproxy.Upstream) http.Handler {
	m := MetricsOf(Named{Proxy: p, Upstream: u}).(metrics)
	m[0].label = ""
	return m
}

// MetricsOf is [Metrics] for several proxies. Each sample has one more label,
// proxy, whose value is the Name of the proxy. The servers of an Upstream that
// proxies share appear with each of them. MetricsOf panics if two have the same
// Name, or if one has no Proxy.
func MetricsOf(proxies ...Named) http.Handler {
	names := make(map[string]bool, len(proxies))
	m := make(metrics, len(proxies))
	for i, each := range proxies {
		if names[each.Name] {
			panic(fmt.Sprintf("wsdebug: two proxies have the name %q", each.Name))
		}
		if each.Proxy == nil {
			panic(fmt.Sprintf("wsdebug: the proxy with the name %q is nil", each.Name))
		}
		names[each.Name] = true
		m[i] = labeled{each, label("proxy", each.Name)}
	}
	return m
}

type metrics []labeled

type labeled struct {
	Named
	label string // of all samples; may be empty
}

// A snapshot has the counts of a proxy for one scrape.
type snapshot struct {
	wsproxy.Stats
	servers []wsproxy.ServerState
}

func (m metrics) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	taken := make([]snapshot, len(m))
	for i, each := range m {
		taken[i].Stats = each.Proxy.Stats()
		if each.Upstream != nil {
			taken[i].servers = each.Upstream.Servers()
		}
	}
	var b bytes.Buffer
	for _, f := range families {
		fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", f.name, f.help, f.name, f.kind)
		for i, each := range m {
			f.samples(taken[i], func(value string, n int64) {
				b.WriteString(f.name)
				writeLabels(&b, each.label, label(f.label, value))
				b.WriteByte(' ')
				b.Write(strconv.AppendInt(b.AvailableBuffer(), n, 10))
				b.WriteByte('\n')
			})
		}
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	w.Write(b.Bytes())
}

func writeLabels(b *bytes.Buffer, labels ...string) {
	before := byte('{')
	for _, l := range labels {
		if l != "" {
			b.WriteByte(before)
			b.WriteString(l)
			before = ','
		}
	}
	if before == ',' {
		b.WriteByte('}')
	}
}

var escapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// label returns name="value", or nothing if there is no name. Prometheus refuses
// a scrape that is not UTF-8.
func label(name, value string) string {
	if name == "" {
		return ""
	}
	return name + `="` + escapes.Replace(strings.ToValidUTF8(value, "\uFFFD")) + `"`
}

// A family is the metric of one name.
type family struct {
	name, kind string
	label      string // the label of the values that samples passes; empty for one sample
	help       string // has no backslash and no newline, which would need escapes
	samples    func(s snapshot, put func(value string, n int64))
}

var families = []family{
	{"wsproxy_tunnels", "gauge", "server", "Open tunnels.",
		func(s snapshot, put func(string, int64)) {
			for server, n := range s.LiveByServer() {
				put(server, int64(n))
			}
		}},
	{"wsproxy_handshakes", "gauge", "", "Upgrade requests that have no response yet.",
		func(s snapshot, put func(string, int64)) { put("", int64(s.Handshakes)) }},
	{"wsproxy_tunnels_opened_total", "counter", "", "Tunnels opened.",
		func(s snapshot, put func(string, int64)) { put("", s.Opened) }},
	{"wsproxy_tunnels_closed_total", "counter", "reason", "Tunnels that have ended, by reason.",
		func(s snapshot, put func(string, int64)) {
			for reason, n := range s.ClosedByReason() {
				put(reasonName(reason), n)
			}
		}},
	{"wsproxy_handshakes_refused_total", "counter", "code", "Upgrade requests that opened no tunnel, by status of the response.",
		func(s snapshot, put func(string, int64)) {
			for status, n := range s.RefusedByStatus() {
				put(strconv.Itoa(status), n)
			}
		}},
	{"wsproxy_retries_total", "counter", "", "Times that another server was tried for a request, upgrade or plain.",
		func(s snapshot, put func(string, int64)) { put("", s.Retries) }},
	{"wsproxy_forwarded_bytes_total", "counter", "from", "Bytes that crossed tunnels, framing included, by sender.",
		func(s snapshot, put func(string, int64)) {
			put("client", s.FromClient.Bytes)
			put("upstream", s.FromUpstream.Bytes)
		}},
	{"wsproxy_messages_total", "counter", "from", "Complete text and binary messages that crossed tunnels, by sender.",
		func(s snapshot, put func(string, int64)) {
			put("client", s.FromClient.Messages)
			put("upstream", s.FromUpstream.Messages)
		}},
	{"wsproxy_server_up", "gauge", "server", "Whether the server is up: 0 if it is marked Down or down after failures.",
		func(s snapshot, put func(string, int64)) {
			for _, server := range s.servers {
				up := int64(1)
				if server.Down || !server.DownUntil.IsZero() {
					up = 0
				}
				put(server.Addr, up)
			}
		}},
	{"wsproxy_server_failures_total", "counter", "server", "Failures of the server, as Server.MaxFails defines them.",
		func(s snapshot, put func(string, int64)) {
			for _, server := range s.servers {
				put(server.Addr, server.Failed)
			}
		}},
}
