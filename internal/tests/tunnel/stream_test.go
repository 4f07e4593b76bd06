package tunnel_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// overHTTP2 serves a proxy over HTTP/2. middleware and configure may be nil.
func overHTTP2(t *testing.T, middleware func(http.Handler) http.Handler, configure func(*http.Server), opts ...wsproxy.Option) (*wsproxy.Proxy, *testkit.HTTP2Conn, *testkit.Upstream) {
	t.Helper()
	u := testkit.NewUpstream(t)
	p := testkit.NewProxy(t, u.URL, opts...)
	var h http.Handler = p
	if middleware != nil {
		h = middleware(h)
	}
	return p, testkit.DialHTTP2(t, testkit.ServeHTTP2(t, h, configure)), u
}

// END_STREAM ends both directions. Firefox lost the last message if it came at
// once.
func TestAStreamStaysOpenForTheClientsLastWords(t *testing.T) {
	ended := testkit.NewEndings()
	_, c, u := overHTTP2(t, nil, nil, ended.Option())
	testkit.Eventually(t, func() bool { // a busy machine may need more than a second for the rest
		client, server := testkit.Ends(c.Tunnel(t, u))
		server.SendFrame(t, testkit.Text, "last")
		server.SendFrame(t, testkit.Close, testkit.ClosePayload(1000, ""))
		require.NoError(t, server.CloseWrite())
		client.ExpectFrame(t, testkit.Text, "last")
		client.ExpectClose(t, 1000)
		client.SendFrame(t, testkit.Text, "mine") // while the stream lingers
		client.SendFrame(t, testkit.Close, testkit.ClosePayload(1000, ""))
		client.ExpectEOF(t, "")
		server.ExpectFrame(t, testkit.Text, "mine")
		server.ExpectClose(t, 1000)
		ending := ended.Next(t)
		assert.Equal(t, wsproxy.ReasonUpstreamClosed, ending.Reason)
		assert.NoError(t, ending.Err)
		return ending.Lifetime < time.Second
	}, "the client's Close frame does not end the wait of a second")
}

func TestAStreamThatLingersEndsWithoutTheClient(t *testing.T) {
	t.Parallel()
	_, c, u := overHTTP2(t, nil, nil)
	client, server := c.Tunnel(t, u)
	server.Send(t, "bye")
	server.Close()
	client.ExpectEOF(t, "bye")
}

// The client's END_STREAM is a half-close, as a FIN is.
func TestTheEndOfAClientsStreamIsAHalfClose(t *testing.T) {
	_, c, u := overHTTP2(t, nil, nil)
	client, server := c.Tunnel(t, u)
	require.NoError(t, client.CloseWrite())
	server.ExpectEOF(t, "")
	server.Send(t, "still here")
	client.Expect(t, "still here")
	server.Close()
	client.ExpectEOF(t, "")
}

// http.Server's timeouts end a stream unless a handler clears them.
func TestTheServersTimeoutsDoNotEndAStream(t *testing.T) {
	t.Parallel()
	const long = 2 * time.Second // enough for a handshake on a busy machine
	_, c, u := overHTTP2(t, nil, func(s *http.Server) { s.ReadTimeout, s.WriteTimeout = long, long })
	client, server := c.Tunnel(t, u)
	time.Sleep(long + long/4) // a limit that must not apply leaves no event to wait for
	client.Send(t, "hello")
	server.Expect(t, "hello")
	server.Send(t, "welcome")
	client.Expect(t, "welcome")
}

// Browsers send Accept-Encoding on the CONNECT, so middleware that compresses
// takes the stream for a page.
func TestMiddlewareDoesNotTouchAStreamsBytes(t *testing.T) {
	_, c, u := overHTTP2(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Header().Set("Content-Length", "5")
			w.Header().Set("X-Own", "1")
			h.ServeHTTP(spoiler{w}, r)
		})
	}, nil)
	answer := make(chan *testkit.Stream, 1)
	go func() { answer <- c.Connect(t, "/", nil) }()
	server := u.Accept(t)
	server.Switch(t, "")
	s := testkit.Within(t, answer, "a response")
	assert.Equal(t, "1", s.Response.Header.Get("X-Own"))
	assert.NotContains(t, s.Response.Header, "Content-Encoding")
	assert.NotContains(t, s.Response.Header, "Content-Length")
	server.Send(t, "welcome")
	testkit.NewPeer(s).Expect(t, "welcome")
}

type spoiler struct{ http.ResponseWriter }

func (s spoiler) Write(p []byte) (int, error) {
	return s.ResponseWriter.Write([]byte(strings.Repeat("x", len(p))))
}
func (s spoiler) Flush()                      {}
func (s spoiler) Unwrap() http.ResponseWriter { return s.ResponseWriter }

func TestAnUpstreamsResetResetsTheStreamAlone(t *testing.T) {
	_, c, u := overHTTP2(t, nil, nil)
	other, otherServer := c.Tunnel(t, u)
	client, server := c.Tunnel(t, u)
	server.Reset()
	_, err := client.Read(make([]byte, 1))
	assert.True(t, testkit.IsReset(err), "got %v, want a reset", err)
	other.Send(t, "hello")
	otherServer.Expect(t, "hello")
	assert.Equal(t, 1, c.Dials, "connections")
}

