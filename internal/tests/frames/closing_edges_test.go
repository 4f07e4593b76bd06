package frames_test

import (
	"bufio"
	"context"
	"net"
	"net/http"
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

func TestAHalfClosedPeerStillGetsItsCloseFrame(t *testing.T) {
	testkit.FromEither(t, nil, func(t *testing.T, r *testkit.MemRig, from, to testkit.End) {
		require.NoError(t, from.CloseWrite())
		to.ExpectEOF(t, "")
		require.NoError(t, testkit.OnlyTunnel(t, r.Proxy).Close(4000, "now"))
		from.ExpectClose(t, 4000)
		to.SendFrame(t, testkit.Close, testkit.ClosePayload(1000, ""))
		ending := r.EndsIn(t, 0, from.Closed())
		assert.Equal(t, 1000, to.ClosedWith(ending).Code)
		from.ExpectEOF(t, "")
	})
}

// The close timeout runs from the proxy's Close frames, not from an earlier
// half-close.
func TestAHalfClosedTunnelGetsTheFullCloseTimeoutForCloseFrames(t *testing.T) {
	testkit.FromEither(t, []wsproxy.Option{wsproxy.WithCloseTimeout(0), wsproxy.WithReadTimeout(0)}, func(t *testing.T, r *testkit.MemRig, from, to testkit.End) {
		require.NoError(t, from.CloseWrite())
		to.ExpectEOF(t, "")
		half := to.Frame(testkit.Text, "hello")
		to.Send(t, half[:4])
		time.Sleep(time.Hour)
		require.NoError(t, testkit.OnlyTunnel(t, r.Proxy).Close(4000, "now"))
		time.Sleep(9 * time.Second)
		to.Send(t, half[4:]+to.Frame(testkit.Close, testkit.ClosePayload(1000, "")))
		from.ExpectFrame(t, testkit.Text, "hello")
		r.EndsIn(t, 0, from.Closed())
	})
}

func TestAPeerThatDisconnectsInsteadOfReplyingEndsItsSide(t *testing.T) {
	testkit.FromEither(t, nil, func(t *testing.T, r *testkit.MemRig, from, to testkit.End) {
		require.NoError(t, testkit.OnlyTunnel(t, r.Proxy).Close(4000, "now"))
		from.ExpectClose(t, 4000)
		from.Close()
		testkit.AnswerClose(t, 4000, to)
		r.EndsIn(t, 0, wsproxy.ReasonKilled)
		to.ExpectEOF(t, "")
	})
}

func TestTunnelCloseRefusesCodesAndReasonsThatNoEndpointMaySend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil)
		client, server := testkit.Ends(r.Tunnel(t))
		tunnel := testkit.OnlyTunnel(t, r.Proxy)
		for _, code := range []int{-1, 0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65536 + 1000} {
			assert.ErrorContains(t, tunnel.Close(code, ""), "close code", "code %d", code)
		}
		assert.ErrorContains(t, tunnel.Close(1000, strings.Repeat("x", 124)), "close reason")
		assert.ErrorContains(t, tunnel.Close(1000, "\xff"), "close reason")
		client.ExpectNothing(t, time.Second)
		server.ExpectNothing(t, time.Second)
		for _, code := range []int{1001, 1002, 1003, 1007, 1014, 3000, 4999} {
			assert.NoError(t, tunnel.Close(code, strings.Repeat("é", 61)+"x"), "code %d", code)
		}
		testkit.AnswerClose(t, 1001, client, server)
		r.EndsIn(t, 0, wsproxy.ReasonKilled)
	})
}

func TestATunnelClosedInOnOpenIsUpgradedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := testkit.NewEndings()
		r := testkit.NewMemRig(t, nil, testkit.OnOpen(func(tunnel *wsproxy.Tunnel, _ *http.Request) { tunnel.Close(4001, "not you") }), testkit.OnClose(func(_ *wsproxy.Tunnel, ending wsproxy.Ending) { ended <- ending }))
		r.Ended = ended
		client, server := testkit.Ends(r.Tunnel(t))
		assert.Equal(t, "not you", client.ExpectClose(t, 4001))
		assert.Equal(t, "not you", server.ExpectClose(t, 4001))
		client.SendFrame(t, testkit.Close, "")
		server.SendFrame(t, testkit.Close, "")
		r.EndsIn(t, 0, wsproxy.ReasonKilled)
	})
}

