package wsproxy_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"testing"
	"time"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// within waits for one result, for as long as patience allows.
func within[T any](t testing.TB, results <-chan T, what string) T {
	t.Helper()
	select {
	case result := <-results:
		return result
	case <-time.After(patience):
		require.Fail(t, "nothing happened", what)
		panic("unreachable")
	}
}

// startShutdown calls Shutdown and returns once that waits, which it does when
// it refuses new tunnels.
func startShutdown(t testing.TB, r *rig) <-chan error {
	t.Helper()
	result, ctx := make(chan error, 1), waitedFor{context.Background(), make(chan struct{}, 10)}
	go func() { result <- r.p.Shutdown(ctx) }()
	within(t, ctx.waited, "Shutdown waits")
	return result
}

// waitedFor is a context that tells when somebody asks for its end.
type waitedFor struct {
	context.Context
	waited chan struct{}
}

func (c waitedFor) Done() <-chan struct{} {
	c.waited <- struct{}{}
	return c.Context.Done()
}

func TestADetachedTunnelOutlivesServeHTTPAndItsContext(t *testing.T) {
	overLinks(t, nil, func(t *testing.T, l link) {
		returned := make(chan struct{})
		ended := newEndings()
		r := l.start(t, func(h http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				ctx, cancel := context.WithCancel(r.Context())
				h.ServeHTTP(w, r.WithContext(ctx))
				cancel()
				close(returned)
			})
		}, ended.hook(), wsproxy.WithDetached())
		client, server := r.tunnel(t)
		within(t, returned, "ServeHTTP returns")
		for range 10 {
			client.send(t, "ping")
			server.expect(t, "ping")
			server.send(t, "pong")
			client.expect(t, "pong")
		}
		assert.Equal(t, 1, r.p.Stats().Live)
		assert.ErrorIs(t, r.p.Shutdown(endedContext()), context.Canceled)
		assert.Equal(t, wsproxy.Shutdown, ended.next(t).Reason)
	})
}

func TestABlockingServeHTTPStaysForTheTunnel(t *testing.T) {
	returned := make(chan struct{})
	r := plainLink.start(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(w, r)
			close(returned)
		})
	})
	client, server := r.tunnel(t)
	client.send(t, "hello")
	server.expect(t, "hello")
	select {
	case <-returned:
		assert.Fail(t, "ServeHTTP returned while the tunnel lives")
	default:
	}
	client.Close()
	server.Close()
	within(t, returned, "ServeHTTP returns")
	assert.Zero(t, r.p.Stats().Live, "tunnels that live when ServeHTTP has returned")
}

func TestShutdownRefusesNewTunnelsAndWaitsForThoseThereAre(t *testing.T) {
	ended := newEndings()
	r := plainLink.start(t, nil, ended.hook())
	client, server := r.tunnel(t)
	done := startShutdown(t, r)

	res, _ := ask(t, r.addr, sampleRequest)
	assert.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	assert.Equal(t, "1", res.Header.Get("Retry-After"))

	client.expect(t, "\x88\x0f\x03\xe9shutting down")
	server.expect(t, "\x88\x8f") // and a mask that nobody foretells
	assert.Empty(t, done, "Shutdown returns while a tunnel lives")
	client.Close()
	server.Close()
	assert.NoError(t, within(t, done, "Shutdown returns"))
	assert.Equal(t, wsproxy.Shutdown, ended.next(t).Reason)
	for range 3 {
		assert.NoError(t, r.p.Shutdown(context.Background()), "Shutdown once more")
	}
	assert.NoError(t, r.p.Close())
}

func TestShutdownWaitsForHandshakesInFlight(t *testing.T) {
	r := plainLink.start(t, nil)
	client := r.connect(t)
	client.send(t, sampleRequest)
	server := r.u.accept(t)
	server.request(t)
	done := startShutdown(t, r)
	assert.Equal(t, 1, r.p.Stats().Handshakes)
	assert.Empty(t, done, "Shutdown returns while a handshake is in flight")
	server.send(t, sampleSwitch)
	assert.Equal(t, http.StatusServiceUnavailable, client.answer(t).StatusCode)
	server.expectEOF(t, "")
	assert.NoError(t, within(t, done, "Shutdown returns"))
}

func TestShutdownCutsTunnelsAndHandshakesWhenItsContextEnds(t *testing.T) {
	ended := newEndings()
	r := plainLink.start(t, nil, ended.hook())
	client, server := r.tunnel(t)
	asking := r.connect(t)
	asking.send(t, sampleRequest)
	asked := r.u.accept(t)
	asked.request(t)

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- r.p.Shutdown(ctx) }()
	client.expect(t, "\x88\x0f\x03\xe9shutting down")
	server.expect(t, "\x88\x8f") // and a mask that nobody foretells
	assert.Empty(t, done, "Shutdown returns while a tunnel lives")
	cancel()
	assert.ErrorIs(t, within(t, done, "Shutdown returns"), context.Canceled)
	assert.Equal(t, wsproxy.Stats{Opened: 1}, r.p.Stats(), "when Shutdown has returned")
	assert.Equal(t, wsproxy.Shutdown, ended.next(t).Reason)
	client.expectEOF(t, "")
	asked.expectEOF(t, "")
	assert.Equal(t, http.StatusServiceUnavailable, asking.answer(t).StatusCode)
}

