package wsprom_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/wsprom"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/prometheus/common/expfmt"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// samples returns the lines of the text format that are samples of names.
func samples(text string, names ...string) (found []string) {
	for line := range strings.SplitSeq(text, "\n") {
		name, _, _ := strings.Cut(strings.Replace(line, " ", "{", 1), "{")
		if slices.Contains(names, name) {
			found = append(found, line)
		}
	}
	return found
}

// promlint has Prometheus's rules for names, units and help.
func TestMetricsKeepPrometheussRules(t *testing.T) {
	registry := prometheus.NewPedanticRegistry() // checks Collect against Describe
	_, err := wsprom.Durations(registry)
	require.NoError(t, err)
	u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: "192.0.2.1:80"}, wsproxy.Server{Addr: "192.0.2.2:80", Backup: true})
	registry.MustRegister(wsprom.NewCollector(testkit.NewProxy(t, "http://chat", wsproxy.WithUpstream(u)), u))
	problems, err := testutil.GatherAndLint(registry)
	require.NoError(t, err)
	assert.Empty(t, problems)

	families, err := registry.Gather()
	require.NoError(t, err)
	assert.Len(t, families, 12, "the ten of the Collector and the two of Durations")
}

func TestTheCollectorReportsWhatTheProxyCounts(t *testing.T) {
	a := testkit.NewUpstream(t)
	dead := testkit.RefusingAddr(t)
	u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: dead}, wsproxy.Server{Addr: a.Addr})
	endings := testkit.NewEndings()
	proxy, addr := testkit.ServeProxy(t, "http://chat", wsproxy.WithUpstream(u), endings.Option(), wsproxy.WithMaxTunnels(1))
	collector := wsprom.NewCollector(proxy, u)

	client := testkit.Dial(t, addr)
	server := a.Handshake(t, client) // after a failure of the other server
	testkit.Do(t, addr, testkit.SampleRequest)
	from, to := testkit.Ends(client, server)
	from.SendFrame(t, testkit.Text, "hello")
	to.ExpectFrame(t, testkit.Text, "hello")
	testkit.Eventually(t, func() bool { return proxy.Stats().Refused(503) == 1 }, "no refusal counted")
	assertCounts(t, collector, `
		wsproxy_forwarded_bytes_total{from="client"} 11
		wsproxy_forwarded_bytes_total{from="upstream"} 0
		wsproxy_handshakes 0
		wsproxy_messages_total{from="client"} 1
		wsproxy_messages_total{from="upstream"} 0
		wsproxy_retries_total 1
		wsproxy_server_failures_total{server="`+a.Addr+`"} 0
		wsproxy_server_failures_total{server="`+dead+`"} 1
		wsproxy_server_up{server="`+a.Addr+`"} 1
		wsproxy_server_up{server="`+dead+`"} 0
		wsproxy_tunnels_opened_total 1
		wsproxy_tunnels{server="`+a.Addr+`"} 1
		wsproxy_tunnels{server="`+dead+`"} 0
	`)

	require.NoError(t, u.SetServers(wsproxy.Server{Addr: dead}))
	assert.Equal(t, 2, testutil.CollectAndCount(collector, "wsproxy_tunnels"), "the former server still has a tunnel")
	assert.Equal(t, 1, testutil.CollectAndCount(collector, "wsproxy_server_up"))
	client.Close()
	server.ExpectEOF(t, "")
	server.Close()
	endings.Next(t)
	testkit.Eventually(t, func() bool { return proxy.Stats().Live == 0 }, "the tunnel stays")
	assertCounts(t, collector, `wsproxy_tunnels{server="`+dead+`"} 0`)
	text, err := testutil.CollectAndFormat(collector, expfmt.TypeTextPlain, "wsproxy_tunnels_closed_total", "wsproxy_handshakes_refused_total")
	require.NoError(t, err)
	assert.Contains(t, string(text), `wsproxy_tunnels_closed_total{reason="client_closed"} 1`+"\n")
	assert.Contains(t, string(text), `wsproxy_handshakes_refused_total{code="503"} 1`+"\n")
}

