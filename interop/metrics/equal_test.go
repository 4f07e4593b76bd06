package metrics_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/wsdebug"
	"github.com/stretchr/testify/assert"
)

// The package wsdebug writes Prometheus's format by hand. Prometheus's own parser
// must find in it what its own library writes.
func TestWsdebugAndWspromHaveTheSameMetricsUnderTraffic(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	prom, debug := "http://"+s.addr+"/wsprom", "http://"+s.addr+"/wsdebug"
	s.load.start(t, 8, 10*time.Millisecond)
	var last scrape
	for s.load.opened.Load() < 200 && !t.Failed() {
		before, between, after := take(t, prom), take(t, debug), take(t, prom)
		assertBetween(t, before, between, after)
		assertBetween(t, last, before, between)
		last = after
		for _, each := range []scrape{before, between, after} {
			assert.Equal(t, each.sum("wsproxy_tunnels_opened_total"), each.sum("wsproxy_tunnels_closed_total")+each.sum("wsproxy_tunnels"),
				"in one scrape, each tunnel is open or closed")
			assert.EqualValues(t, 1, each.values()["wsproxy_tunnels{server="+s.former+"}"], "the tunnel of a server that has left")
			assert.NotContains(t, each.values(), "wsproxy_server_up{server="+s.former+"}")
		}
	}
	s.rest(t)

	ours, theirs := take(t, debug), take(t, prom)
	assert.Equal(t, theirs.values(), ours.values(), "at rest")
	for name, family := range ours {
		assert.Equal(t, theirs[name].GetHelp(), family.GetHelp(), name)
		assert.Equal(t, theirs[name].GetType(), family.GetType(), name)
		delete(theirs, name)
	}
	assert.Equal(t, []string{"wsproxy_handshake_duration_seconds", "wsproxy_tunnel_duration_seconds"}, slices.Sorted(maps.Keys(theirs)),
		"only wsprom has histograms")
	assert.EqualValues(t, s.load.opened.Load(), theirs["wsproxy_handshake_duration_seconds"].Metric[0].Histogram.GetSampleCount())
	assert.EqualValues(t, s.load.opened.Load(), theirs["wsproxy_tunnel_duration_seconds"].Metric[0].Histogram.GetSampleCount())

	assert.Zero(t, ours.sum("wsproxy_tunnels"))
	assert.Zero(t, ours.sum("wsproxy_handshakes"))
	s.assertCounted(t, ours.values())
}

// assertCounted compares counts of the proxy with those of the load.
func (s *stage) assertCounted(t *testing.T, counted map[string]float64) {
	t.Helper()
	l := s.load
	for series, want := range map[string]int64{
		"wsproxy_tunnels_opened_total{}":                          l.opened.Load(),
		"wsproxy_tunnels_closed_total{reason=client_closed}":      l.byClient.Load(),
		"wsproxy_tunnels_closed_total{reason=upstream_closed}":    l.byUpstream.Load(),
		"wsproxy_handshakes_refused_total{code=403}":              l.forbidden.Load(),
		"wsproxy_handshakes_refused_total{code=401}":              l.unauthorized.Load(),
		"wsproxy_forwarded_bytes_total{from=client}":              l.bytes[0].Load(),
		"wsproxy_forwarded_bytes_total{from=upstream}":            l.bytes[1].Load(),
		"wsproxy_messages_total{from=client}":                     l.messages[0].Load(),
		"wsproxy_messages_total{from=upstream}":                   l.messages[1].Load(),
		"wsproxy_server_failures_total{server=" + s.dead + "}":    s.proxy.Stats().Retries,
		"wsproxy_server_failures_total{server=" + s.present + "}": 0,
	} {
		assert.EqualValues(t, want, counted[series], series)
	}
	for series, n := range counted {
		if strings.HasPrefix(series, "wsproxy_handshakes_refused_total{code=5") {
			assert.Zero(t, n, series)
		}
	}
}

// assertBetween checks the counters of three scrapes, one after the other. The
// first may be missing.
func assertBetween(t *testing.T, scrapes ...scrape) {
	t.Helper()
	for i, later := range scrapes[1:] {
		counters := later.counters()
		for series, n := range scrapes[i].counters() {
			now, there := counters[series]
			assert.True(t, there && now >= n, "%s was %v and then %v", series, n, now)
		}
	}
}

// OpenTelemetry's exporter translates names, units and attributes.
func TestWsotelHasTheNamesOfWspromInPrometheus(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.load.start(t, 4, 10*time.Millisecond)
	for s.load.opened.Load() < 50 && !t.Failed() {
		take(t, "http://"+s.addr+"/wsotel")
	}
	s.rest(t)
	otel, prom := take(t, "http://"+s.addr+"/wsotel"), take(t, "http://"+s.addr+"/wsprom")
	assert.Equal(t, slices.Sorted(maps.Keys(prom)), slices.Sorted(maps.Keys(otel)))
	for name, family := range prom {
		assert.Equal(t, family.GetType(), otel[name].GetType(), name)
		assert.Equal(t, family.GetHelp(), otel[name].GetHelp(), name)
		assert.Equal(t, prom.sum(name), otel.sum(name), name)
		assert.Len(t, otel[name].GetMetric(), len(family.GetMetric()), name)
	}
	assert.Contains(t, otel.values(), "wsproxy_handshakes_refused_total{http_response_status_code=403}")
}

// The names of proxies may have any bytes.
func TestPrometheussParserReadsAnyNameOfAProxy(t *testing.T) {
	t.Parallel()
	names := []string{"", "/chat", `a"b\c`, "two\nlines", "tab\t and {}=,", `\n`, "日本", "# HELP", "not \xff UTF-8"}
	var proxies []wsdebug.Named
	for _, name := range names {
		proxies = append(proxies, wsdebug.Named{Name: name, Proxy: testkit.NewProxy(t, "http://unix:/run/a b.sock")})
	}
	families := take(t, "http://"+testkit.Serve(t, wsdebug.MetricsOf(proxies...)))
	var found []string
	for _, m := range families["wsproxy_tunnels"].GetMetric() {
		assert.Equal(t, "proxy", m.Label[0].GetName())
		found = append(found, m.Label[0].GetValue())
		assert.Equal(t, "unix:/run/a b.sock", m.Label[1].GetValue())
	}
	names[len(names)-1] = "not \uFFFD UTF-8"
	assert.Equal(t, names, found)
}
