package wsdebug_test

import (
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"

	"example.com/wsproxy"
	"example.com/wsproxy/wsdebug"
)

// Serve the metrics on an address of their own, which clients cannot reach.
func ExampleMetrics() {
	u, err := wsproxy.NewUpstream(wsproxy.RoundRobin(),
		wsproxy.Server{Addr: "192.0.2.1:3000"}, wsproxy.Server{Addr: "192.0.2.2:3000", Down: true})
	if err != nil {
		log.Fatal(err)
	}
	proxy, err := wsproxy.New("http://chat", wsproxy.WithUpstream(u))
	if err != nil {
		log.Fatal(err)
	}
	admin := http.NewServeMux()
	admin.Handle("GET /metrics", wsdebug.Metrics(proxy, u))
	// go http.ListenAndServe("localhost:9090", admin)

	printSamples(admin, "wsproxy_server_up")
	// Output:
	// wsproxy_server_up{server="192.0.2.1:3000"} 1
	// wsproxy_server_up{server="192.0.2.2:3000"} 0
}

// Several proxies differ in the label proxy.
func ExampleMetricsOf() {
	chat, err := wsproxy.New("http://192.0.2.1:3000")
	if err != nil {
		log.Fatal(err)
	}
	feed, err := wsproxy.New("http://192.0.2.2:3000")
	if err != nil {
		log.Fatal(err)
	}
	metrics := wsdebug.MetricsOf(
		wsdebug.Named{Name: "/chat", Proxy: chat},
		wsdebug.Named{Name: "/feed", Proxy: feed})

	printSamples(metrics, "wsproxy_tunnels")
	// Output:
	// wsproxy_tunnels{proxy="/chat",server="192.0.2.1:3000"} 0
	// wsproxy_tunnels{proxy="/feed",server="192.0.2.2:3000"} 0
}

func printSamples(metrics http.Handler, name string) {
	w := httptest.NewRecorder()
	metrics.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, name+"{") {
			fmt.Print(line)
		}
	}
}
