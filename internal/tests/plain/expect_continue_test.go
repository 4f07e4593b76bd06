package plain_test

import (
	"context"
	"net"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// golang/go#75933
func TestARequestWithExpectContinueGets502IfTheUpstreamIsDown(t *testing.T) {
	if strings.HasPrefix(runtime.Version(), "go1.25") {
		t.Skip("before Go 1.26 httputil waits for the body first, until the client gives up waiting and sends it")
	}
	errs := testkit.NewFailures()
	_, addr := testkit.ServeProxy(t, "http://upstream.example.com", errs.Option(),
		wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) { return nil, assert.AnError }))
	res, _ := testkit.Do(t, addr, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 16\r\nExpect: 100-continue\r\n\r\n")
	assert.Equal(t, 502, res.StatusCode)
	assert.ErrorIs(t, errs.Next(t).Err, assert.AnError)
}

func TestExpectContinueIsForwarded(t *testing.T) {
	const request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
	ask := func(t *testing.T, test func(client, server *testkit.Peer)) {
		synctest.Test(t, func(t *testing.T) {
			r := testkit.NewMemRig(t, nil)
			client := r.Send(t, request)
			server := <-r.Upstreams
			assert.Contains(t, server.RawHeader(t), "\r\nExpect: 100-continue\r\n")
			testkit.End{Peer: client, Client: true}.ExpectNothing(t, 900*time.Millisecond)
			test(client, server)
		})
	}
	t.Run("which continues", func(t *testing.T) {
		ask(t, func(client, server *testkit.Peer) {
			server.Send(t, "HTTP/1.1 100 Continue\r\nX-From: upstream\r\n\r\n")
			res := client.Response(t)
			if res.Header["X-From"] == nil { // net/http's own 100, if the body is read before the upstream's 100 is forwarded
				require.Equal(t, 100, res.StatusCode)
				res = client.Response(t)
			}
			require.Equal(t, 100, res.StatusCode)
			require.Equal(t, []string{"upstream"}, res.Header["X-From"])
			client.Send(t, "body")
			server.Expect(t, "body")
			server.Send(t, testkit.ResponseOKClose)
			res = client.Response(t)
			assert.Equal(t, 200, res.StatusCode)
			assert.Equal(t, "ok", testkit.Body(t, res))
		})
	})
	t.Run("which refuses", func(t *testing.T) {
		ask(t, func(client, server *testkit.Peer) {
			start := time.Now()
			server.Send(t, "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
			res := client.Response(t)
			assert.Equal(t, 413, res.StatusCode)
			assert.Equal(t, "big", testkit.Body(t, res))
			assert.Empty(t, server.Rest(t, "the upstream's"), "a body without a 100 from the upstream")
			assert.Zero(t, time.Since(start), "the refusal waits for a timeout")
		})
	})
}