func TestShutdownOfAnIdleProxySucceedsThoughItsContextHasEnded(t *testing.T) {
	for range 50 {
		p := newProxy(t, "http://127.0.0.1:1")
		require.NoError(t, p.Shutdown(endedContext()), "nothing was left to cut")
	}
}

func TestCloseDuringTheDialIsA503(t *testing.T) {
	dialing := make(chan struct{})
	r := plainLink.start(t, nil, wsproxy.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
		close(dialing)
		<-ctx.Done()
		return nil, ctx.Err()
	}))
	client := r.connect(t)
	client.send(t, sampleRequest)
	within(t, dialing, "the proxy dials")
	r.p.Close()
	res := client.answer(t)
	assert.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	assert.Equal(t, "1", res.Header.Get("Retry-After"))
	assert.NoError(t, r.p.Shutdown(context.Background()))
}

// A dial that does not heed its context may still succeed, too late.
func TestAConnectionDialedAfterCloseIsClosed(t *testing.T) {
	dialing, proceed := make(chan struct{}), make(chan struct{})
	near, far := net.Pipe()
	r := plainLink.start(t, nil, wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) {
		close(dialing)
		<-proceed
		return near, nil
	}))
	client := r.connect(t)
	client.send(t, sampleRequest)
	within(t, dialing, "the proxy dials")
	r.p.Close()
	close(proceed)
	assert.Equal(t, http.StatusServiceUnavailable, client.answer(t).StatusCode)
	far.SetDeadline(time.Now().Add(patience))
	_, err := io.Copy(io.Discard, far)
	assert.NoError(t, err, "the connection stays open")
	assert.NoError(t, r.p.Shutdown(context.Background()))
}

func TestCloseDuringTheWaitForTheAnswerIsA503(t *testing.T) {
	overLinks(t, nil, func(t *testing.T, l link) {
		failures := make(chan error, 1)
		r := l.start(t, nil, wsproxy.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, err error) {
			failures <- err
			w.WriteHeader(wsproxy.StatusCode(err))
		}))
		client := r.connect(t)
		client.send(t, sampleRequest)
		server := r.u.accept(t)
		server.request(t)
		r.p.Close()
		assert.Equal(t, http.StatusServiceUnavailable, client.answer(t).StatusCode)
		assert.ErrorIs(t, within(t, failures, "the handshake fails"), wsproxy.ErrShutdown)
		server.expectEOF(t, "")
		assert.NoError(t, r.p.Shutdown(context.Background()))
	})
}

func TestCloseDuringThe101LeavesNoTunnel(t *testing.T) {
	var p *wsproxy.Proxy
	r := plainLink.start(t, nil, wsproxy.WithModifyResponse(func(*http.Response) error { return p.Close() }))
	p = r.p
	client := r.connect(t)
	client.send(t, sampleRequest)
	server := r.u.accept(t)
	server.request(t)
	server.send(t, sampleSwitch)
	assert.Equal(t, http.StatusServiceUnavailable, client.answer(t).StatusCode)
	server.expectEOF(t, "")
	assert.NoError(t, p.Shutdown(context.Background()))
	assert.Equal(t, wsproxy.Stats{}, p.Stats())
}

// A failed require in a test's hook does that.
func TestAHookThatExitsItsGoroutineLeavesNothingBehind(t *testing.T) {
	for name, hooks := range map[string]wsproxy.Hooks{
		"OnOpen":  {OnOpen: func(*wsproxy.Tunnel, *http.Request) { runtime.Goexit() }},
		"OnClose": {OnClose: func(*wsproxy.Tunnel, wsproxy.Ending) { runtime.Goexit() }},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			// Not newProxy, whose cleanup would wait for a tunnel that is left.
			p, err := wsproxy.New(u.url, wsproxy.WithHooks(hooks))
			require.NoError(t, err)
			client := dial(t, serve(t, p))
			client.send(t, sampleRequest)
			server := u.accept(t)
			server.request(t)
			server.send(t, sampleSwitch)
			if name == "OnClose" {
				client.answer(t)
				client.CloseWrite()
			}
			server.SetDeadline(time.Now().Add(patience))
			_, err = io.Copy(io.Discard, server)
			assert.NoError(t, err, "the upstream's connection stays open")
			server.Close()
			assert.Eventually(t, func() bool { return p.Stats().Live == 0 },
				patience, time.Millisecond, "the tunnel is never forgotten")
		})
	}
}

var errNotDialed = errors.New("no such host today")

func TestADialThatFailsLeavesNothingBehind(t *testing.T) {
	r := plainLink.start(t, nil, wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) {
		return nil, errNotDialed
	}))
	for range 3 {
		res, _ := ask(t, r.addr, sampleRequest)
		assert.Equal(t, http.StatusBadGateway, res.StatusCode)
	}
	assert.Equal(t, wsproxy.Stats{}, r.p.Stats())
	assert.NoError(t, r.p.Shutdown(context.Background()))
}
