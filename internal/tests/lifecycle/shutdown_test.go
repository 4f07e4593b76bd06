package lifecycle_test

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
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// startShutdown calls Shutdown and returns once Shutdown waits, which is when
// the proxy refuses new tunnels.
func startShutdown(t testing.TB, r *testkit.Rig) <-chan error {
	t.Helper()
	result, ctx := make(chan error, 1), waitedFor{context.Background(), make(chan struct{}, 10)}
	go func() { result <- r.Proxy.Shutdown(ctx) }()
	testkit.Within(t, ctx.waited, "Shutdown waits")
	return result
}

// waitedFor is a context that reports the first call of Done.
type waitedFor struct {
	context.Context
	waited chan struct{}
}

func (c waitedFor) Done() <-chan struct{} {
	c.waited <- struct{}{}
	return c.Context.Done()
}

func TestShutdownRefusesNewTunnelsAndWaitsForOpenOnes(t *testing.T) {
	ended := testkit.NewEndings()
	r := testkit.PlainLink.Start(t, nil, ended.Option())
	client, server := r.Tunnel(t)
	done := startShutdown(t, r)

	res, _ := testkit.Do(t, r.Addr, testkit.SampleRequest)
	assert.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	assert.Equal(t, "1", res.Header.Get("Retry-After"))

	client.Expect(t, "\x88\x0f\x03\xe9shutting down")
	server.Expect(t, "\x88\x8f") // and an unpredictable mask
	assert.Empty(t, done, "Shutdown returns while a tunnel is open")
	client.Close()
	server.Close()
	assert.NoError(t, testkit.Within(t, done, "Shutdown returns"))
	assert.Equal(t, wsproxy.ReasonShutdown, ended.Next(t).Reason)
	for range 3 {
		assert.NoError(t, r.Proxy.Shutdown(context.Background()), "Shutdown once more")
	}
	assert.NoError(t, r.Proxy.Close())
}

func TestShutdownWaitsForHandshakesInFlight(t *testing.T) {
	r := testkit.PlainLink.Start(t, nil)
	client := r.Dial(t)
	client.Send(t, testkit.SampleRequest)
	server := r.Upstream.Accept(t)
	server.Request(t)
	done := startShutdown(t, r)
	assert.Equal(t, 1, r.Proxy.Stats().Handshakes)
	assert.Empty(t, done, "Shutdown returns while a handshake is in flight")
	server.Send(t, testkit.SampleSwitch)
	assert.Equal(t, http.StatusServiceUnavailable, client.Response(t).StatusCode)
	server.ExpectEOF(t, "")
	assert.NoError(t, testkit.Within(t, done, "Shutdown returns"))
}

func TestShutdownClosesTunnelsAndHandshakesWhenItsContextEnds(t *testing.T) {
	ended := testkit.NewEndings()
	r := testkit.PlainLink.Start(t, nil, ended.Option())
	client, server := r.Tunnel(t)
	asking := r.Dial(t)
	asking.Send(t, testkit.SampleRequest)
	asked := r.Upstream.Accept(t)
	asked.Request(t)

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- r.Proxy.Shutdown(ctx) }()
	client.Expect(t, "\x88\x0f\x03\xe9shutting down")
	server.Expect(t, "\x88\x8f") // and an unpredictable mask
	assert.Empty(t, done, "Shutdown returns while a tunnel is open")
	cancel()
	assert.ErrorIs(t, testkit.Within(t, done, "Shutdown returns"), context.Canceled)
	assert.Equal(t, testkit.Counts{Opened: 1}, testkit.Counted(r.Proxy), "when Shutdown has returned")
	assert.Equal(t, wsproxy.ReasonShutdown, ended.Next(t).Reason)
	client.ExpectEOF(t, "")
	asked.ExpectEOF(t, "")
	assert.Equal(t, http.StatusServiceUnavailable, asking.Response(t).StatusCode)
}

func TestShutdownOfAnIdleProxySucceedsAfterItsContextHasEnded(t *testing.T) {
	for range 50 {
		p := testkit.NewProxy(t, "http://127.0.0.1:1")
		require.NoError(t, p.Shutdown(testkit.EndedContext()), "no tunnel was left to close")
	}
}

func TestCloseDuringTheDialCauses503(t *testing.T) {
	dialing := make(chan struct{})
	r := testkit.PlainLink.Start(t, nil, wsproxy.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
		close(dialing)
		<-ctx.Done()
		return nil, ctx.Err()
	}))
	client := r.Dial(t)
	client.Send(t, testkit.SampleRequest)
	testkit.Within(t, dialing, "the proxy dials")
	r.Proxy.Close()
	res := client.Response(t)
	assert.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	assert.Equal(t, "1", res.Header.Get("Retry-After"))
	assert.NoError(t, r.Proxy.Shutdown(context.Background()))
}

