package wsprom_test

import (
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"example.com/wsproxy"
	"example.com/wsproxy/wsprom"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// The histograms come first, because New needs their hooks.
func Example() {
	registry := prometheus.NewRegistry()
	durations, err := wsprom.Durations(registry)
	if err != nil {
		log.Fatal(err)
	}
	upstream, err := wsproxy.NewUpstream(wsproxy.RoundRobin(), wsproxy.Server{Addr: "192.0.2.1:3000"})
	if err != nil {
		log.Fatal(err)
	}
	proxy, err := wsproxy.New("http://chat", wsproxy.WithUpstream(upstream), wsproxy.WithHooks(durations))
	if err != nil {
		log.Fatal(err)
	}
	registry.MustRegister(wsprom.NewCollector(proxy, upstream))

	admin := http.NewServeMux()
	admin.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	// go http.ListenAndServe("localhost:9090", admin)

	printSamples(admin, "wsproxy_server_up", "wsproxy_tunnel_duration_seconds_count")
	// Output:
	// wsproxy_server_up{server="192.0.2.1:3000"} 1
	// wsproxy_tunnel_duration_seconds_count 0
}

// Several proxies, such as those of different routes, need a label each. The name
// of the label that package wsdebug uses is proxy.
func ExampleNewCollector_several() {
	registry := prometheus.NewRegistry()
	mux := http.NewServeMux()
	for _, route := range []struct{ path, target string }{
		{"/chat", "http://192.0.2.1:3000"},
		{"/feed", "http://192.0.2.2:3000"},
	} {
		labeled := prometheus.WrapRegistererWith(prometheus.Labels{"proxy": route.path}, registry)
		durations, err := wsprom.Durations(labeled)
		if err != nil {
			log.Fatal(err)
		}
		proxy, err := wsproxy.New(route.target, wsproxy.WithHooks(durations))
		if err != nil {
			log.Fatal(err)
		}
		labeled.MustRegister(wsprom.NewCollector(proxy, nil))
		mux.Handle(route.path, proxy)
	}

	printSamples(promhttp.HandlerFor(registry, promhttp.HandlerOpts{}), "wsproxy_tunnels")
	// Output:
	// wsproxy_tunnels{proxy="/chat",server="192.0.2.1:3000"} 0
	// wsproxy_tunnels{proxy="/feed",server="192.0.2.2:3000"} 0
}

func printSamples(metrics http.Handler, names ...string) {
	w := httptest.NewRecorder()
	metrics.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, line := range samples(w.Body.String(), names...) {
		fmt.Println(line)
	}
}
