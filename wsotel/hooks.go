package wsotel

import (
	"context"
	"errors"
	"net/http"

	"example.com/wsproxy"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Hooks returns the hooks, for [wsproxy.WithHooks], that fill two histograms:
//
//   - wsproxy.handshake.duration, the time from an upgrade request to the
//     upstream's 101, when the tunnel opens. Refused upgrades are not in it. A
//     sampled span in the request's context becomes the exemplar.
//   - wsproxy.tunnel.duration, the lifetime of a tunnel, when it ends. Its buckets
//     go from a second to a day.
//
// The hooks may be given to several proxies, and then count for all of them.
func Hooks(opts ...Option) (wsproxy.Hooks, error) {
	meter, attrs, err := newMeter(opts)
	if err != nil {
		return wsproxy.Hooks{}, err
	}
	// An explicit bucket histogram needs bounds. A view can make it exponential.
	handshake, err1 := meter.Float64Histogram("wsproxy.handshake.duration", metric.WithUnit("s"),
		metric.WithDescription("Time from an upgrade request to the upstream's 101."),
		metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60))
	tunnel, err2 := meter.Float64Histogram("wsproxy.tunnel.duration", metric.WithUnit("s"),
		metric.WithDescription("Time from the upstream's 101 to the end of the tunnel."),
		metric.WithExplicitBucketBoundaries(1, 5, 15, 30, 60, 2*60, 5*60, 15*60, 30*60, 3600, 2*3600, 4*3600, 8*3600, 12*3600, 24*3600))
	if err := errors.Join(err1, err2); err != nil {
		return wsproxy.Hooks{}, err
	}
	always := metric.WithAttributeSet(attribute.NewSet(attrs...))
	closed := func(e wsproxy.Ending) { tunnel.Record(context.Background(), e.Lifetime.Seconds(), always) }
	return wsproxy.Hooks{OnOpen: func(t *wsproxy.Tunnel, r *http.Request) func(wsproxy.Ending) {
		handshake.Record(r.Context(), t.Handshake().Seconds(), always)
		return closed
	}}, nil
}
