package wsotel_test

import (
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/wsotel"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
)

// stop may be called again, also while the provider collects. It stops one proxy, and
// leaves another one of the same provider.
func TestStopEndsTheObservationOfOneProxy(t *testing.T) {
	provider, reader := newProvider()
	var stops []func() error
	for _, path := range []string{"/chat", "/feed"} {
		stop, err := wsotel.Observe(testkit.NewProxy(t, "http://127.0.0.1"), nil,
			wsotel.WithMeterProvider(provider), wsotel.WithAttributes(attribute.String("wsproxy.proxy", path)))
		require.NoError(t, err)
		stops = append(stops, stop)
	}
	collected := make(chan struct{})
	go func() {
		defer close(collected)
		for range 20 {
			collect(t, reader)
		}
	}()
	assert.NoError(t, stops[0]())
	assert.NoError(t, stops[0]())
	<-collected
	assert.Equal(t, map[string]int64{"wsproxy.proxy=/feed": 0}, values(collect(t, reader)["wsproxy.retries"]))
	assert.NoError(t, stops[1]())
	assert.Empty(t, collect(t, reader))
}

// Without this, the failure comes with the first collection, in a goroutine of the
// provider, and ends the program.
func TestAProxyOfNilIsRefused(t *testing.T) {
	provider, _ := newProvider()
	_, err := wsotel.Observe((*wsproxy.Proxy)(nil), nil, wsotel.WithMeterProvider(provider))
	assert.EqualError(t, err, "wsotel: the proxy is nil")
}
