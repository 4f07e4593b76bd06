package handshake_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

// Kubernetes replaces an upstream's redirect with a response of its own. This
// proxy, like httputil, forwards every response of the upstream.
func TestARefusalArrivesWholeAndARequestAfterItReachesNoUpstream(t *testing.T) {
	for _, status := range []int{200, 300, 302, 307, 400, 401, 500, 503} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			var second atomic.Int32
			mux := http.NewServeMux()
			mux.HandleFunc("/chat", func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "https://example.com/there?a=1#b")
				w.Header().Set("WWW-Authenticate", `Basic realm="here"`)
				w.WriteHeader(status)
				io.WriteString(w, strings.Repeat("some data ", 1000))
			})
			mux.HandleFunc("/there", func(http.ResponseWriter, *http.Request) { second.Add(1) })
			_, addr := testkit.ServeProxy(t, "http://"+testkit.Serve(t, mux), wsproxy.WithKeepAlive())
			res, client := testkit.Do(t, addr, testkit.SampleRequest)
			assert.Equal(t, status, res.StatusCode)
			assert.Equal(t, strings.Repeat("some data ", 1000), testkit.Body(t, res))
			assert.Equal(t, []string{"https://example.com/there?a=1#b"}, res.Header["Location"])
			assert.Equal(t, []string{`Basic realm="here"`}, res.Header["Www-Authenticate"])
			client.ExpectEOF(t, "")
			testkit.Eventually(t, func() bool {
				_, err := io.WriteString(client, "GET /there HTTP/1.1\r\nHost: a\r\n\r\n")
				return err != nil
			}, "the client's connection stays open")
			assert.Zero(t, second.Load(), "requests that came after the refused one")
		})
	}
}

// Otherwise a client could smuggle requests past the proxy's rules.
func TestBytesAfterARefusedHandshakeReachNoUpstream(t *testing.T) {
	const smuggled = "GET /admin HTTP/1.1\r\nHost: server.example.com\r\n\r\n"
	for name, response := range map[string]string{
		"a refusal":        "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno",
		"no body":          "HTTP/1.1 204 No Content\r\n\r\n",
		"to be kept alive": "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
		"a bad switch":     "HTTP/1.1 101 Switching Protocols\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			u := testkit.NewUpstream(t)
			_, addr := testkit.ServeProxy(t, u.URL)
			client := testkit.Dial(t, addr)
			client.Send(t, testkit.SampleRequest+smuggled)
			server := u.Accept(t)
			server.Request(t)
			server.Send(t, response)
			res := client.Response(t)
			assert.NotEqual(t, 101, res.StatusCode)
			io.Copy(io.Discard, res.Body)
			assert.Empty(t, client.Rest(t, "the client's"), "a response to the second request")
			assert.Empty(t, server.Rest(t, "the upstream's"), "the second request went to the first one's connection")
			assert.Empty(t, u.Conns, "the second request went to the upstream")
		})
	}
}

func TestBytesAfterABadHandshakeReachNoUpstream(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL)
	res, client := testkit.Do(t, addr, testkit.SampleRequestWith(t, "Version: 13", "Version: 12")+testkit.SampleRequest)
	assert.Equal(t, 426, res.StatusCode)
	io.Copy(io.Discard, res.Body)
	assert.Empty(t, client.Rest(t, "the client's"))
	assert.Empty(t, u.Conns)
}

func TestTheConnectionOfARefusalIsNeverReused(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL, wsproxy.WithKeepAlive())
	client, first := refuse(t, addr, u, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
	assert.Equal(t, 403, client.Response(t).StatusCode)
	for _, request := range []string{testkit.SampleRequest, testkit.SampleRequestWith(t, "Upgrade: websocket", "Upgrade: none")} {
		client = testkit.Dial(t, addr)
		client.Send(t, request)
		server := u.Accept(t) // a new connection
		server.Request(t)
		server.Send(t, testkit.ResponseOKClose)
		assert.Equal(t, 200, client.Response(t).StatusCode)
	}
	assert.Empty(t, first.Rest(t, "the upstream's"))
}

func TestAClientThatDisconnectsDuringARefusalFreesTheUpstream(t *testing.T) {
	u := testkit.NewUpstream(t)
	p, addr := testkit.ServeProxy(t, u.URL)
	client, server := refuse(t, addr, u, "HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\npart")
	client.Response(t)
	client.Reset()
	server.Rest(t, "the upstream's")
	testkit.Eventually(t, func() bool { return testkit.Counted(p) == testkit.Counts{} }, "the handshake is still counted")
}

// A client that does not read must not keep Shutdown from returning after its
// context has ended.
func TestShutdownDoesNotWaitForAClientThatDoesNotReadARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil)
		client := r.SendHandshake(t)
		server := <-r.Upstreams
		server.Request(t)
		server.Send(t, "HTTP/1.1 403 Forbidden\r\nContent-Length: 1000000000\r\n\r\n")
		synctest.Wait() // httputil has flushed the header, which later holds a mutex
		go io.Copy(server, testkit.Zeros{})
		synctest.Wait() // until every buffer on the way is full
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		done := make(chan error, 1)
		go func() { done <- r.Proxy.Shutdown(ctx) }()
		select {
		case err := <-done:
			assert.NoError(t, err, "http.Server.Shutdown waits for a refusal, as for any plain response")
		case <-time.After(testkit.Patience):
			assert.Fail(t, "Shutdown hangs on a client that does not read")
			client.Close()
			<-done
		}
	})
}
