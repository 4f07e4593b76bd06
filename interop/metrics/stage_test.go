package metrics_test

import (
	"net/http"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/wsdebug"
	"example.com/wsproxy/wsotel"
	"example.com/wsproxy/wsprom"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/stretchr/testify/require"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
)

// A stage is a proxy with three servers, and its metrics in all forms. One server
// has left but still has a tunnel. One refuses connections and is tried again and
// again.
type stage struct {
	proxy *wsproxy.Proxy
	addr  string // of the proxy at /chat and of the metrics by the name of their package

	present, former, dead string  // servers
	tunnel                *client // to the former server
	load                  *load
}

func newStage(t *testing.T) *stage {
	s := &stage{present: newServer(t), former: newServer(t), dead: testkit.RefusingAddr(t)}
	u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: s.former})
	registry := prometheus.NewPedanticRegistry()
	durations, err := wsprom.Durations(registry)
	require.NoError(t, err)

	otelRegistry := prometheus.NewRegistry()
	exporter, err := otelprom.New(otelprom.WithRegisterer(otelRegistry), otelprom.WithoutScopeInfo(), otelprom.WithoutTargetInfo())
	require.NoError(t, err)
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(exporter))
	otelDurations, err := wsotel.Hooks(wsotel.WithMeterProvider(provider))
	require.NoError(t, err)

	s.proxy = testkit.NewProxy(t, "http://chat", wsproxy.WithUpstream(u), wsproxy.WithOrigins("https://good.example"),
		wsproxy.WithReadTimeout(0), // for the tunnel to the former server, which is idle
		wsproxy.WithHooks(durations), wsproxy.WithHooks(otelDurations))
	registry.MustRegister(wsprom.NewCollector(s.proxy, u))
	stop, err := wsotel.Observe(s.proxy, u, wsotel.WithMeterProvider(provider))
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, stop()) })

	mux := http.NewServeMux()
	mux.Handle("/chat", s.proxy)
	mux.Handle("/wsdebug", wsdebug.Metrics(s.proxy, u))
	mux.Handle("/wsprom", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("/wsprom-text", func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("Accept", "text/plain;version=0.0.4") // without native histograms
		promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, r)
	})
	mux.Handle("/wsotel", promhttp.HandlerFor(otelRegistry, promhttp.HandlerOpts{}))
	s.addr = testkit.Serve(t, mux)

	s.load = &load{url: "ws://" + s.addr + "/chat"}
	s.tunnel, err = s.load.open()
	require.NoError(t, err)
	require.NoError(t, u.SetServers(wsproxy.Server{Addr: s.present},
		wsproxy.Server{Addr: s.dead, FailTimeout: 100 * time.Millisecond}))
	return s
}

// rest ends the load and the last tunnel, and waits until the proxy has, too.
func (s *stage) rest(t *testing.T) {
	s.load.end()
	require.NoError(t, s.tunnel.close())
	s.tunnel.Close()
	testkit.Eventually(t, func() bool {
		stats := s.proxy.Stats()
		return stats.Live == 0 && stats.Handshakes == 0 &&
			stats.Refused(http.StatusForbidden) == s.load.forbidden.Load() && stats.Refused(http.StatusUnauthorized) == s.load.unauthorized.Load()
	}, "the proxy is not at rest")
}
