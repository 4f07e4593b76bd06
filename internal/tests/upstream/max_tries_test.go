package upstream_test

import (
	"net/http"
	"sync/atomic"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const shortDelete = "DELETE / HTTP/1.1\r\nHost: a\r\n\r\n"

func TestWithRetryStatusRetriesReplayableRequests(t *testing.T) {
	for _, test := range []struct {
		name, request string
		opts          []wsproxy.Option
		status        int
	}{
		{"GET", anyGet, []wsproxy.Option{wsproxy.WithRetryStatus(503)}, 200},
		{"handshake", testkit.SampleRequest, []wsproxy.Option{wsproxy.WithRetryStatus(502, 503)}, 101},
		{"DELETE", shortDelete, []wsproxy.Option{wsproxy.WithRetryStatus(503)}, 503},
		{"another status", anyGet, []wsproxy.Option{wsproxy.WithRetryStatus(502)}, 503},
		{"no status", anyGet, []wsproxy.Option{wsproxy.WithRetryStatus(503), wsproxy.WithRetryStatus()}, 503},
		{"one try", anyGet, []wsproxy.Option{wsproxy.WithRetryStatus(503), wsproxy.WithMaxTries(1)}, 503},
	} {
		t.Run(test.name, func(t *testing.T) {
			busy := testkit.ServeResponse(t, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy")
			u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: busy}, wsproxy.Server{Addr: testkit.Serve(t, testkit.Echo("healthy"))})
			_, proxy := testkit.ServeProxy(t, "http://app.example", append(test.opts, wsproxy.WithUpstream(u))...)
			res, client := testkit.Do(t, proxy, test.request)
			require.Equal(t, test.status, res.StatusCode)
			if res.StatusCode == 503 {
				assert.Equal(t, "busy", testkit.Body(t, res))
			}
			client.Close()
			allUp(t, u)
		})
	}
}

// If the next server is down, the client gets the response that the first one
// gave.
func TestAResponseIsKeptIfTheNextServerIsDown(t *testing.T) {
	busy := testkit.ServeResponse(t, "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy")
	u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: testkit.RefusingAddr(t)}, wsproxy.Server{Addr: busy})
	_, proxy := testkit.ServeProxy(t, "http://app.example", wsproxy.WithUpstream(u), wsproxy.WithRetryStatus(503))
	for range 2 {
		for _, request := range []string{anyGet, testkit.SampleRequest} {
			res, _ := testkit.Do(t, proxy, request)
			require.Equal(t, 503, res.StatusCode)
			require.Equal(t, "busy", testkit.Body(t, res))
		}
	}
	assert.Equal(t, 1, u.Servers()[0].Fails)
}

func TestWithMaxTriesLimitsTheServersForOneRequest(t *testing.T) {
	for _, test := range []struct {
		name  string
		opts  []wsproxy.Option
		tries int64
	}{
		{"default", nil, 3},
		{"1", []wsproxy.Option{wsproxy.WithMaxTries(1)}, 1},
		{"4", []wsproxy.Option{wsproxy.WithMaxTries(4)}, 4},
		{"all", []wsproxy.Option{wsproxy.WithMaxTries(0)}, 5},
	} {
		for _, request := range []string{anyGet, testkit.SampleRequest} {
			t.Run(test.name, func(t *testing.T) {
				var tries atomic.Int64
				var servers []wsproxy.Server
				for range 5 {
					servers = append(servers, wsproxy.Server{Addr: testkit.Serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
						tries.Add(1)
						panic(http.ErrAbortHandler)
					}))})
				}
				u := testkit.Servers(t, wsproxy.RoundRobin(), servers...)
				_, proxy := testkit.ServeProxy(t, "http://app.example", append(test.opts, wsproxy.WithUpstream(u))...)
				res, _ := testkit.Do(t, proxy, request)
				assert.Equal(t, 502, res.StatusCode)
				assert.Equal(t, test.tries, tries.Load())
			})
		}
	}
}

// Before, every client got 503 while all servers were marked down, even if they
// had recovered.
func TestServersThatRecoverServeAtOnce(t *testing.T) {
	var broken atomic.Bool
	var servers []wsproxy.Server
	for range 3 {
		healthy := testkit.Echo("healthy")
		servers = append(servers, wsproxy.Server{Addr: testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if broken.Load() {
				panic(http.ErrAbortHandler)
			}
			healthy.ServeHTTP(w, r)
		}))})
	}
	u := testkit.Servers(t, wsproxy.RoundRobin(), servers...)
	_, proxy := testkit.ServeProxy(t, "http://app.example", wsproxy.WithUpstream(u))
	broken.Store(true)
	for range 2 {
		res, _ := testkit.Do(t, proxy, anyGet)
		require.Equal(t, 502, res.StatusCode, "and not 503: they are tried")
	}
	for _, s := range u.Servers() {
		require.False(t, s.Available)
	}
	broken.Store(false)
	for _, request := range []string{anyGet, testkit.SampleRequest} {
		res, client := testkit.Do(t, proxy, request)
		assert.Less(t, res.StatusCode, 300)
		client.Close()
	}
}

// A server may close an idle keep-alive connection just when a request is sent
// over it.
func TestABrokenKeepAliveConnectionCausesNoFailure(t *testing.T) {
	first := testkit.NewUpstream(t)
	u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: first.Addr}, wsproxy.Server{Addr: testkit.RefusingAddr(t), Backup: true})
	_, proxy := testkit.ServeProxy(t, "http://app.example", wsproxy.WithUpstream(u), wsproxy.WithKeepAlive())
	client := testkit.Dial(t, proxy)
	client.Send(t, anyGet)
	server := first.Accept(t)
	server.Request(t)
	server.Send(t, testkit.ResponseOK)
	require.Equal(t, "ok", testkit.Body(t, client.Response(t)))
	client.Send(t, shortDelete)
	server.Request(t)
	server.Close()
	assert.Equal(t, 502, client.Response(t).StatusCode)
	assert.Zero(t, u.Servers()[0].Fails)
}
