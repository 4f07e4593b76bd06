package wsdebug_test

import (
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"

	"example.com/wsproxy"
	"example.com/wsproxy/wsdebug"
)

// Serve the metrics on a separate address, which clients cannot reach.
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

// Serve the page on a separate address, which only operators reach. Programs read it
// as JSON.
func ExampleHandler() {
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
	admin.Handle("GET /debug/ws/", wsdebug.Handler(proxy, u))
	// go http.ListenAndServe("localhost:9090", admin)

	w := httptest.NewRecorder()
	admin.ServeHTTP(w, httptest.NewRequest("GET", "/debug/ws/?format=json&n=0", nil))
	var page struct {
		Stats   struct{ Live int }
		Servers []struct {
			Addr  string
			State struct{ Available bool }
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil {
		log.Fatal(err)
	}
	fmt.Println(page.Stats.Live, "tunnels")
	for _, server := range page.Servers {
		fmt.Println(server.Addr, server.State.Available)
	}
	// Output:
	// 0 tunnels
	// 192.0.2.1:3000 true
	// 192.0.2.2:3000 false
}

// A page that closes tunnels belongs behind authentication.
func ExampleWithClose() {
	proxy, err := wsproxy.New("http://192.0.2.1:3000")
	if err != nil {
		log.Fatal(err)
	}
	page := wsdebug.Handler(proxy, nil, wsdebug.WithClose())
	admin := http.NewServeMux()
	admin.HandleFunc("/debug/ws/", func(w http.ResponseWriter, r *http.Request) {
		if user, password, _ := r.BasicAuth(); !isOperator(user, password) {
			w.Header().Set("WWW-Authenticate", `Basic realm="operators"`)
			http.Error(w, "operators only", http.StatusUnauthorized)
			return
		}
		page.ServeHTTP(w, r)
	})

	for _, user := range []string{"guest", "operator"} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("POST", "/debug/ws/", strings.NewReader("close=17"))
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.SetBasicAuth(user, "secret")
		admin.ServeHTTP(w, r)
		fmt.Println(user, w.Code)
	}
	// Output:
	// guest 401
	// operator 404
}

func isOperator(user, _ string) bool { return user == "operator" }

func printSamples(metrics http.Handler, name string) {
	w := httptest.NewRecorder()
	metrics.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, name+"{") {
			fmt.Print(line)
		}
	}
}
