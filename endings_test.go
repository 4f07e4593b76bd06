package wsproxy_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// endsWith opens a tunnel, lets end bring about its end, and checks the one
// ending. Both peers close once they see theirs.
func endsWith(t *testing.T, want wsproxy.Reason, r *rig, ended endings, end func(client, server *peer)) wsproxy.Ending {
	t.Helper()
	client, server := greeted(t, r)
	end(client, server)
	return endsGreeted(t, want, r, ended, client, server)
}

// greeted opens a tunnel and sends something through it both ways.
func greeted(t *testing.T, r *rig) (client, server *peer) {
	t.Helper()
	client, server = r.tunnel(t)
	client.send(t, "hello")
	server.expect(t, "hello")
	server.send(t, "welcome")
	client.expect(t, "welcome")
	return client, server
}

// endsGreeted is endsWith once the end is under way.
func endsGreeted(t *testing.T, want wsproxy.Reason, r *rig, ended endings, client, server *peer) wsproxy.Ending {
	t.Helper()
	for _, p := range []*peer{client, server} {
		p.Read(make([]byte, 1))
		p.Close()
	}
	ending := ended.next(t)
	assert.Equal(t, want, ending.Reason, "reason: %v", ending.Reason)
	assert.EqualValues(t, 5, ending.FromClient.Bytes, "bytes from the client")
	assert.EqualValues(t, 7, ending.FromUpstream.Bytes, "bytes from the upstream")
	assert.Positive(t, ending.Handshake)
	assert.Positive(t, ending.Lifetime)
	eventually(t, func() bool { return r.p.Stats().Live == 0 }, "the tunnel stays in the proxy's count")
	assert.Empty(t, ended, "endings beyond the first")
	return ending
}

func TestAPeersCloseIsTheReason(t *testing.T) {
	overLinks(t, nil, func(t *testing.T, l link) {
		eachSide(t, func(t *testing.T, first wsproxy.Reason) {
			ended := newEndings()
			ending := endsWith(t, first, l.start(t, nil, ended.hook()), ended, func(client, server *peer) {
				from, _ := inOrder(first, client, server)
				from.Close()
			})
			assert.NoError(t, ending.Err)
		})
	})
}

// impatient does not wait long for answers to Close frames, which the raw peers
// of these tests do not give.
var impatient = wsproxy.WithCloseTimeout(50 * time.Millisecond)

func TestATimeoutIsTheReason(t *testing.T) {
	for want, opt := range map[wsproxy.Reason]wsproxy.Option{
		wsproxy.ReadTimeout: wsproxy.WithReadTimeout(2 * time.Second),
		wsproxy.MaxLifetime: wsproxy.WithMaxLifetime(2 * time.Second),
	} {
		t.Run(want.String(), func(t *testing.T) {
			t.Parallel()
			overLinksAtOnce(t, oneSocketOfEach, func(t *testing.T, l link) func(*testing.T) {
				ended := newEndings()
				r := l.start(t, nil, ended.hook(), opt, impatient)
				client, server := greeted(t, r)
				return func(t *testing.T) {
					ending := endsGreeted(t, want, r, ended, client, server)
					if ending.Err != nil { // an end that has not answered the Close frame
						assert.ErrorIs(t, ending.Err, wsproxy.ErrCut)
					}
				}
			})
		})
	}
}

func TestCloseAndShutdownAreTheReason(t *testing.T) {
	overLinks(t, nil, func(t *testing.T, l link) {
		ended := newEndings()
		r := l.start(t, nil, ended.hook())
		endsWith(t, wsproxy.Killed, r, ended, func(_, _ *peer) { assert.NoError(t, r.p.Close()) })

		r = l.start(t, nil, ended.hook())
		endsWith(t, wsproxy.Shutdown, r, ended, func(_, _ *peer) {
			assert.ErrorIs(t, r.p.Shutdown(endedContext()), context.Canceled)
		})
	})
}

func endedContext() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// withContext serves h with a context of the test's.
func withContext(ctx context.Context) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(w, r.WithContext(ctx)) })
	}
}

