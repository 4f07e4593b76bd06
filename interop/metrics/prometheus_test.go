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

// A job is what Prometheus scrapes: the metrics of a proxy and the load on it.
type job struct {
	name, addr, path   string
	l                  *load
	from, code, reason string // labels
}

// A real Prometheus scrapes proxies under load, one of which is the command. What its
// query language makes of the samples equals what the loads did.
//
// With -soak=5m it runs longer, and the log has the figures.
func TestPrometheusQueriesReturnWhatTheLoadsDid(t *testing.T) {
	t.Parallel() // Prometheus takes 5 seconds to begin
	program := testkit.Program(t, "prometheus")
	s := newStage(t)
	command := runCommand(t, s.present)
	jobs := []job{command}
	for _, name := range []string{"wsdebug", "wsprom", "wsprom-text"} {
		jobs = append(jobs, job{name, s.addr, "/" + name, s.load, "from", "code", "reason"})
	}
	jobs = append(jobs, job{"wsotel", s.addr, "/wsotel", s.load, "wsproxy_from", "http_response_status_code", "wsproxy_reason"})
	p := startPrometheus(t, program, jobs)
	for _, j := range jobs {
		p.eventually(t, fmt.Sprintf(`up{job=%q}`, j.name), 1)
	}
	s.load.start(t, 16, 200*time.Millisecond)
	command.l.start(t, 16, 200*time.Millisecond)
	time.Sleep(*soak)
	for _, j := range jobs {
		p.eventually(t, fmt.Sprintf(`sum(wsproxy_tunnels{job=%q}) > bool 3`, j.name), 1) // the load has 16 at most
	}
	command.l.end()
	s.rest(t)

	for _, j := range jobs {
		t.Run(j.name, func(t *testing.T) {
			p.assertCounts(t, j)
			if j.l == s.load {
				p.eventually(t, fmt.Sprintf(`sum(wsproxy_retries_total{job=%q})`, j.name), float64(s.proxy.Stats().Retries))
				p.eventually(t, fmt.Sprintf(`sum(wsproxy_server_failures_total{job=%q})`, j.name), float64(s.proxy.Stats().Retries))
				p.eventually(t, fmt.Sprintf(`count(wsproxy_tunnels{job=%q})`, j.name), 2) // the former server is gone with its tunnel
			}
		})
	}
	p.eventually(t, `histogram_count(wsproxy_tunnel_duration_seconds{job="wsprom"})`, float64(s.load.opened.Load())) // native
	p.eventually(t, `histogram_count(wsproxy_handshake_duration_seconds{job="wsprom"})`, float64(s.load.opened.Load()))
	for _, name := range []string{"wsprom-text", "wsotel"} {
		p.eventually(t, fmt.Sprintf(`wsproxy_tunnel_duration_seconds_count{job=%q}`, name), float64(s.load.opened.Load()))
		p.eventually(t, fmt.Sprintf(`wsproxy_handshake_duration_seconds_bucket{job=%q,le="+Inf"}`, name), float64(s.load.opened.Load()))
	}
	for _, line := range regexp.MustCompile(`.*msg="Scrape failed".*`).FindAllString(p.output.String(), -1) {
		assert.Contains(t, line, "context deadline exceeded") // of a busy machine
	}
	for _, j := range []job{command, jobs[1]} {
		scrapes, _ := p.query(t, fmt.Sprintf(`sum_over_time(up{job=%q}[1h])`, j.name))
		most, _ := p.query(t, fmt.Sprintf(`max_over_time(sum(wsproxy_tunnels{job=%q})[1h:200ms])`, j.name))
		t.Logf("%s, %v: %d tunnels, %d refusals, %d messages and %d bytes from clients; %v scrapes, at most %v open", j.name, *soak, j.l.opened.Load(),
			j.l.forbidden.Load()+j.l.unauthorized.Load(), j.l.messages[0].Load(), j.l.bytes[0].Load(), scrapes, most)
	}
}

// assertCounts compares the samples of a job with its load, which has ended.
func (p prometheusServer) assertCounts(t *testing.T, j job) {
	t.Helper()
	l := j.l
	for query, want := range map[string]int64{
		`sum(wsproxy_tunnels_opened_total{job=%q})`:                                    l.opened.Load(),
		`sum(wsproxy_tunnels_closed_total{job=%q})`:                                    l.opened.Load(),
		`sum(wsproxy_tunnels_closed_total{job=%q,` + j.reason + `="client_closed"})`:   l.byClient.Load(),
		`sum(wsproxy_tunnels_closed_total{job=%q,` + j.reason + `="upstream_closed"})`: l.byUpstream.Load(),
		`sum(wsproxy_handshakes_refused_total{job=%q})`:                                l.forbidden.Load() + l.unauthorized.Load(),
		`sum(wsproxy_handshakes_refused_total{job=%q,` + j.code + `="403"})`:           l.forbidden.Load(),
		`sum(wsproxy_forwarded_bytes_total{job=%q,` + j.from + `="client"})`:           l.bytes[0].Load(),
		`sum(wsproxy_forwarded_bytes_total{job=%q,` + j.from + `="upstream"})`:         l.bytes[1].Load(),
		`sum(wsproxy_messages_total{job=%q,` + j.from + `="client"})`:                  l.messages[0].Load(),
		`sum(wsproxy_messages_total{job=%q,` + j.from + `="upstream"})`:                l.messages[1].Load(),

		`sum(wsproxy_tunnels{job=%q})`:    0, // gauges return to zero
		`sum(wsproxy_handshakes{job=%q})`: 0,

		`count({__name__=~"wsproxy_.*",job=%q}) < bool 100`: 1, // the series are bounded
	} {
		p.eventually(t, fmt.Sprintf(query, j.name), float64(want))
	}
	for name, family := range take(t, "http://"+j.addr+j.path) {
		if family.GetType() == dto.MetricType_COUNTER {
			p.eventually(t, fmt.Sprintf("sum(resets(%s{job=%q}[1h]))", name, j.name), 0) // it never fell
		}
	}
}

// A prometheusServer is a running Prometheus.
type prometheusServer struct {
	url    string
	output *testkit.Buffer
}

// startPrometheus runs a Prometheus that scrapes jobs.
func startPrometheus(t *testing.T, program string, jobs []job) prometheusServer {
	t.Helper()
	dir := t.TempDir()
	config := "global: {scrape_interval: 200ms, scrape_timeout: 200ms}\nscrape_configs:\n"
	for _, j := range jobs {
		config += fmt.Sprintf("- {job_name: %s, metrics_path: %s, static_configs: [{targets: [%q]}]}\n", j.name, j.path, j.addr)
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
	var listening []string // logged by another goroutine
	testkit.Eventually(t, func() bool {
		listening = regexp.MustCompile(`msg="Listening on" address=(\S+)\n`).FindStringSubmatch(output.String())
		return listening != nil
	}, "Prometheus does not listen")
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
