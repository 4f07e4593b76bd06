package wsdebug_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/wsdebug"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The names, types and labels are an interface: dashboards and alerts use them.
func TestMetricsAreThoseOfTheDocs(t *testing.T) {
	a := testkit.NewUpstream(t)
	dead := testkit.RefusingAddr(t)
	u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: dead}, wsproxy.Server{Addr: a.Addr})
	endings := testkit.NewEndings()
	proxy, addr := testkit.ServeProxy(t, "http://chat", wsproxy.WithUpstream(u), endings.Option(),
		wsproxy.WithOrigins("https://good.example"))
	client := testkit.Dial(t, addr)
	server := a.Handshake(t, client) // after a failure of the other server
	testkit.Do(t, addr, testkit.SampleRequestAnd("Origin: https://evil.example"))
	from, to := testkit.Ends(client, server)
	from.SendFrame(t, testkit.Text, "hello")
	to.ExpectFrame(t, testkit.Text, "hello")
	testkit.Eventually(t, func() bool { return proxy.Stats().Refused(http.StatusForbidden) == 1 }, "no refusal counted")

	want := `# HELP wsproxy_tunnels Open tunnels.
# TYPE wsproxy_tunnels gauge
wsproxy_tunnels{server="` + a.Addr + `"} 1
wsproxy_tunnels{server="` + dead + `"} 0
# HELP wsproxy_handshakes Upgrade requests that have no response yet.
# TYPE wsproxy_handshakes gauge
wsproxy_handshakes 0
# HELP wsproxy_tunnels_opened_total Tunnels opened.
# TYPE wsproxy_tunnels_opened_total counter
wsproxy_tunnels_opened_total 1
# HELP wsproxy_tunnels_closed_total Tunnels that have ended, by reason.
# TYPE wsproxy_tunnels_closed_total counter
wsproxy_tunnels_closed_total{reason="client_closed"} 0
wsproxy_tunnels_closed_total{reason="upstream_closed"} 0
wsproxy_tunnels_closed_total{reason="read_timeout"} 0
wsproxy_tunnels_closed_total{reason="send_timeout"} 0
wsproxy_tunnels_closed_total{reason="ping_timeout"} 0
wsproxy_tunnels_closed_total{reason="max_lifetime"} 0
wsproxy_tunnels_closed_total{reason="shutdown"} 0
wsproxy_tunnels_closed_total{reason="killed"} 0
wsproxy_tunnels_closed_total{reason="limit"} 0
wsproxy_tunnels_closed_total{reason="protocol_error"} 0
wsproxy_tunnels_closed_total{reason="context_done"} 0
wsproxy_tunnels_closed_total{reason="failed"} 0
# HELP wsproxy_handshakes_refused_total Upgrade requests that opened no tunnel, by status of the response.
# TYPE wsproxy_handshakes_refused_total counter
wsproxy_handshakes_refused_total{code="400"} 0
wsproxy_handshakes_refused_total{code="403"} 1
wsproxy_handshakes_refused_total{code="405"} 0
wsproxy_handshakes_refused_total{code="426"} 0
wsproxy_handshakes_refused_total{code="499"} 0
wsproxy_handshakes_refused_total{code="500"} 0
wsproxy_handshakes_refused_total{code="501"} 0
wsproxy_handshakes_refused_total{code="502"} 0
wsproxy_handshakes_refused_total{code="503"} 0
wsproxy_handshakes_refused_total{code="504"} 0
# HELP wsproxy_retries_total Times that another server was tried for a request, upgrade or plain.
# TYPE wsproxy_retries_total counter
wsproxy_retries_total 1
# HELP wsproxy_forwarded_bytes_total Bytes that crossed tunnels, framing included, by sender.
# TYPE wsproxy_forwarded_bytes_total counter
wsproxy_forwarded_bytes_total{from="client"} 11
wsproxy_forwarded_bytes_total{from="upstream"} 0
# HELP wsproxy_messages_total Complete text and binary messages that crossed tunnels, by sender.
# TYPE wsproxy_messages_total counter
wsproxy_messages_total{from="client"} 1
wsproxy_messages_total{from="upstream"} 0
# HELP wsproxy_server_up Whether the server is up: 0 if it is marked Down or down after failures.
# TYPE wsproxy_server_up gauge
wsproxy_server_up{server="` + dead + `"} 0
wsproxy_server_up{server="` + a.Addr + `"} 1
# HELP wsproxy_server_failures_total Failures of the server, as Server.MaxFails defines them.
# TYPE wsproxy_server_failures_total counter
wsproxy_server_failures_total{server="` + dead + `"} 1
wsproxy_server_failures_total{server="` + a.Addr + `"} 0
`
	assert.Equal(t, sorted(want), sorted(scrape(t, wsdebug.Metrics(proxy, u))), "but for the order of servers")

	client.Close()
	server.ExpectEOF(t, "")
	server.Close()
	endings.Next(t)
	testkit.Eventually(t, func() bool { return proxy.Stats().Live == 0 }, "the tunnel stays")
	after := scrape(t, wsdebug.Metrics(proxy, u))
	assert.Contains(t, after, "wsproxy_tunnels{server=\""+a.Addr+"\"} 0\n", "the gauge returns to zero")
	assert.Contains(t, after, "wsproxy_tunnels_closed_total{reason=\"client_closed\"} 1\n")
	assert.Contains(t, after, "wsproxy_forwarded_bytes_total{from=\"client\"} 11\n", "a counter keeps what ended tunnels had")
}

