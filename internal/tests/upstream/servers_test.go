package upstream_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestServersOnUnixSocketsServeUpgradesAndPlainRequests(t *testing.T) {
	path := filepath.Join(testkit.SocketDir(t), "app.sock")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: testkit.Echo("unix")}}
	s.Start()
	t.Cleanup(s.Close)
	u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: "unix:" + path})
	p, proxy := testkit.ServeProxy(t, "http://app.example", wsproxy.WithUpstream(u), wsproxy.WithKeepAlive())
	res, _ := testkit.Do(t, proxy, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	require.Equal(t, "unix got GET a ", testkit.Body(t, res))
	res, client := testkit.Do(t, proxy, testkit.SampleRequest)
	require.Equal(t, "unix", res.Header.Get("X-Server"))
	for tunnel := range p.Tunnels() {
		require.Equal(t, "unix:"+path, tunnel.Server())
	}
	client.Close()
}

func TestEveryServersCertificateIsVerifiedForTheTargetsName(t *testing.T) {
	s := httptest.NewUnstartedServer(testkit.Echo("tls"))
	s.StartTLS() // its certificate names example.com
	t.Cleanup(s.Close)
	tlsConfig := s.Client().Transport.(*http.Transport).TLSClientConfig
	u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: s.Listener.Addr().String()})
	_, proxy := testkit.ServeProxy(t, "https://example.com/", wsproxy.WithUpstream(u), wsproxy.WithTLSConfig(tlsConfig), wsproxy.WithTargetHost())
	res, _ := testkit.Do(t, proxy, "GET / HTTP/1.1\r\nHost: a\r\n\r\n")
	require.Equal(t, "tls got GET example.com ", testkit.Body(t, res))
	res, client := testkit.Do(t, proxy, testkit.SampleRequest)
	require.Equal(t, 101, res.StatusCode)
	client.Close()

	_, proxy = testkit.ServeProxy(t, "https://other.example/", wsproxy.WithUpstream(u), wsproxy.WithTLSConfig(tlsConfig))
	res, _ = testkit.Do(t, proxy, testkit.SampleRequest)
	require.Equal(t, 502, res.StatusCode)
}

func TestOneUpstreamServesSeveralProxies(t *testing.T) {
	u := testkit.Servers(t, wsproxy.LeastTunnels(), wsproxy.Server{Addr: testkit.Serve(t, testkit.Echo("a"))}, wsproxy.Server{Addr: testkit.Serve(t, testkit.Echo("b"))})
	_, first := testkit.ServeProxy(t, "http://app.example", wsproxy.WithUpstream(u))
	_, second := testkit.ServeProxy(t, "http://app.example", wsproxy.WithUpstream(u))
	for _, addr := range []string{first, second, second, first} {
		res, _ := testkit.Do(t, addr, testkit.SampleRequest)
		require.Equal(t, 101, res.StatusCode)
	}
	require.Equal(t, 2, u.Servers()[0].Tunnels)
	require.Equal(t, 2, u.Servers()[1].Tunnels)
}

func TestATunnelOutlivesTheRemovalOfItsServer(t *testing.T) {
	a, b := testkit.Serve(t, testkit.Echo("a")), testkit.Serve(t, testkit.Echo("b"))
	u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: a})
	_, proxy := testkit.ServeProxy(t, "http://app.example", wsproxy.WithUpstream(u))
	res, client := testkit.Do(t, proxy, testkit.SampleRequest)
	require.Equal(t, "a", res.Header.Get("X-Server"))
	require.NoError(t, u.SetServers(wsproxy.Server{Addr: b}))
	client.Send(t, "hello")
	client.Expect(t, "hello")
	res, _ = testkit.Do(t, proxy, testkit.SampleRequest)
	require.Equal(t, "b", res.Header.Get("X-Server"))
}

// Seed 004: the outer proxy ends TLS and sends its target's name, the inner
// one sets the fields again.
func TestEachProxyInARowAddsOneAddressToTheForwardedList(t *testing.T) {
	app := testkit.NewUpstream(t)
	_, inner := testkit.ServeProxy(t, app.URL)
	innerPort := inner[strings.LastIndexByte(inner, ':'):]
	outerProxy := testkit.NewProxy(t, "http://inner.example"+innerPort, wsproxy.WithTargetHost(),
		wsproxy.WithUpstream(testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: inner})))
	outer := httptest.NewTLSServer(outerProxy)
	t.Cleanup(outer.Close)
	t.Cleanup(func() { outerProxy.Close() })

	request, err := http.NewRequest("GET", outer.URL+"/chat", nil)
	require.NoError(t, err)
	request.Host = "wss.example"
	for name, value := range map[string]string{"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": testkit.SampleKey,
		"Sec-WebSocket-Version": "13", "X-Forwarded-For": "203.0.113.9", "X-Real-IP": "6.6.6.6"} {
		request.Header.Set(name, value)
	}
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	defer cancel()
	responded := make(chan error, 1)
	go func() {
		res, err := outer.Client().Do(request.WithContext(ctx))
		if err == nil {
			res.Body.Close()
			if res.StatusCode != 101 {
				err = errors.New(res.Status)
			}
		}
		responded <- err
	}()
	server := app.Accept(t)
	got := server.Request(t)
	server.Send(t, testkit.SampleSwitch)
	require.NoError(t, <-responded)
	assert.Equal(t, "inner.example"+innerPort, got.Host, "the inner server is chosen by its own name")
	assert.Equal(t, "203.0.113.9, 127.0.0.1, 127.0.0.1", got.Header.Get("X-Forwarded-For"))
	assert.Equal(t, "127.0.0.1", got.Header.Get("X-Real-Ip"), "the inner one's peer, as $remote_addr is in nginx")
}
