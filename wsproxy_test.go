package wsproxy_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The five nginx recipes that wsproxy replaces, one test for each. The packages
// in internal/tests cover the details.

func TestMain(m *testing.M) { testkit.Main(m) }

// map $http_upgrade $connection_upgrade { default upgrade; ” close; }
//
//	location /websocket {
//	    proxy_pass http://localhost:3000;
//	    proxy_set_header Host $host;
//	    proxy_set_header Upgrade $http_upgrade;
//	    proxy_set_header Connection $connection_upgrade;
//	}
func TestARouteForwardsWebSocketsToAServer(t *testing.T) {
	upstream := testkit.NewUpstream(t)
	mux := http.NewServeMux()
	mux.Handle("/websocket", testkit.NewProxy(t, upstream.URL))
	addr := testkit.Serve(t, mux)

	client := testkit.Dial(t, addr)
	client.Send(t, testkit.UpgradeGet("/websocket?room=1"))
	server := upstream.Accept(t)
	request := server.Request(t)
	assert.Equal(t, "/websocket?room=1", request.RequestURI)
	assert.Equal(t, "server.example.com", request.Host)
	assert.Equal(t, "websocket", request.Header.Get("Upgrade"))
	assert.Equal(t, "upgrade", request.Header.Get("Connection"))

	server.Send(t, testkit.SampleSwitch)
	response := client.Response(t)
	require.Equal(t, http.StatusSwitchingProtocols, response.StatusCode)
	assert.Equal(t, testkit.SampleAccept, response.Header.Get("Sec-WebSocket-Accept"))
	fromClient, fromServer := testkit.Ends(client, server)
	fromClient.SendFrame(t, testkit.Text, "hello")
	fromServer.ExpectFrame(t, testkit.Text, "hello")
	fromServer.SendFrame(t, testkit.Text, "hello yourself")
	fromClient.ExpectFrame(t, testkit.Text, "hello yourself")

	response, _ = testkit.Do(t, addr, testkit.PlainGet("/elsewhere"))
	assert.Equal(t, http.StatusNotFound, response.StatusCode, "a path that has another route")
}

// upstream websocket { server 192.168.3.1:3000; server 192.168.3.2:300; }
// location /websocket { proxy_pass http://websocket; ... }
func TestSeveralServersTakeTurns(t *testing.T) {
	first, second := testkit.Serve(t, testkit.Echo("first")), testkit.Serve(t, testkit.Echo("second"))
	servers, err := wsproxy.NewUpstream(wsproxy.RoundRobin(), wsproxy.Server{Addr: first}, wsproxy.Server{Addr: second})
	require.NoError(t, err)
	_, addr := testkit.ServeProxy(t, "http://websocket", wsproxy.WithUpstream(servers))

	for _, want := range []string{"first", "second", "first", "second"} {
		response, client := testkit.Do(t, addr, testkit.SampleRequest)
		require.Equal(t, http.StatusSwitchingProtocols, response.StatusCode)
		assert.Equal(t, want, response.Header.Get("X-Server"))
		client.Send(t, "hello")
		client.Expect(t, "hello")
	}
}

//	location / {
//	    proxy_pass http://127.0.0.1:8080;
//	    proxy_set_header Upgrade $http_upgrade;
//	    proxy_set_header Connection "upgrade";
//	}
func TestOneRouteServesPagesAndWebSocketsAndPingsKeepTunnelsOpen(t *testing.T) {
	_, addr := testkit.ServeProxy(t, "http://"+testkit.Serve(t, testkit.Echo("the server")))
	response, _ := testkit.Do(t, addr, testkit.PlainGet("/any/page"))
	assert.Equal(t, "the server got GET server.example.com ", testkit.Body(t, response))
	response, client := testkit.Do(t, addr, testkit.UpgradeGet("/any/socket"))
	require.Equal(t, http.StatusSwitchingProtocols, response.StatusCode)
	client.Send(t, "hello")
	client.Expect(t, "hello")

	synctest.Test(t, func(t *testing.T) {
		rig := testkit.NewMemRig(t, nil)
		client, server := testkit.Ends(rig.Tunnel(t))
		for range 100 { // more than an hour
			time.Sleep(50 * time.Second)
			client.SendFrame(t, testkit.Ping, "")
			server.ExpectFrame(t, testkit.Ping, "")
		}
		silent := time.Now()
		testkit.AnswerClose(t, 1001, client, server)
		assert.Equal(t, 60*time.Second, time.Since(silent), "nginx's default for an idle connection")
		rig.EndsIn(t, 0, wsproxy.ReasonReadTimeout)
	})
}

