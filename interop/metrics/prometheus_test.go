package metrics_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/lab"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A real Prometheus scrapes a proxy under load. What its query language makes of the
// samples equals what the load did.
//
// In a longer run, with -soak=5m, the log tells the figures.
func TestPrometheusQueriesReturnWhatTheLoadDid(t *testing.T) {
	t.Parallel() // Prometheus takes 5 seconds to begin
	program := testkit.Program(t, "prometheus")
	s := newStage(t)
	jobs := []string{"wsdebug", "wsprom", "wsprom-text", "wsotel"}
	p := startPrometheus(t, program, s.addr, jobs)
	for _, job := range jobs {
		p.eventually(t, fmt.Sprintf(`up{job=%q}`, job), 1)
	}
	s.load.start(t, 16, 200*time.Millisecond)
	time.Sleep(*soak)
	for _, job := range jobs {
		p.eventually(t, fmt.Sprintf(`sum(wsproxy_tunnels{job=%q}) > bool 3`, job), 1) // the load has 16 at most
	}
	s.rest(t)

	for _, job := range jobs {
		t.Run(job, func(t *testing.T) { s.assertQueried(t, p, job) })
	}
	for _, line := range regexp.MustCompile(`.*msg="Scrape failed".*`).FindAllString(p.output.String(), -1) {
		assert.Contains(t, line, "context deadline exceeded") // of a busy machine
	}
	if t.Failed() {
		return
	}
	l := s.load
	scrapes, _ := p.query(t, `count_over_time(up{job="wsdebug"}[1h])`)
	most, _ := p.query(t, `max_over_time(sum(wsproxy_tunnels{job="wsdebug"})[1h:200ms])`)
	t.Logf("%v: %d tunnels, %d refusals, %d messages and %d bytes from clients, %v scrapes of each job, at most %v open",
		*soak, l.opened.Load(), l.forbidden.Load()+l.unauthorized.Load(), l.messages[0].Load(), l.bytes[0].Load(), scrapes, most)
}

// assertQueried compares the samples of one job with the load. The proxy is at
// rest.
func (s *stage) assertQueried(t *testing.T, p prometheusServer, job string) {
	from, code, reason := "from", "code", "reason"
	if job == "wsotel" {
		from, code, reason = "wsproxy_from", "http_response_status_code", "wsproxy_reason"
	}
	l := s.load
	p.eventually(t, fmt.Sprintf(`sum(wsproxy_tunnels_closed_total{job=%q})`, job), float64(l.opened.Load()))
	for query, want := range map[string]int64{
		`sum(wsproxy_tunnels_opened_total{job=%q})`:                                  l.opened.Load(),
		`sum(wsproxy_tunnels_closed_total{job=%q,` + reason + `="client_closed"})`:   l.byClient.Load(),
		`sum(wsproxy_tunnels_closed_total{job=%q,` + reason + `="upstream_closed"})`: l.byUpstream.Load(),
		`sum(wsproxy_handshakes_refused_total{job=%q})`:                              l.forbidden.Load() + l.unauthorized.Load(),
		`sum(wsproxy_handshakes_refused_total{job=%q,` + code + `="403"})`:           l.forbidden.Load(),
		`sum(wsproxy_forwarded_bytes_total{job=%q,` + from + `="client"})`:           l.bytes[0].Load(),
		`sum(wsproxy_forwarded_bytes_total{job=%q,` + from + `="upstream"})`:         l.bytes[1].Load(),
		`sum(wsproxy_messages_total{job=%q,` + from + `="client"})`:                  l.messages[0].Load(),
		`sum(wsproxy_messages_total{job=%q,` + from + `="upstream"})`:                l.messages[1].Load(),
		`sum(wsproxy_retries_total{job=%q})`:                                         s.proxy.Stats().Retries,
		`sum(wsproxy_server_failures_total{job=%q})`:                                 s.proxy.Stats().Retries,

		// Gauges return to zero. The former server is gone with its tunnel.
		`sum(wsproxy_tunnels{job=%q})`:    0,
		`count(wsproxy_tunnels{job=%q})`:  2,
		`sum(wsproxy_handshakes{job=%q})`: 0,

		// Every scrape succeeded, and the counters are no more than documented.
		`min_over_time(up{job=%q}[1h])`:                     1,
		`count({__name__=~"wsproxy_.*",job=%q}) < bool 100`: 1, // series are bounded
	} {
		p.eventually(t, fmt.Sprintf(query, job), float64(want))
	}
	for name, family := range take(t, "http://"+s.addr+"/"+job) {
		if family.GetType() == dto.MetricType_COUNTER {
			p.eventually(t, fmt.Sprintf("sum(resets(%s{job=%q}[1h]))", name, job), 0) // it never fell
		}
	}
	switch job {
	case "wsprom": // Prometheus prefers native histograms
		p.eventually(t, `histogram_count(wsproxy_tunnel_duration_seconds{job="wsprom"})`, float64(l.opened.Load()))
		p.eventually(t, `histogram_count(wsproxy_handshake_duration_seconds{job="wsprom"})`, float64(l.opened.Load()))
	case "wsprom-text", "wsotel":
		p.eventually(t, fmt.Sprintf(`wsproxy_tunnel_duration_seconds_count{job=%q}`, job), float64(l.opened.Load()))
		p.eventually(t, fmt.Sprintf(`wsproxy_handshake_duration_seconds_bucket{job=%q,le="+Inf"}`, job), float64(l.opened.Load()))
	}
}

