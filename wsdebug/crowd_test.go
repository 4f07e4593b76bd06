package wsdebug_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/wsdebug"
	"github.com/stretchr/testify/assert"
)

// Viewers, scrapes and drains come while tunnels open and end, servers change and
// the proxy shuts down. Each scrape and each page adds up. The race detector looks.
func TestViewersComeWhileTunnelsComeAndGo(t *testing.T) {
	t.Parallel()
	addrs := []string{testkit.Serve(t, testkit.Echo("a")), testkit.Serve(t, testkit.Echo("b"))}
	u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: addrs[0]})
	p, addr := testkit.ServeProxy(t, "http://chat", wsproxy.WithUpstream(u))
	named := wsdebug.Named{Name: "/chat", Proxy: p, Upstream: u}
	mux := http.NewServeMux()
	mux.Handle("/metrics", wsdebug.MetricsOf(named))
	mux.Handle("/", wsdebug.HandlerOf([]wsdebug.Named{named, {Name: "/feed", Proxy: p}}, wsdebug.WithClose()))
	page := "http://" + testkit.Serve(t, mux)

	var looking, dialing sync.WaitGroup
	look := func(f func(i int)) {
		looking.Go(func() {
			for i := range 20 {
				f(i)
			}
		})
	}
	var opened float64
	look(func(int) {
		sums := map[string]float64{}
		_, body := get(t, page+"/metrics")
		for line := range strings.Lines(body) {
			if name, rest, ok := strings.Cut(line, "{"); ok {
				_, value, _ := strings.Cut(rest, "} ")
				sums[name] += parse(t, value)
			}
		}
		assert.Equal(t, sums["wsproxy_tunnels_opened_total"], sums["wsproxy_tunnels_closed_total"]+sums["wsproxy_tunnels"])
		assert.GreaterOrEqual(t, sums["wsproxy_tunnels_opened_total"], opened)
		opened = sums["wsproxy_tunnels_opened_total"]
	})
	queries := []string{"", "?sort=-idle&n=3", "?sort=path", "?format=json&sort=client_bytes", "?server=" + addrs[1], "?proxy=/feed&n=0"}
	look(func(i int) {
		res, _ := get(t, page+"/"+queries[i%len(queries)])
		assert.Equal(t, http.StatusOK, res.StatusCode)
	})
	look(func(i int) {
		res, _ := post(t, page+"/", url.Values{"drain": {addrs[i%2]}})
		assert.Contains(t, []int{http.StatusSeeOther, http.StatusConflict, http.StatusNotFound}, res.StatusCode)
		assert.NoError(t, u.SetServers(wsproxy.Server{Addr: addrs[i%2]}))
	})
	for range 4 {
		dialing.Go(func() {
			for range 10 {
				c := testkit.Dial(t, addr)
				c.Send(t, testkit.SampleRequest)
				c.Response(t)
				c.Close()
			}
		})
	}
	dialing.Wait()
	shut := make(chan error, 1)
	go func() { shut <- p.Shutdown(testkit.EndedContext()) }()
	<-shut
	looking.Wait()
	stats := p.Stats()
	assert.Zero(t, stats.Live)
	assert.Zero(t, stats.Handshakes)
	live := 0
	for _, n := range stats.LiveByServer() {
		live += n
	}
	assert.Zero(t, live)
}

// A viewer who takes the page slowly, or not at all, keeps neither another viewer nor
// a scrape waiting.
func TestASlowViewerHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	p := testkit.OpenIdle(t, 100, nil)
	mux := http.NewServeMux()
	mux.Handle("/metrics", wsdebug.Metrics(p, nil))
	mux.Handle("/", wsdebug.Handler(p, nil))
	var slow sync.WaitGroup
	release := make(chan struct{})
	for _, path := range []string{"/", "/?format=json", "/?n=x", "/metrics"} {
		w := &blockedWriter{httptest.NewRecorder(), make(chan struct{}), release}
		slow.Go(func() { mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil)) })
		testkit.Within(t, w.began, "the response to the slow viewer")
	}
	for _, path := range []string{"/", "/?format=json", "/metrics"} {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		assert.Equal(t, http.StatusOK, w.Code, path)
	}
	close(release)
	slow.Wait()
}

// A blockedWriter is that of a client that reads nothing until release.
type blockedWriter struct {
	*httptest.ResponseRecorder
	began, release chan struct{}
}

func (w *blockedWriter) Write(b []byte) (int, error) {
	close(w.began)
	<-w.release
	return w.ResponseRecorder.Write(b)
}

func parse(t *testing.T, value string) float64 {
	t.Helper()
	v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
	assert.NoError(t, err)
	return v
}
