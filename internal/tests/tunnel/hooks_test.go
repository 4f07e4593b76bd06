package tunnel_test

import (
	"context"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAPanicInOnOpenFailsOnlyItsTunnel(t *testing.T) {
	ended := testkit.NewEndings()
	var panics atomic.Bool
	var log testkit.Buffer
	r := testkit.PlainLink.Start(t, nil, wsproxy.WithLogger(slog.New(slog.NewTextHandler(&log, nil))), testkit.OnOpen(func(*wsproxy.Tunnel, *http.Request) {
		if panics.Load() {
			panic("boo")
		}
	}), testkit.OnClose(func(_ *wsproxy.Tunnel, e wsproxy.Ending) { ended <- e }))
	unharmed, server := r.Tunnel(t)
	panics.Store(true)

	client := r.Dial(t)
	client.Send(t, testkit.SampleRequest)
	other := r.Upstream.Accept(t)
	other.Request(t)
	other.Send(t, testkit.SampleSwitch)
	client.ExpectEOF(t, "")
	other.ExpectEOF(t, "")
	ending := ended.Next(t)
	assert.Equal(t, wsproxy.ReasonFailed, ending.Reason)
	assert.ErrorContains(t, ending.Err, "boo")
	assert.Contains(t, log.String(), "boo")

	unharmed.Send(t, "still here")
	server.Expect(t, "still here")
	assert.Empty(t, ended)
}

func TestAPanicInOnCloseIsLoggedAndHarmless(t *testing.T) {
	var log testkit.Buffer
	returned := make(chan struct{}, 10)
	r := testkit.PlainLink.Start(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(w, r)
			returned <- struct{}{}
		})
	}, wsproxy.WithLogger(slog.New(slog.NewTextHandler(&log, nil))),
		testkit.OnClose(func(*wsproxy.Tunnel, wsproxy.Ending) { panic("boo") }))
	for range 2 {
		client, server := r.Tunnel(t)
		client.Close()
		server.ExpectEOF(t, "")
		server.Close()
		<-returned
	}
	assert.Equal(t, 2, strings.Count(log.String(), "hook=onClose"), "panics in the log")
	assert.Zero(t, r.Proxy.Stats().Live)
	assert.NoError(t, r.Proxy.Shutdown(context.Background()))
}

func TestOnOpenRunsBeforeThe101AndOnCloseBeforeServeHTTPReturns(t *testing.T) {
	var opened, closed atomic.Int32
	closedAtReturn := make(chan int32, 1)
	r := testkit.PlainLink.Start(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(w, r)
			closedAtReturn <- closed.Load()
		})
	}, testkit.OnOpen(func(_ *wsproxy.Tunnel, r *http.Request) {
		assert.Equal(t, "server.example.com", r.Host)
		opened.Add(1)
	}), testkit.OnClose(func(*wsproxy.Tunnel, wsproxy.Ending) { closed.Add(1) }))
	client, server := r.Tunnel(t)
	assert.EqualValues(t, 1, opened.Load(), "OnOpen calls by the time of the 101")
	assert.EqualValues(t, 0, closed.Load())
	client.Close()
	server.Close()
	assert.EqualValues(t, 1, <-closedAtReturn, "OnClose calls by the time ServeHTTP returns")
}

func TestHooksCanCallTheProxy(t *testing.T) {
	var p *wsproxy.Proxy
	inOnClose := make(chan wsproxy.Stats, 1)
	ended := testkit.NewEndings()
	r := testkit.PlainLink.Start(t, nil, testkit.OnOpen(func(*wsproxy.Tunnel, *http.Request) {
		assert.Equal(t, 1, p.Stats().Live, "live tunnels in OnOpen")
		p.Close()
	}), testkit.OnClose(func(_ *wsproxy.Tunnel, e wsproxy.Ending) {
		p.Close()
		inOnClose <- p.Stats()
		ended <- e
	}))
	p = r.Proxy
	client := r.Dial(t)
	client.Send(t, testkit.SampleRequest)
	server := r.Upstream.Accept(t)
	server.Request(t)
	server.Send(t, testkit.SampleSwitch)
	client.ExpectEOF(t, "")
	server.ExpectEOF(t, "")
	assert.Equal(t, wsproxy.ReasonKilled, ended.Next(t).Reason)
	assert.Equal(t, 1, (<-inOnClose).Live, "live tunnels in OnClose")
	require.NoError(t, p.Shutdown(context.Background()))
	assert.Zero(t, p.Stats().Live)
}

// A metric must not lose a tunnel because an audit has failed.
func TestAHookThatFailsKeepsNoOtherFromBeingCalled(t *testing.T) {
	fails := map[string]func(){"panics": func() { panic("boo") }, "exits its goroutine": runtime.Goexit}
	for name, fail := range fails {
		for mode, opts := range map[string][]wsproxy.Option{"blocking": nil, "detached": {wsproxy.WithDetached()}} {
			t.Run(name+", "+mode, func(t *testing.T) {
				var log testkit.Buffer
				first, last := testkit.NewEndings(), testkit.NewEndings()
				r := testkit.PlainLink.Start(t, nil, append(opts, wsproxy.WithLogger(slog.New(slog.NewTextHandler(&log, nil))),
					first.Option(), testkit.OnOpen(func(*wsproxy.Tunnel, *http.Request) { fail() }),
					testkit.OnClose(func(*wsproxy.Tunnel, wsproxy.Ending) { fail() }), last.Option())...)
				client := r.Dial(t)
				client.Send(t, testkit.SampleRequest)
				server := r.Upstream.Accept(t)
				server.Request(t)
				server.Send(t, testkit.SampleSwitch)
				client.Rest(t, "the client's")
				for _, e := range []wsproxy.Ending{first.Next(t), last.Next(t)} {
					assert.Equal(t, wsproxy.ReasonFailed, e.Reason)
					assert.ErrorContains(t, e.Err, "OnOpen "+strings.Fields(name)[0][:4])
				}
				testkit.Eventually(t, func() bool { return r.Proxy.Stats().Live == 0 }, "the tunnel stays")
				assert.EqualValues(t, 1, r.Proxy.Stats().Closed(wsproxy.ReasonFailed))
				assert.Contains(t, log.String(), "hook=onClose")
				assert.Empty(t, first)
				assert.Empty(t, last)
			})
		}
	}
}

// Each call of a hook had a goroutine of its own.
func TestAHookRunsOnTheGoroutineOfTheRequest(t *testing.T) {
	stack := make(chan string, 2)
	note := func() {
		b := make([]byte, 64<<10)
		stack <- string(b[:runtime.Stack(b, false)])
	}
	r := testkit.PlainLink.Start(t, nil, testkit.OnOpen(func(*wsproxy.Tunnel, *http.Request) { note() }),
		testkit.OnClose(func(*wsproxy.Tunnel, wsproxy.Ending) { note() }))
	client, server := r.Tunnel(t)
	client.Close()
	server.Close()
	for _, hook := range []string{"OnOpen", "onClose"} {
		assert.Contains(t, testkit.Within(t, stack, hook), "net/http.(*conn).serve", hook)
	}
}