// assertCounts compares all samples of the metrics that want names.
func assertCounts(t *testing.T, c prometheus.Collector, want string) {
	t.Helper()
	var names, lines []string
	for line := range strings.SplitSeq(strings.TrimSpace(want), "\n") {
		line = strings.TrimSpace(line)
		lines = append(lines, line)
		name, _, _ := strings.Cut(strings.Replace(line, " ", "{", 1), "{")
		names = append(names, name)
	}
	text, err := testutil.CollectAndFormat(c, expfmt.TypeTextPlain, names...)
	require.NoError(t, err)
	assert.ElementsMatch(t, lines, samples(string(text), names...))
}

// A label that is not UTF-8 would fail the whole scrape.
func TestTheAddressOfAUnixSocketMayHaveAnyBytes(t *testing.T) {
	u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: "unix:/run/\xff.sock"})
	collector := wsprom.NewCollector(testkit.NewProxy(t, "http://chat", wsproxy.WithUpstream(u)), u)
	assertCounts(t, collector, "wsproxy_tunnels{server=\"unix:/run/\uFFFD.sock\"} 0\nwsproxy_server_up{server=\"unix:/run/\uFFFD.sock\"} 1")
}

// Without this, the failure comes with the first scrape, on a goroutine of the
// registry, and ends the program.
func TestAProxyOfNilIsRefused(t *testing.T) {
	assert.PanicsWithValue(t, "wsprom: the proxy is nil", func() { wsprom.NewCollector(nil, nil) })
}

// The lifetime of a tunnel in a histogram of latencies is a common complaint
// (traefik/traefik#2905, istio/istio#17424). Here each has its own.
func TestHandshakesAndTunnelsHaveAHistogramEach(t *testing.T) {
	registry := prometheus.NewRegistry()
	hooks, err := wsprom.Durations(registry)
	require.NoError(t, err)
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil, wsproxy.WithHooks(hooks), wsproxy.WithReadTimeout(0))
		client := r.SendHandshake(t)
		server := <-r.Upstreams
		server.Request(t)
		time.Sleep(30 * time.Millisecond)
		server.Send(t, testkit.SampleSwitch)
		client.WantSwitch(t)
		assert.EqualValues(t, 1, histogram(t, registry, "wsproxy_handshake_duration_seconds").GetSampleCount(), "while the tunnel is open")
		assert.EqualValues(t, 0, histogram(t, registry, "wsproxy_tunnel_duration_seconds").GetSampleCount())
		time.Sleep(3 * time.Hour)
		client.Close()
		server.ExpectEOF(t, "")
		server.Close()
		synctest.Wait()
	})
	for name, want := range map[string]struct{ seconds, bucket float64 }{
		"wsproxy_handshake_duration_seconds": {0.03, 0.05},
		"wsproxy_tunnel_duration_seconds":    {3 * 3600, 4 * 3600},
	} {
		h := histogram(t, registry, name)
		assert.EqualValues(t, 1, h.GetSampleCount())
		assert.InDelta(t, want.seconds, h.GetSampleSum(), 1e-9)
		for _, bucket := range h.GetBucket() {
			assert.Equal(t, bucket.GetUpperBound() >= want.bucket, bucket.GetCumulativeCount() == 1, "%s: bucket %v", name, bucket.GetUpperBound())
		}
		assert.NotEmpty(t, h.GetPositiveSpan(), "%s is a native histogram as well", name)
		assert.EqualValues(t, 3, h.GetSchema(), "%s: a native bucket is at most 1.1 times the one before", name)
	}
	buckets := histogram(t, registry, "wsproxy_tunnel_duration_seconds").GetBucket()
	assert.EqualValues(t, 1, buckets[0].GetUpperBound(), "from a second")
	assert.EqualValues(t, 24*3600, buckets[len(buckets)-1].GetUpperBound(), "to a day")
}

func TestDurationsRegistersBothHistogramsOrNone(t *testing.T) {
	registry := prometheus.NewRegistry()
	_, err := wsprom.Durations(registry)
	require.NoError(t, err)
	_, err = wsprom.Durations(registry)
	var already prometheus.AlreadyRegisteredError
	assert.True(t, errors.As(err, &already))

	registry = prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "wsproxy_tunnel_duration_seconds", Help: "In the way."}))
	_, err = wsprom.Durations(registry)
	require.Error(t, err)
	families, err := registry.Gather()
	require.NoError(t, err)
	assert.Len(t, families, 1, "the first histogram is not left behind")
}