// hijackHook is a ResponseWriter that calls a function as it is hijacked.
type hijackHook struct {
	http.ResponseWriter
	call func()
}

func (w hijackHook) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	w.call()
	return w.ResponseWriter.(http.Hijacker).Hijack()
}

func TestShutdownDuringThe101ClosesTheTunnelAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server := new(http.Server)
		r := testkit.NewMemRig(t, server)
		done := make(chan error, 1)
		server.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			r.Proxy.ServeHTTP(hijackHook{w, func() {
				go func() { done <- r.Proxy.Shutdown(context.Background()) }()
				synctest.Wait() // until it waits for this handshake
				assert.True(t, refuses(r.Proxy), "Shutdown has not begun")
			}}, req)
		})
		client, upstream := testkit.Ends(r.Tunnel(t))
		testkit.AnswerClose(t, 1001, client, upstream)
		r.EndsIn(t, 0, wsproxy.ReasonShutdown)
		assert.NoError(t, <-done)
	})
}

// refuses reports whether p takes no more upgrades.
func refuses(p *wsproxy.Proxy) bool {
	w := &hijackRecorder{header: http.Header{}}
	req, _ := http.NewRequest(http.MethodGet, "http://proxy/", nil)
	req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
		"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {testkit.SampleKey}}
	ended, cancel := context.WithCancel(context.Background())
	cancel() // so that no dial connects
	p.ServeHTTP(w, req.WithContext(ended))
	return w.status == http.StatusServiceUnavailable
}

type hijackRecorder struct {
	http.Hijacker
	header http.Header
	status int
}

func (w *hijackRecorder) Header() http.Header         { return w.header }
func (w *hijackRecorder) Write(b []byte) (int, error) { return len(b), nil }
func (w *hijackRecorder) WriteHeader(status int)      { w.status = status }

func TestEarlyBytesMayEndInTheMiddleOfAFrame(t *testing.T) {
	for cut := 1; cut < 11; cut++ {
		synctest.Test(t, func(t *testing.T) {
			r := testkit.NewMemRig(t, nil)
			near, far := testkit.NewMemConns(testkit.Room)
			t.Cleanup(func() { far.Close() })
			client := testkit.End{Peer: testkit.NewPeer(far), Client: true}
			early := client.Frame(testkit.Text, "hello")
			client.Send(t, testkit.SampleRequest+early[:cut])
			r.Listener.Conns <- near
			server := testkit.End{Peer: <-r.Upstreams, Client: false}
			t.Cleanup(func() { server.Close() })
			server.Request(t)
			glued := server.Frame(testkit.Text, "welcome")
			server.Send(t, testkit.SampleSwitch+glued[:min(cut, 8)])
			client.Response(t)
			synctest.Wait()
			require.NoError(t, testkit.OnlyTunnel(t, r.Proxy).Close(4001, "at once"))
			synctest.Wait()
			client.Send(t, early[cut:])
			server.Send(t, glued[min(cut, 8):])
			server.ExpectFrame(t, testkit.Text, "hello")
			client.ExpectFrame(t, testkit.Text, "welcome")
			testkit.AnswerClose(t, 4001, client, server)
			r.EndsIn(t, 0, wsproxy.ReasonKilled)
		})
	}
}

func TestAnAbruptEndAddsNoCloseFrame(t *testing.T) {
	testkit.OverLinks(t, nil, func(t *testing.T, l testkit.Link) {
		for _, first := range []wsproxy.Reason{wsproxy.ReasonClientClosed, wsproxy.ReasonUpstreamClosed} {
			ended := testkit.NewEndings()
			client, server := testkit.Ends(l.Start(t, nil, ended.Option()).Tunnel(t))
			from, to := client, server
			if first == wsproxy.ReasonUpstreamClosed {
				from, to = server, client
			}
			from.SendFrame(t, testkit.Text, "hello")
			to.ExpectFrame(t, testkit.Text, "hello")
			from.Peer.Reset()
			got, _ := to.Reader.Peek(1)
			assert.Empty(t, got, "what the %s gets after a reset", to.Name())
			to.Close()
			assert.Equal(t, first, ended.Next(t).Reason)
		}
	})
}