func TestTheEndOfMiddlewaresContextEndsAStreamThatWaitsForTheUpstream(t *testing.T) {
	ended := testkit.NewEndings()
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	p, c, u := overHTTP2(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(w, r.WithContext(ctx)) })
	}, nil, ended.Option())
	client, server := c.Tunnel(t, u)
	go io.Copy(client, testkit.Zeros{})
	awaitStall(t, p) // the upstream does not read
	done := errors.New("done")
	cancel(done)
	ending := ended.Next(t)
	assert.Equal(t, wsproxy.ReasonContextDone, ending.Reason)
	assert.ErrorIs(t, ending.Err, done)
	server.Close()
}

func TestAConnectionCarries250Tunnels(t *testing.T) {
	p, c, u := overHTTP2(t, nil, nil)
	u.Script(func(server *testkit.Peer) {
		server.Switch(t, "")
		io.Copy(server, server)
	})
	first := testkit.NewPeer(c.Connect(t, "/", nil))
	var all sync.WaitGroup
	for range 249 {
		all.Go(func() {
			client := testkit.NewPeer(c.Connect(t, "/", nil))
			if _, err := io.WriteString(client, "hello"); !assert.NoError(t, err) {
				return
			}
			got := make([]byte, 5)
			_, err := io.ReadFull(client, got)
			assert.NoError(t, err)
			assert.Equal(t, "hello", string(got))
		})
	}
	all.Wait()
	first.Send(t, "hello")
	first.Expect(t, "hello")
	assert.Equal(t, 250, p.Stats().Live)
	assert.Equal(t, 1, c.Dials, "connections")
}

// CVE-2023-44487: resets come cheap. What a handshake holds goes with its stream.
func TestAFloodOfResetsLeavesNothing(t *testing.T) {
	p, c, u := overHTTP2(t, nil, nil, wsproxy.WithMaxTunnels(50))
	u.Script(func(server *testkit.Peer) {
		io.Copy(io.Discard, server) // a request, if its stream was not reset before, and never a response
	})
	for range 20 {
		var all sync.WaitGroup
		for range 20 {
			r, s := c.Request(t, "/")
			all.Go(func() {
				if _, err := c.RoundTrip(r); err == nil {
					t.Error("a response")
				}
			})
			testkit.Eventually(t, func() bool { return p.Stats().Handshakes > 0 }, "no handshake")
			s.Reset()
		}
		all.Wait()
	}
	testkit.Eventually(t, func() bool { return p.Stats().Handshakes == 0 }, "handshakes are left")
	assert.Zero(t, p.Stats().Live)
}

// After the handler's return net/http crashes when its ResponseWriter is used.
func TestATunnelMayBeEndedAfterItsStream(t *testing.T) {
	ended := testkit.NewEndings()
	p, c, u := overHTTP2(t, nil, nil, ended.Option())
	client, server := c.Tunnel(t, u)
	tunnels := slices.Collect(p.Tunnels())
	require.Len(t, tunnels, 1)
	client.Reset()
	server.Rest(t, "the upstream's")
	ended.Next(t)
	assert.NoError(t, tunnels[0].Close(1000, ""))
	tunnels[0].Cut()
}

// With WithDetached ServeHTTP returns early, which would end a stream.
func TestServeHTTPWaitsForADetachedStream(t *testing.T) {
	_, c, u := overHTTP2(t, nil, nil, wsproxy.WithDetached())
	client, server := c.Tunnel(t, u)
	for range 10 {
		client.Send(t, "hello")
		server.Expect(t, "hello")
		server.Send(t, "welcome")
		client.Expect(t, "welcome")
	}
}

// The upstream has switched, but the client must not learn of a tunnel that a hook
// has ended already.
func TestAStreamThatAHookEndsIsResetWithoutA200(t *testing.T) {
	for name, fail := range map[string]func(*wsproxy.Tunnel){
		"panic":  func(*wsproxy.Tunnel) { panic("the hook's") },
		"Goexit": func(*wsproxy.Tunnel) { runtime.Goexit() },
		"Cut":    (*wsproxy.Tunnel).Cut,
	} {
		t.Run(name, func(t *testing.T) {
			ended := testkit.NewEndings()
			p, c, u := overHTTP2(t, nil, nil, ended.Option(), testkit.OnOpen(func(tun *wsproxy.Tunnel, _ *http.Request) { fail(tun) }))
			r, _ := c.Request(t, "/")
			answer := make(chan error, 1)
			go func() {
				_, err := c.RoundTrip(r)
				answer <- err
			}()
			server := u.Accept(t)
			server.Switch(t, "")
			err := testkit.Within(t, answer, "the end of the stream")
			assert.True(t, testkit.IsReset(err), "got %v, want a reset", err)
			server.Rest(t, "the upstream's")
			ended.Next(t)
			testkit.Eventually(t, func() bool { return p.Stats().Live == 0 }, "the tunnel is left")
		})
	}
}

// docs/http2.md: wrappers of the request's body stay in effect.
func TestMaxBytesHandlerLimitsTheBytesOfAStream(t *testing.T) {
	ended := testkit.NewEndings()
	_, c, u := overHTTP2(t, func(h http.Handler) http.Handler { return http.MaxBytesHandler(h, 5) }, nil, ended.Option())
	client, server := c.Tunnel(t, u)
	client.Send(t, "hello, world")
	server.Expect(t, "hello")
	_, err := server.Read(make([]byte, 1))
	assert.True(t, testkit.IsReset(err), "got %v, want a reset", err)
	var tooLarge *http.MaxBytesError
	assert.ErrorAs(t, ended.Next(t).Err, &tooLarge)
}
