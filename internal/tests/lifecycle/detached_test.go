package lifecycle_test

import (
	"context"
	"net/http"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

func TestADetachedTunnelOutlivesServeHTTPAndItsContext(t *testing.T) {
	testkit.OverLinks(t, testkit.OwnSocket, func(t *testing.T, l testkit.Link) {
		returned := make(chan struct{})
		ended := testkit.NewEndings()
		r := l.Start(t, func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx, cancel := context.WithCancel(r.Context())
				h.ServeHTTP(w, r.WithContext(ctx))
				cancel()
				close(returned)
			})
		}, ended.Option(), wsproxy.WithDetached())
		client, server := r.Tunnel(t)
		testkit.Within(t, returned, "ServeHTTP returns")
		for range 10 {
			client.Send(t, "ping")
			server.Expect(t, "ping")
			server.Send(t, "pong")
			client.Expect(t, "pong")
		}
		assert.Equal(t, 1, r.Proxy.Stats().Live)
		assert.ErrorIs(t, r.Proxy.Shutdown(testkit.EndedContext()), context.Canceled)
		assert.Equal(t, wsproxy.ReasonShutdown, ended.Next(t).Reason)
	})
}

func TestABlockingServeHTTPReturnsWhenTheTunnelEnds(t *testing.T) {
	returned := make(chan struct{})
	r := testkit.PlainLink.Start(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(w, r)
			close(returned)
		})
	})
	client, server := r.Tunnel(t)
	client.Send(t, "hello")
	server.Expect(t, "hello")
	select {
	case <-returned:
		assert.Fail(t, "ServeHTTP returned while the tunnel is open")
	default:
	}
	client.Close()
	server.Close()
	testkit.Within(t, returned, "ServeHTTP returns")
	assert.Zero(t, r.Proxy.Stats().Live, "open tunnels when ServeHTTP has returned")
}
