package wsprom

import (
	"net/http"
	"time"

	"example.com/wsproxy"
	"github.com/prometheus/client_golang/prometheus"
)

// Buckets of the classic histograms, in seconds. A handshake takes a fraction of a
// millisecond on one machine, and up to a minute with wsproxy's default timeouts.
var (
	handshakeBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}
	tunnelBuckets    = []float64{1, 5, 15, 30, 60, 2 * 60, 5 * 60, 15 * 60, 30 * 60, 3600, 2 * 3600, 4 * 3600, 8 * 3600, 12 * 3600, 24 * 3600}
)

// Durations registers two histograms with reg and returns the Hooks, for
// [wsproxy.WithHooks], that fill them:
//
//   - wsproxy_handshake_duration_seconds, the time from an upgrade request to the
//     upstream's 101, when the tunnel opens. Refused upgrades are not in it.
//   - wsproxy_tunnel_duration_seconds, the lifetime of a tunnel, when it ends. The
//     classic buckets go from a second to a day.
//
// Both are native and classic at once. Prometheus's configuration decides which
// form it stores.
//
// The Hooks may be given to several proxies, and then count for all of them.
// Durations returns the error of [prometheus.Registerer.Register], which is a
// [prometheus.AlreadyRegisteredError] at the second call with the same reg. If it
// fails, nothing is registered.
func Durations(reg prometheus.Registerer) (wsproxy.Hooks, error) {
	handshake := newHistogram("wsproxy_handshake_duration_seconds", "Time from an upgrade request to the upstream's 101.", handshakeBuckets)
	tunnel := newHistogram("wsproxy_tunnel_duration_seconds", "Time from the upstream's 101 to the end of the tunnel.", tunnelBuckets)
	if err := reg.Register(handshake); err != nil {
		return wsproxy.Hooks{}, err
	}
	if err := reg.Register(tunnel); err != nil {
		reg.Unregister(handshake)
		return wsproxy.Hooks{}, err
	}
	closed := func(e wsproxy.Ending) { tunnel.Observe(e.Lifetime.Seconds()) }
	return wsproxy.Hooks{OnOpen: func(t *wsproxy.Tunnel, _ *http.Request) func(wsproxy.Ending) {
		handshake.Observe(t.Handshake().Seconds())
		return closed
	}}, nil
}

func newHistogram(name, help string, buckets []float64) prometheus.Histogram {
	return prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: name, Help: help, Buckets: buckets,
		NativeHistogramBucketFactor:     1.1,
		NativeHistogramMaxBucketNumber:  160,
		NativeHistogramMinResetDuration: time.Hour,
	})
}
