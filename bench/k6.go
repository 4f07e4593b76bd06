package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// k6Measure is taken with -k6 only, because building k6 takes minutes.
var k6Measure = measure{name: "k6", label: "the same by k6, on all cores", kind: "k6", conns: 1200, plain: true, spread: true,
	peers: []string{"wsproxy", "wsproxy-detached", "nginx", "haproxy", "httputil"}, rounds: 3, metrics: []metric{
		{"rate", "1/s", "sessions/s"}, {"cpu", "µs", "CPU/session, µs"},
		{"connect95", "µs", "connecting, p95, µs"}, {"p99", "µs", "message, p99, µs"}}}

// parseK6 reads the summary that k6 exports, whose times are in milliseconds. A
// quantile is the median over the parts of the run, so that a stall of k6 or of the
// machine counts for one part.
func parseK6(text []byte, length time.Duration) (map[string]float64, error) {
	var summary struct {
		Metrics map[string]map[string]float64
	}
	if err := json.Unmarshal(text, &summary); err != nil {
		return nil, fmt.Errorf("k6's summary: %w", err)
	}
	quantiles := map[string][]float64{}
	for name, m := range summary.Metrics {
		if of, _, ok := strings.Cut(name, "{part:"); ok && m["med"] > 0 {
			for q, ms := range m {
				quantiles[of+q] = append(quantiles[of+q], ms*1e3)
			}
		}
	}
	switch failed, sessions := summary.Metrics["failed"]["count"], summary.Metrics["iterations"]["count"]; {
	case failed > 0:
		return nil, fmt.Errorf("k6: %v failures", failed)
	case sessions == 0 || len(quantiles) == 0:
		return nil, errors.New("k6: no sessions")
	default:
		return map[string]float64{
			"rate":      sessions / length.Seconds(),
			"connect95": median(quantiles["ws_connectingp(95)"]),
			"p50":       median(quantiles["tripmed"]),
			"p99":       median(quantiles["tripp(99)"]),
		}, nil
	}
}