//	server {
//	    listen 443 ssl;
//	    location /wss { proxy_pass http://127.0.0.1:8888; proxy_set_header X-Real-IP $remote_addr; ... }
//	    location / { proxy_pass http://tomcat; }
//	}
func TestTheProxyTerminatesTLSForAnAppAndItsWebSockets(t *testing.T) {
	upstream := testkit.NewUpstream(t)
	mux := http.NewServeMux()
	mux.Handle("/wss", testkit.NewProxy(t, upstream.URL))
	mux.Handle("/", testkit.NewProxy(t, "http://"+testkit.Serve(t, testkit.Echo("tomcat"))))
	addr, config := testkit.ServeTLS(t, mux)

	client := testkit.DialTLS(t, addr, config)
	client.Send(t, testkit.PlainGet("/wss", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
		"Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==", "Sec-WebSocket-Protocol: chat, superchat"))
	server := upstream.Accept(t) // without TLS
	request := server.Request(t)
	assert.Equal(t, "127.0.0.1", request.Header.Get("X-Real-IP"))
	assert.Equal(t, "https", request.Header.Get("X-Forwarded-Proto"))
	assert.Equal(t, "chat, superchat", request.Header.Get("Sec-WebSocket-Protocol"))
	server.Send(t, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: HSmrc0sMlYUkAGmm5OPpG2HaGWk=\r\nSec-WebSocket-Protocol: chat\r\n\r\n")
	response := client.Response(t)
	require.Equal(t, http.StatusSwitchingProtocols, response.StatusCode)
	assert.Equal(t, "chat", response.Header.Get("Sec-WebSocket-Protocol"))
	client.Send(t, "hello")
	server.Expect(t, "hello")

	client = testkit.DialTLS(t, addr, config)
	client.Send(t, testkit.PlainGet("/shop"))
	assert.Equal(t, "tomcat got GET server.example.com ", testkit.Body(t, client.Response(t)))
}

// The outer proxy terminates TLS and sends the inner one's host name instead of
// the client's Host, which selects the virtual host. Both have
//
//	proxy_read_timeout 300s;
//	proxy_send_timeout 300s;
//	proxy_set_header X-Real-IP $remote_addr;
//	proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
func TestTwoProxiesInARowEachAddAnAddressAndTimeOutAfterFiveMinutes(t *testing.T) {
	timeouts := []wsproxy.Option{wsproxy.WithReadTimeout(300 * time.Second), wsproxy.WithSendTimeout(300 * time.Second)}
	upstream := testkit.NewUpstream(t)
	hosts := http.NewServeMux()
	hosts.Handle("inner.example/", testkit.NewProxy(t, upstream.URL, timeouts...))
	inner := testkit.Serve(t, hosts)
	outer, config := testkit.ServeTLS(t, testkit.NewProxy(t, "http://inner.example", append(timeouts, wsproxy.WithTargetHost(),
		wsproxy.WithDialContext(func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, inner)
		}))...))

	client := testkit.DialTLS(t, outer, config)
	client.Send(t, testkit.UpgradeGet("/", "X-Forwarded-For: 203.0.113.9"))
	server := upstream.Accept(t)
	request := server.Request(t)
	assert.Equal(t, "inner.example", request.Host)
	assert.Equal(t, "203.0.113.9, 127.0.0.1, 127.0.0.1", request.Header.Get("X-Forwarded-For"))
	assert.Equal(t, "127.0.0.1", request.Header.Get("X-Real-IP"))
	server.Send(t, testkit.SampleSwitch)
	client.WantSwitch(t)
	client.Send(t, "hello")
	server.Expect(t, "hello")
	require.NoError(t, client.Close())
	_, err := io.Copy(io.Discard, server)
	require.NoError(t, err, "the end crosses both proxies")

	synctest.Test(t, func(t *testing.T) {
		rig := testkit.NewMemRig(t, nil, timeouts...)
		client, server := testkit.Ends(rig.Tunnel(t))
		silent := time.Now()
		testkit.AnswerClose(t, 1001, client, server)
		assert.Equal(t, 300*time.Second, time.Since(silent))
		rig.EndsIn(t, 0, wsproxy.ReasonReadTimeout)
	})
}