func TestATunnelOfAnotherProtocolIsClosedWithoutAFrame(t *testing.T) {
	t.Parallel()
	for name, opts := range map[string][]wsproxy.Option{
		"Tunnel.Close": nil,
		"lifetime":     {wsproxy.WithMaxLifetime(2 * time.Second)},
		"read timeout": {wsproxy.WithReadTimeout(2 * time.Second)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ended, u := testkit.NewEndings(), testkit.NewUpstream(t)
			p, addr := testkit.ServeProxy(t, u.URL, append(opts, ended.Option(), wsproxy.WithUpgrades("bytes"))...)
			client := testkit.Dial(t, addr)
			client.Send(t, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: bytes\r\n\r\n")
			server := u.Accept(t)
			server.Request(t)
			server.Send(t, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: bytes\r\n\r\n")
			require.Equal(t, http.StatusSwitchingProtocols, client.Response(t).StatusCode)
			if opts == nil {
				require.NoError(t, testkit.OnlyTunnel(t, p).Close(4000, "now"))
			}
			client.ExpectEOF(t, "")
			server.ExpectEOF(t, "")
			ended.Next(t)
		})
	}
}

// The Close comes when a source has just read the last bytes of a burst. After
// that, nothing but the Close itself can wake it.
func TestACloseAtTheEndOfABurstIsNotLost(t *testing.T) {
	t.Parallel()
	testkit.OverLinks(t, nil, func(t *testing.T, l testkit.Link) {
		ended := testkit.NewEndings()
		r := l.Start(t, nil, ended.Option(), wsproxy.WithCloseTimeout(time.Hour))
		for i := range 25 {
			client, server := testkit.Ends(r.Tunnel(t))
			tunnel := testkit.OnlyTunnel(t, r.Proxy)
			burst := strings.Repeat("x", 400+i*1117%40_000)
			sent := make(chan error, 2)
			for _, end := range []testkit.End{client, server} {
				go func() {
					_, err := end.Write([]byte(end.Frame(testkit.Text, burst)))
					sent <- err
				}()
			}
			for range i % 4 * 50 {
				runtime.Gosched()
			}
			require.NoError(t, tunnel.Close(4000, "now"))
			for _, end := range []testkit.End{client, server} {
				f, err := testkit.ReadFrame(end)
				if err == nil && f.First == testkit.Text {
					require.Equal(t, burst, f.Payload)
					f, err = testkit.ReadFrame(end)
				}
				require.NoError(t, err, "the %s, waiting for its Close frame", end.Name())
				require.Equal(t, testkit.ClosePayload(4000, "now"), f.Payload, "what the %s gets", end.Name())
				require.NoError(t, <-sent)
			}
			client.SendFrame(t, testkit.Close, "")
			server.SendFrame(t, testkit.Close, "")
			require.Equal(t, wsproxy.ReasonKilled, ended.Next(t).Reason)
			testkit.Eventually(t, func() bool { return r.Proxy.Stats().Live == 0 }, "the tunnel is not forgotten")
		}
	})
}

// The proxy closes a connection that has unread bytes. That must not reset it
// before the client has read the rest.
func TestAClientThatSendsAfterItsCloseFrameStillReadsTheEnd(t *testing.T) {
	testkit.OverLinks(t, nil, func(t *testing.T, l testkit.Link) {
		r := l.Start(t, nil)
		client, server := testkit.Ends(r.Tunnel(t))
		half := server.Frame(testkit.Text, "last")
		server.Send(t, half[:3])
		client.Expect(t, half[:3])
		require.NoError(t, testkit.OnlyTunnel(t, r.Proxy).Close(1000, ""))
		client.SendFrame(t, testkit.Close, "")
		server.ExpectClose(t, 1000) // which gives the proxy the time to read the client's, mostly
		client.Send(t, "more")
		server.Send(t, half[3:5])
		server.CloseWrite()
		client.ExpectEOF(t, half[3:5])
	})
}

func TestAnEndWhoseCloseFrameWasNotForwardedGetsTheProxys(t *testing.T) {
	testkit.FromEither(t, []wsproxy.Option{wsproxy.WithMaxClientMessageSize(10), wsproxy.WithMaxUpstreamMessageSize(10)}, func(t *testing.T, r *testkit.MemRig, from, to testkit.End) {
		from.Send(t, from.Frame(testkit.Text, strings.Repeat("x", 11))+from.Frame(testkit.Close, testkit.ClosePayload(1000, "")))
		to.ExpectClose(t, 1009)
		to.Close() // instead of replying
		from.ExpectClose(t, 1009)
		from.Close()
	})
}