func TestTheEndOfTheRequestsContextEndsABlockingTunnel(t *testing.T) {
	overLinks(t, nil, func(t *testing.T, l link) {
		ctx, cancel := context.WithCancelCause(context.Background())
		defer cancel(nil)
		ended := newEndings()
		ending := endsWith(t, wsproxy.ContextDone, l.start(t, withContext(ctx), ended.hook()), ended,
			func(_, _ *peer) { cancel(assert.AnError) })
		assert.ErrorIs(t, ending.Err, assert.AnError)
	})
}

func TestAPanicInOnOpenFailsItsTunnelAlone(t *testing.T) {
	ended := newEndings()
	var panics atomic.Bool
	var log lockedBuffer
	r := plainLink.start(t, nil, wsproxy.WithLogger(slog.New(slog.NewTextHandler(&log, nil))), wsproxy.WithHooks(wsproxy.Hooks{
		OnOpen: func(*wsproxy.Tunnel, *http.Request) {
			if panics.Load() {
				panic("boo")
			}
		},
		OnClose: func(_ *wsproxy.Tunnel, e wsproxy.Ending) { ended <- e },
	}))
	unharmed, server := r.tunnel(t)
	panics.Store(true)

	client := r.connect(t)
	client.send(t, sampleRequest)
	other := r.u.accept(t)
	other.request(t)
	other.send(t, sampleSwitch)
	client.expectEOF(t, "")
	other.expectEOF(t, "")
	ending := ended.next(t)
	assert.Equal(t, wsproxy.Failed, ending.Reason)
	assert.ErrorContains(t, ending.Err, "boo")
	assert.Contains(t, log.String(), "boo")

	unharmed.send(t, "still here")
	server.expect(t, "still here")
	assert.Empty(t, ended)
}

func TestAPanicInOnCloseIsLoggedAndHarmless(t *testing.T) {
	var log lockedBuffer
	returned := make(chan struct{}, 10)
	r := plainLink.start(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(w, r)
			returned <- struct{}{}
		})
	}, wsproxy.WithLogger(slog.New(slog.NewTextHandler(&log, nil))),
		wsproxy.WithHooks(wsproxy.Hooks{OnClose: func(*wsproxy.Tunnel, wsproxy.Ending) { panic("boo") }}))
	for range 2 {
		client, server := r.tunnel(t)
		client.Close()
		server.expectEOF(t, "")
		server.Close()
		<-returned
	}
	assert.Equal(t, 2, strings.Count(log.String(), "hook=OnClose"), "panics in the log")
	assert.Zero(t, r.p.Stats().Live)
	assert.NoError(t, r.p.Shutdown(context.Background()))
}

// A lockedBuffer takes logs from any goroutine.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func TestOnOpenIsBeforeThe101AndOnCloseBeforeServeHTTPReturns(t *testing.T) {
	var opened, closed atomic.Int32
	closedAtReturn := make(chan int32, 1)
	r := plainLink.start(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.ServeHTTP(w, r)
			closedAtReturn <- closed.Load()
		})
	}, wsproxy.WithHooks(wsproxy.Hooks{
		OnOpen: func(_ *wsproxy.Tunnel, r *http.Request) {
			assert.Equal(t, "server.example.com", r.Host)
			opened.Add(1)
		},
		OnClose: func(*wsproxy.Tunnel, wsproxy.Ending) { closed.Add(1) },
	}))
	client, server := r.tunnel(t)
	assert.EqualValues(t, 1, opened.Load(), "OnOpen calls by the time of the 101")
	assert.EqualValues(t, 0, closed.Load())
	client.Close()
	server.Close()
	assert.EqualValues(t, 1, <-closedAtReturn, "OnClose calls by the time ServeHTTP returns")
}