// A dial that ignores its context may succeed too late.
func TestAConnectionDialedAfterCloseIsClosed(t *testing.T) {
	dialing, proceed := make(chan struct{}), make(chan struct{})
	near, far := net.Pipe()
	r := testkit.PlainLink.Start(t, nil, wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) {
		close(dialing)
		<-proceed
		return near, nil
	}))
	client := r.Dial(t)
	client.Send(t, testkit.SampleRequest)
	testkit.Within(t, dialing, "the proxy dials")
	r.Proxy.Close()
	close(proceed)
	assert.Equal(t, http.StatusServiceUnavailable, client.Response(t).StatusCode)
	far.SetDeadline(time.Now().Add(testkit.Patience))
	_, err := io.Copy(io.Discard, far)
	assert.NoError(t, err, "the connection stays open")
	assert.NoError(t, r.Proxy.Shutdown(context.Background()))
}

func TestCloseBeforeTheResponseCauses503(t *testing.T) {
	testkit.OverLinks(t, testkit.OwnSocket, func(t *testing.T, l testkit.Link) {
		failures := make(chan error, 1)
		r := l.Start(t, nil, wsproxy.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, err error) {
			failures <- err
			w.WriteHeader(wsproxy.StatusCode(err))
		}))
		client := r.Dial(t)
		client.Send(t, testkit.SampleRequest)
		server := r.Upstream.Accept(t)
		server.Request(t)
		r.Proxy.Close()
		assert.Equal(t, http.StatusServiceUnavailable, client.Response(t).StatusCode)
		assert.ErrorIs(t, testkit.Within(t, failures, "the handshake fails"), wsproxy.ErrShutdown)
		server.ExpectEOF(t, "")
		assert.NoError(t, r.Proxy.Shutdown(context.Background()))
	})
}

func TestCloseDuringThe101LeavesNoTunnel(t *testing.T) {
	var p *wsproxy.Proxy
	r := testkit.PlainLink.Start(t, nil, wsproxy.WithModifyResponse(func(*http.Response) error { return p.Close() }))
	p = r.Proxy
	client := r.Dial(t)
	client.Send(t, testkit.SampleRequest)
	server := r.Upstream.Accept(t)
	server.Request(t)
	server.Send(t, testkit.SampleSwitch)
	assert.Equal(t, http.StatusServiceUnavailable, client.Response(t).StatusCode)
	server.ExpectEOF(t, "")
	assert.NoError(t, p.Shutdown(context.Background()))
	assert.Equal(t, testkit.Counts{}, testkit.Counted(p))
}

// A failed require in a test's hook exits its goroutine.
func TestAHookThatExitsItsGoroutineLeavesNothingBehind(t *testing.T) {
	for name, hooks := range map[string]wsproxy.Option{
		"OnOpen":  testkit.OnOpen(func(*wsproxy.Tunnel, *http.Request) { runtime.Goexit() }),
		"OnClose": testkit.OnClose(func(*wsproxy.Tunnel, wsproxy.Ending) { runtime.Goexit() }),
	} {
		t.Run(name, func(t *testing.T) {
			u := testkit.NewUpstream(t)
			// Not NewProxy, whose cleanup would wait for a leaked tunnel.
			p, err := wsproxy.New(u.URL, hooks)
			require.NoError(t, err)
			client := testkit.Dial(t, testkit.Serve(t, p))
			client.Send(t, testkit.SampleRequest)
			server := u.Accept(t)
			server.Request(t)
			server.Send(t, testkit.SampleSwitch)
			if name == "OnClose" {
				client.Response(t)
				client.CloseWrite()
			}
			server.SetDeadline(time.Now().Add(testkit.Patience))
			_, err = io.Copy(io.Discard, server)
			assert.NoError(t, err, "the upstream's connection stays open")
			server.Close()
			assert.Eventually(t, func() bool { return p.Stats().Live == 0 },
				testkit.Patience, time.Millisecond, "the tunnel is never forgotten")
			p.Close() // its loops do not linger
		})
	}
}

var errNotDialed = errors.New("no such host today")

func TestADialThatFailsLeavesNothingBehind(t *testing.T) {
	r := testkit.PlainLink.Start(t, nil, wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) {
		return nil, errNotDialed
	}))
	for range 3 {
		res, _ := testkit.Do(t, r.Addr, testkit.SampleRequest)
		assert.Equal(t, http.StatusBadGateway, res.StatusCode)
	}
	assert.Equal(t, testkit.Counts{}, testkit.Counted(r.Proxy))
	assert.NoError(t, r.Proxy.Shutdown(context.Background()))
}