func TestMetricsOfAProxyWithoutAnUpstreamHaveNoServerStates(t *testing.T) {
	all := scrape(t, wsdebug.Metrics(testkit.NewProxy(t, "http://127.0.0.1:80"), nil))
	assert.Contains(t, all, "wsproxy_tunnels{server=\"127.0.0.1:80\"} 0\n")
	assert.NotContains(t, all, "\nwsproxy_server_")
}

// A server that is marked Down, or that failures took down, is not up. One that
// is full is.
func TestAFullServerIsUp(t *testing.T) {
	a := testkit.NewUpstream(t)
	u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: a.Addr, MaxTunnels: 1}, wsproxy.Server{Addr: "192.0.2.1:80", Down: true})
	proxy, addr := testkit.ServeProxy(t, "http://chat", wsproxy.WithUpstream(u))
	a.Handshake(t, testkit.Dial(t, addr))
	all := scrape(t, wsdebug.Metrics(proxy, u))
	assert.Contains(t, all, "wsproxy_server_up{server=\""+a.Addr+"\"} 1\n")
	assert.Contains(t, all, "wsproxy_server_up{server=\"192.0.2.1:80\"} 0\n")
}

// The only server of an Upstream never goes down, as in nginx. So an alert must look
// at its failures.
func TestTheOnlyServerIsUpAndItsFailuresCount(t *testing.T) {
	dead := testkit.RefusingAddr(t)
	u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: dead})
	proxy, addr := testkit.ServeProxy(t, "http://chat", wsproxy.WithUpstream(u))
	testkit.Do(t, addr, testkit.SampleRequest)
	testkit.Do(t, addr, testkit.SampleRequest)
	all := scrape(t, wsdebug.Metrics(proxy, u))
	assert.Contains(t, all, "wsproxy_server_up{server=\""+dead+"\"} 1\n")
	assert.Contains(t, all, "wsproxy_server_failures_total{server=\""+dead+"\"} 2\n")
}

// Prometheus drops a whole scrape for one label that it cannot read.
func TestLabelValuesAreEscaped(t *testing.T) {
	for name, want := range map[string]string{
		"/chat":        `/chat`,
		"":             ``,
		`a"b\c`:        `a\"b\\c`,
		"two\nlines":   `two\nlines`,
		"tab\tand {}=": "tab\tand {}=",
		"not \xff UTF": "not \uFFFD UTF",
		"日本":           "日本",
	} {
		proxy := testkit.NewProxy(t, "http://127.0.0.1:80")
		all := scrape(t, wsdebug.MetricsOf(wsdebug.Named{Name: name, Proxy: proxy}))
		assert.Contains(t, all, "\nwsproxy_retries_total{proxy=\""+want+"\"} 0\n")
		assert.Contains(t, all, "\nwsproxy_tunnels{proxy=\""+want+"\",server=\"127.0.0.1:80\"} 0\n")
	}
}

// The samples of a metric must follow each other, below one HELP and one TYPE.
func TestMetricsOfSeveralProxiesAreGroupedByName(t *testing.T) {
	a, b := testkit.NewProxy(t, "http://127.0.0.1:80"), testkit.NewProxy(t, "http://127.0.0.1:80")
	all := scrape(t, wsdebug.MetricsOf(wsdebug.Named{Name: "a", Proxy: a}, wsdebug.Named{Name: "b", Proxy: b}))
	assert.Contains(t, all, "# TYPE wsproxy_retries_total counter\n"+
		"wsproxy_retries_total{proxy=\"a\"} 0\nwsproxy_retries_total{proxy=\"b\"} 0\n# HELP ")
	assert.PanicsWithValue(t, `wsdebug: two proxies have the name "a"`, func() {
		wsdebug.MetricsOf(wsdebug.Named{Name: "a", Proxy: a}, wsdebug.Named{Name: "a", Proxy: b})
	}, "their samples would be the same")
	assert.PanicsWithValue(t, `wsdebug: the proxy with the name "" is nil`, func() { wsdebug.Metrics(nil, nil) })
}

func scrape(t *testing.T, metrics http.Handler) string {
	t.Helper()
	w := httptest.NewRecorder()
	metrics.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	require.Equal(t, http.StatusOK, w.Code)
	assert.Equal(t, "text/plain; version=0.0.4; charset=utf-8", w.Header().Get("Content-Type"))
	return w.Body.String()
}

// sorted returns the lines of s in order. Addresses on loopback are in any.
func sorted(s string) []string {
	return slices.Sorted(strings.Lines(s))
}

// Labels that clients choose take memory of the metrics system without bound.
func TestNothingThatAClientSendsAddsASeries(t *testing.T) {
	upstream := testkit.NewUpstream(t)
	proxy, addr := testkit.ServeProxy(t, upstream.URL, wsproxy.WithTrustedProxies("127.0.0.1/32"))
	metrics := wsdebug.Metrics(proxy, nil)
	before := strings.Count(scrape(t, metrics), "\n")
	for i := range 20 {
		n := strconv.Itoa(i)
		client := testkit.Dial(t, addr)
		client.Send(t, "GET /chat/"+n+"?user="+n+" HTTP/1.1\r\nHost: host"+n+".example\r\nOrigin: https://origin"+n+".example\r\n"+
			"X-Forwarded-For: 192.0.2."+n+"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"+
			"Sec-WebSocket-Protocol: chat"+n+"\r\nSec-WebSocket-Key: "+testkit.SampleKey+"\r\n\r\n")
		server := upstream.Accept(t)
		server.Request(t)
		server.Send(t, testkit.SampleSwitch)
		client.WantSwitch(t)
	}
	after := scrape(t, metrics)
	assert.Contains(t, after, "\nwsproxy_tunnels_opened_total 20\n")
	assert.Equal(t, before, strings.Count(after, "\n"))
}