// A prometheusServer is a running Prometheus.
type prometheusServer struct {
	url    string
	output *testkit.Buffer
}

// startPrometheus runs a Prometheus that scrapes the paths of addr, each as a job.
func startPrometheus(t *testing.T, program, addr string, paths []string) prometheusServer {
	t.Helper()
	dir := t.TempDir()
	config := "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\nscrape_configs:\n"
	for _, path := range paths {
		config += fmt.Sprintf("- {job_name: %s, metrics_path: /%s, static_configs: [{targets: [%q]}]}\n", path, path, addr)
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600))
	output := new(testkit.Buffer)
	cmd := exec.Command(program, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address=127.0.0.1:0", "--enable-feature=native-histograms", "--log.level=debug")
	cmd.Stderr = output
	lab.Start(t, cmd)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("Prometheus said:\n%s", output)
		}
	})
	output.Await(t, "Server is ready to receive web requests.")
	listening := regexp.MustCompile(`msg="Listening on" address=(\S+)`).FindStringSubmatch(output.String())
	require.NotNil(t, listening, "%s", output)
	return prometheusServer{"http://" + listening[1], output}
}

// query returns the one value of a query, or false if there is not one.
func (p prometheusServer) query(t *testing.T, query string) (float64, bool) {
	t.Helper()
	res, err := http.Get(p.url + "/api/v1/query?query=" + url.QueryEscape(query))
	require.NoError(t, err)
	defer res.Body.Close()
	var response struct {
		Error string
		Data  struct {
			Result []struct{ Value [2]any }
		}
	}
	require.NoError(t, json.NewDecoder(res.Body).Decode(&response))
	require.Empty(t, response.Error, query)
	if len(response.Data.Result) != 1 {
		return 0, false
	}
	value, err := strconv.ParseFloat(response.Data.Result[0].Value[1].(string), 64)
	require.NoError(t, err)
	return value, true
}

// eventually waits for scrapes that make a query's value want. One that fails makes
// a query have none for a moment.
func (p prometheusServer) eventually(t *testing.T, query string, want float64) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		got, ok := p.query(t, query)
		if ok && got == want {
			return
		}
		require.True(t, time.Now().Before(deadline), "%s is %v (%v), want %v", query, got, ok, want)
	}
}
