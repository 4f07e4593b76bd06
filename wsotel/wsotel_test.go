package wsotel_test

import (
	"bufio"
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/wsotel"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

func TestMain(m *testing.M) { testkit.Main(m) }

func newEchoServer() *httptest.Server { return httptest.NewServer(testkit.Echo("chat")) }

// openTunnel opens a tunnel and returns the function that closes it.
func openTunnel(url string) (close func()) {
	conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/chat"))
	if err != nil {
		log.Fatal(err)
	}
	io.WriteString(conn, testkit.SampleRequest)
	if res, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		log.Fatal(res, err)
	}
	return func() {
		conn.(*net.TCPConn).CloseWrite()
		io.Copy(io.Discard, conn) // until the upstream has closed, too
		conn.Close()
	}
}

// newProvider returns a provider and the reader that collects from it.
func newProvider() (*sdkmetric.MeterProvider, *sdkmetric.ManualReader) {
	reader := sdkmetric.NewManualReader()
	return sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)), reader
}

// collect returns all metrics by name.
func collect(t *testing.T, reader *sdkmetric.ManualReader) map[string]metricdata.Metrics {
	t.Helper()
	var all metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(context.Background(), &all))
	metrics := map[string]metricdata.Metrics{}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			metrics[m.Name] = m
		}
	}
	return metrics
}

// values returns the values of a counter or gauge by their attributes.
func values(m metricdata.Metrics) map[string]int64 {
	values := map[string]int64{}
	for _, point := range m.Data.(metricdata.Sum[int64]).DataPoints {
		values[point.Attributes.Encoded(attribute.DefaultEncoder())] = point.Value
	}
	return values
}

func TestObserveReportsWhatTheProxyCounts(t *testing.T) {
	a := testkit.NewUpstream(t)
	dead := testkit.RefusingAddr(t)
	u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: dead}, wsproxy.Server{Addr: a.Addr})
	proxy, addr := testkit.ServeProxy(t, "http://chat", wsproxy.WithUpstream(u), wsproxy.WithMaxTunnels(1))
	provider, reader := newProvider()
	stop, err := wsotel.Observe(proxy, u, wsotel.WithMeterProvider(provider))
	require.NoError(t, err)

	client := testkit.Dial(t, addr)
	server := a.Handshake(t, client) // after a failure of the other server
	testkit.Do(t, addr, testkit.SampleRequest)
	from, to := testkit.Ends(client, server)
	from.SendFrame(t, testkit.Text, "hello")
	to.ExpectFrame(t, testkit.Text, "hello")
	testkit.Eventually(t, func() bool { return proxy.Stats().Refused(503) == 1 }, "no refusal counted")

	attrs := func(addr string) string {
		host, port, _ := net.SplitHostPort(addr)
		return "server.address=" + host + ",server.port=" + port
	}
	m := collect(t, reader)
	assert.Equal(t, map[string]int64{attrs(a.Addr): 1, attrs(dead): 0}, values(m["wsproxy.tunnels"]))
	assert.Equal(t, map[string]int64{"": 0}, values(m["wsproxy.handshakes"]))
	assert.Equal(t, map[string]int64{"": 1}, values(m["wsproxy.tunnels.opened"]))
	assert.EqualValues(t, 1, values(m["wsproxy.handshakes.refused"])["http.response.status_code=503"])
	assert.Equal(t, map[string]int64{"": 1}, values(m["wsproxy.retries"]))
	assert.Equal(t, map[string]int64{"wsproxy.from=client": 11, "wsproxy.from=upstream": 0}, values(m["wsproxy.forwarded"]))
	assert.Equal(t, map[string]int64{"wsproxy.from=client": 1, "wsproxy.from=upstream": 0}, values(m["wsproxy.messages"]))
	assert.Equal(t, map[string]int64{attrs(a.Addr): 1, attrs(dead): 0}, values(m["wsproxy.server.up"]))
	assert.Equal(t, map[string]int64{attrs(a.Addr): 0, attrs(dead): 1}, values(m["wsproxy.server.failures"]))
	assert.Equal(t, "By", m["wsproxy.forwarded"].Unit)
	assert.True(t, m["wsproxy.forwarded"].Data.(metricdata.Sum[int64]).IsMonotonic)
	assert.False(t, m["wsproxy.tunnels"].Data.(metricdata.Sum[int64]).IsMonotonic)

	client.Close()
	server.ExpectEOF(t, "")
	server.Close()
	testkit.Eventually(t, func() bool { return proxy.Stats().Live == 0 }, "the tunnel stays")
	m = collect(t, reader)
	assert.EqualValues(t, 1, values(m["wsproxy.tunnels.closed"])["wsproxy.reason=client_closed"])
	assert.Equal(t, map[string]int64{attrs(a.Addr): 0, attrs(dead): 0}, values(m["wsproxy.tunnels"]))

	require.NoError(t, stop())
	assert.Empty(t, collect(t, reader), "after stop")
}

func TestTheAddressOfAUnixSocketIsItsPath(t *testing.T) {
	for target, want := range map[string]string{
		"http://unix:/run/app.sock": "server.address=/run/app.sock",
		"http://[2001:db8::1]:3000": "server.address=2001:db8::1,server.port=3000",
	} {
		provider, reader := newProvider()
		stop, err := wsotel.Observe(testkit.NewProxy(t, target), nil, wsotel.WithMeterProvider(provider))
		require.NoError(t, err)
		defer stop()
		m := collect(t, reader)
		assert.Equal(t, map[string]int64{want: 0}, values(m["wsproxy.tunnels"]))
		assert.NotContains(t, m, "wsproxy.server.up", "of a proxy without an Upstream")
	}
}