func TestHooksMayCallTheProxy(t *testing.T) {
	var p *wsproxy.Proxy
	inOnClose := make(chan wsproxy.Stats, 1)
	ended := newEndings()
	r := plainLink.start(t, nil, wsproxy.WithHooks(wsproxy.Hooks{
		OnOpen: func(*wsproxy.Tunnel, *http.Request) {
			assert.Equal(t, 1, p.Stats().Live, "live tunnels in OnOpen")
			p.Close()
		},
		OnClose: func(_ *wsproxy.Tunnel, e wsproxy.Ending) {
			p.Close()
			inOnClose <- p.Stats()
			ended <- e
		},
	}))
	p = r.p
	client := r.connect(t)
	client.send(t, sampleRequest)
	server := r.u.accept(t)
	server.request(t)
	server.send(t, sampleSwitch)
	client.expectEOF(t, "")
	server.expectEOF(t, "")
	assert.Equal(t, wsproxy.Killed, ended.next(t).Reason)
	assert.Equal(t, 1, (<-inOnClose).Live, "live tunnels in OnClose")
	require.NoError(t, p.Shutdown(context.Background()))
	assert.Zero(t, p.Stats().Live)
}

func TestATunnelTellsAboutItself(t *testing.T) {
	tunnels := make(chan *wsproxy.Tunnel, 2)
	before := time.Now()
	r := plainLink.start(t, nil, wsproxy.WithHooks(wsproxy.Hooks{
		OnOpen: func(tunnel *wsproxy.Tunnel, _ *http.Request) { tunnels <- tunnel },
	}))
	client, server := r.tunnel(t)
	tunnel := <-tunnels
	assert.EqualValues(t, 1, tunnel.ID())
	assert.Equal(t, netip.MustParseAddr("127.0.0.1"), tunnel.ClientIP())
	assert.Equal(t, "/chat", tunnel.Path())
	assert.Equal(t, r.u.addr, tunnel.Server())
	assert.WithinRange(t, tunnel.Opened(), before, time.Now())
	client.send(t, "hello")
	server.expect(t, "hello")
	server.send(t, "hi")
	client.expect(t, "hi")
	assert.EqualValues(t, 5, tunnel.FromClient().Bytes)
	assert.EqualValues(t, 2, tunnel.FromUpstream().Bytes)
	client.Close()
	server.Close()
	eventually(t, func() bool { return r.p.Stats().Live == 0 }, "the tunnel stays")
	assert.EqualValues(t, 5, tunnel.FromClient().Bytes, "after the end")

	r.tunnel(t)
	assert.EqualValues(t, 2, (<-tunnels).ID())
}

func TestStatsCountHandshakesTunnelsAndBytes(t *testing.T) {
	r := plainLink.start(t, nil)
	assert.Zero(t, r.p.Stats())
	client := r.connect(t)
	client.send(t, sampleRequest+"early")
	server := r.u.accept(t)
	server.request(t)
	assert.Equal(t, wsproxy.Stats{Handshakes: 1}, r.p.Stats())
	server.send(t, sampleSwitch+"glued")
	client.answer(t)
	client.expect(t, "glued")
	server.expect(t, "early")
	five := wsproxy.FlowStats{Bytes: 5}
	assert.Equal(t, wsproxy.Stats{Live: 1, Opened: 1, FromClient: five, FromUpstream: five}, r.p.Stats())

	r.tunnel(t)
	client.Close()
	server.Close()
	eventually(t, func() bool { return r.p.Stats().Live == 1 }, "the first tunnel stays")
	assert.Equal(t, wsproxy.Stats{Live: 1, Opened: 2, FromClient: five, FromUpstream: five}, r.p.Stats())
}

func TestReasonsHaveNames(t *testing.T) {
	seen := map[string]bool{}
	for r := wsproxy.ClientClosed; r <= wsproxy.Failed; r++ {
		assert.NotContains(t, r.String(), "reason", "%d", r)
		assert.False(t, seen[r.String()], "two reasons named %q", r)
		seen[r.String()] = true
	}
	assert.Equal(t, "read timeout", wsproxy.ReadTimeout.String())
	assert.Equal(t, "reason 0", wsproxy.Reason(0).String())
	assert.Equal(t, "reason 200", wsproxy.Reason(200).String())
}
