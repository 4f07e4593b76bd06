package wsprom

import (
	"strconv"
	"strings"

	"example.com/wsproxy"
	"github.com/prometheus/client_golang/prometheus"
)

// NewCollector returns a Collector of the counts of p and u, which it reads at
// each scrape. u is the [wsproxy.Upstream] of p. It may be nil, and then the
// metrics wsproxy_server_up and wsproxy_server_failures_total are absent.
//
// Bytes and messages are counted as they pass, not when the tunnel ends. The servers of
// wsproxy_tunnels are those of p, also without u, and former ones as long as they
// have tunnels.
//
// A registry takes one such Collector. Register those of several proxies with
// [prometheus.WrapRegistererWith] and a label each. NewCollector panics if p is nil.
func NewCollector(p *wsproxy.Proxy, u *wsproxy.Upstream) prometheus.Collector {
	if p == nil { // Collect would panic, on a goroutine of the registry
		panic("wsprom: the proxy is nil")
	}
	return collector{p, u}
}

type collector struct {
	p *wsproxy.Proxy
	u *wsproxy.Upstream
}

var (
	tunnels    = prometheus.NewDesc("wsproxy_tunnels", "Open tunnels.", []string{"server"}, nil)
	handshakes = prometheus.NewDesc("wsproxy_handshakes", "Upgrade requests that have no response yet.", nil, nil)
	opened     = prometheus.NewDesc("wsproxy_tunnels_opened_total", "Tunnels opened.", nil, nil)
	closed     = prometheus.NewDesc("wsproxy_tunnels_closed_total", "Tunnels that have ended, by reason.", []string{"reason"}, nil)
	refused    = prometheus.NewDesc("wsproxy_handshakes_refused_total",
		"Upgrade requests that opened no tunnel, by status of the response.", []string{"code"}, nil)
	retries   = prometheus.NewDesc("wsproxy_retries_total", "Times that another server was tried for a request, upgrade or plain.", nil, nil)
	forwarded = prometheus.NewDesc("wsproxy_forwarded_bytes_total",
		"Bytes that crossed tunnels, framing included, by sender.", []string{"from"}, nil)
	messages = prometheus.NewDesc("wsproxy_messages_total",
		"Complete text and binary messages that crossed tunnels, by sender.", []string{"from"}, nil)
	up = prometheus.NewDesc("wsproxy_server_up",
		"Whether the server is up: 0 if it is marked Down or down after failures.", []string{"server"}, nil)
	failures = prometheus.NewDesc("wsproxy_server_failures_total",
		"Failures of the server, as Server.MaxFails defines them.", []string{"server"}, nil)
)

// Describe implements [prometheus.Collector].
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{tunnels, handshakes, opened, closed, refused, retries, forwarded, messages, up, failures} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (c collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, n int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	counter := func(d *prometheus.Desc, n int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	s := c.p.Stats()
	for server, n := range s.LiveByServer() {
		gauge(tunnels, n, valid(server))
	}
	gauge(handshakes, s.Handshakes)
	counter(opened, s.Opened)
	for reason, n := range s.ClosedByReason() {
		counter(closed, n, strings.ReplaceAll(reason.String(), " ", "_"))
	}
	for status, n := range s.RefusedByStatus() {
		counter(refused, n, strconv.Itoa(status))
	}
	counter(retries, s.Retries)
	counter(forwarded, s.FromClient.Bytes, "client")
	counter(forwarded, s.FromUpstream.Bytes, "upstream")
	counter(messages, s.FromClient.Messages, "client")
	counter(messages, s.FromUpstream.Messages, "upstream")
	if c.u == nil {
		return
	}
	for _, server := range c.u.Servers() {
		state := 1
		if server.Down || !server.DownUntil.IsZero() {
			state = 0
		}
		gauge(up, state, valid(server.Addr))
		counter(failures, server.Failed, valid(server.Addr))
	}
}

// valid returns addr in UTF-8, which labels must be. The path of a unix socket may
// have any bytes.
func valid(addr string) string { return strings.ToValidUTF8(addr, "\uFFFD") }