// Two proxies with the same attributes would be one to the reader.
func TestProxiesDifferInTheirAttributes(t *testing.T) {
	provider, reader := newProvider()
	for _, path := range []string{"/chat", "/feed"} {
		stop, err := wsotel.Observe(testkit.NewProxy(t, "http://127.0.0.1"), nil,
			wsotel.WithMeterProvider(provider), wsotel.WithAttributes(attribute.String("wsproxy.proxy", path)))
		require.NoError(t, err)
		defer stop()
	}
	assert.Equal(t, map[string]int64{"wsproxy.proxy=/chat": 0, "wsproxy.proxy=/feed": 0}, values(collect(t, reader)["wsproxy.retries"]))
}

func TestTheGlobalProviderIsTheDefault(t *testing.T) {
	before := otel.GetMeterProvider()
	provider, reader := newProvider()
	otel.SetMeterProvider(provider)
	defer otel.SetMeterProvider(before)
	stop, err := wsotel.Observe(testkit.NewProxy(t, "http://127.0.0.1"), nil)
	require.NoError(t, err)
	defer stop()
	assert.Len(t, collect(t, reader), 8, "without those of the servers")
}

func TestMistakesInOptionsAreReported(t *testing.T) {
	proxy := testkit.NewProxy(t, "http://127.0.0.1")
	_, err := wsotel.Observe(proxy, nil, nil)
	assert.EqualError(t, err, "wsotel: option 1 is nil")
	_, err = wsotel.Observe(proxy, nil, wsotel.WithMeterProvider(nil))
	assert.EqualError(t, err, "wsotel: WithMeterProvider: provider nil")
	_, err = wsotel.Hooks(wsotel.WithMeterProvider(nil))
	assert.EqualError(t, err, "wsotel: WithMeterProvider: provider nil")
}

// The lifetime of a tunnel in a histogram of latencies is a common complaint
// (traefik/traefik#2905, istio/istio#17424). Here each has its own.
func TestHandshakesAndTunnelsHaveAHistogramEach(t *testing.T) {
	provider, reader := newProvider()
	hooks, err := wsotel.Hooks(wsotel.WithMeterProvider(provider), wsotel.WithAttributes(attribute.String("wsproxy.proxy", "/chat")))
	require.NoError(t, err)
	point := func(name string) metricdata.HistogramDataPoint[float64] {
		points := collect(t, reader)[name].Data.(metricdata.Histogram[float64]).DataPoints
		require.Len(t, points, 1)
		assert.Equal(t, "wsproxy.proxy=/chat", points[0].Attributes.Encoded(attribute.DefaultEncoder()))
		return points[0]
	}
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil, wsproxy.WithHooks(hooks), wsproxy.WithReadTimeout(0))
		client := r.SendHandshake(t)
		server := <-r.Upstreams
		server.Request(t)
		time.Sleep(30 * time.Millisecond)
		server.Send(t, testkit.SampleSwitch)
		client.WantSwitch(t)
		assert.InDelta(t, 0.03, point("wsproxy.handshake.duration").Sum, 1e-9, "while the tunnel is open")
		assert.NotContains(t, collect(t, reader), "wsproxy.tunnel.duration")
		time.Sleep(3 * time.Hour)
		client.Close()
		server.ExpectEOF(t, "")
		server.Close()
		synctest.Wait()
	})
	lifetimes := point("wsproxy.tunnel.duration")
	assert.EqualValues(t, 3*3600, lifetimes.Sum)
	assert.EqualValues(t, 1, lifetimes.Count)
	assert.EqualValues(t, 1, lifetimes.Bounds[0], "from a second")
	assert.EqualValues(t, 24*3600, lifetimes.Bounds[len(lifetimes.Bounds)-1], "to a day")
}

// otelhttp sees neither the 101 nor the end of the handshake. Until its filter
// excludes upgrades, it records the lifetime as a latency, with status 200.
func TestTheFilterKeepsLifetimesOutOfOtelhttp(t *testing.T) {
	for name, test := range map[string]struct {
		opts []otelhttp.Option
		want map[string]uint64
	}{
		"without the filter": {nil, map[string]uint64{"200": 1}},
		"with the filter":    {[]otelhttp.Option{otelhttp.WithFilter(isPlain)}, map[string]uint64{}},
	} {
		t.Run(name, func(t *testing.T) {
			provider, reader := newProvider()
			upstream := newEchoServer()
			defer upstream.Close()
			ended := make(chan struct{})
			handler := otelhttp.NewHandler(testkit.NewProxy(t, upstream.URL), "", append(test.opts, otelhttp.WithMeterProvider(provider))...)
			addr := testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				defer close(ended)
				handler.ServeHTTP(w, r)
			}))
			openTunnel("http://" + addr)()
			testkit.Within(t, ended, "the end of the handler")
			recorded := map[string]uint64{}
			if durations, ok := collect(t, reader)["http.server.request.duration"]; ok {
				for _, point := range durations.Data.(metricdata.Histogram[float64]).DataPoints {
					status, _ := point.Attributes.Value("http.response.status_code")
					recorded[status.String()] += point.Count
				}
			}
			assert.Equal(t, test.want, recorded)
		})
	}
}
