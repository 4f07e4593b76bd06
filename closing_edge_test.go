package wsproxy_test

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
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAHalfClosedPeerStillGetsItsCloseFrame(t *testing.T) {
	fromEither(t, nil, func(t *testing.T, r *memRig, from, to wireEnd) {
		require.NoError(t, from.CloseWrite())
		to.expectEOF(t, "")
		require.NoError(t, only(t, r.p).Close(4000, "now"))
		from.expectClose(t, 4000)
		to.sendFrame(t, wireClose, closeBody(1000, ""))
		ending := r.endsIn(t, 0, from.closedBy())
		assert.Equal(t, 1000, to.sentBy(ending).CloseCode)
		from.expectEOF(t, "")
	})
}

// The time for the answers counts from the proxy's Close frames, not from a
// half-close long before.
func TestAHalfClosedTunnelStillHasTheCloseTimeoutForItsAnswers(t *testing.T) {
	fromEither(t, []wsproxy.Option{wsproxy.WithCloseTimeout(0), wsproxy.WithReadTimeout(0)}, func(t *testing.T, r *memRig, from, to wireEnd) {
		require.NoError(t, from.CloseWrite())
		to.expectEOF(t, "")
		half := to.frame(wireText, "hello")
		to.send(t, half[:4])
		time.Sleep(time.Hour)
		require.NoError(t, only(t, r.p).Close(4000, "now"))
		time.Sleep(9 * time.Second)
		to.send(t, half[4:]+to.frame(wireClose, closeBody(1000, "")))
		from.expectFrame(t, wireText, "hello")
		r.endsIn(t, 0, from.closedBy())
	})
}

func TestAPeerThatEndsInsteadOfAnsweringEndsItsSide(t *testing.T) {
	fromEither(t, nil, func(t *testing.T, r *memRig, from, to wireEnd) {
		require.NoError(t, only(t, r.p).Close(4000, "now"))
		from.expectClose(t, 4000)
		from.Close()
		bothAnswer(t, 4000, to)
		r.endsIn(t, 0, wsproxy.Killed)
		to.expectEOF(t, "")
	})
}

func TestTunnelCloseRefusesWhatNoEndpointMaySend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMemRig(t, nil)
		client, server := wired(r.tunnel(t))
		tunnel := only(t, r.p)
		for _, code := range []int{-1, 0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65536 + 1000} {
			assert.ErrorContains(t, tunnel.Close(code, ""), "close code", "code %d", code)
		}
		assert.ErrorContains(t, tunnel.Close(1000, strings.Repeat("x", 124)), "close reason")
		assert.ErrorContains(t, tunnel.Close(1000, "\xff"), "close reason")
		client.expectNothing(t, time.Second)
		server.expectNothing(t, time.Second)
		for _, code := range []int{1001, 1002, 1003, 1007, 1014, 3000, 4999} {
			assert.NoError(t, tunnel.Close(code, strings.Repeat("é", 61)+"x"), "code %d", code)
		}
		bothAnswer(t, 1001, client, server)
		r.endsIn(t, 0, wsproxy.Killed)
	})
}

func TestATunnelClosedInOnOpenIsUpgradedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := newEndings()
		r := newMemRig(t, nil, wsproxy.WithHooks(wsproxy.Hooks{
			OnOpen:  func(tunnel *wsproxy.Tunnel, _ *http.Request) { tunnel.Close(4001, "not you") },
			OnClose: func(_ *wsproxy.Tunnel, ending wsproxy.Ending) { ended <- ending },
		}))
		r.ended = ended
		client, server := wired(r.tunnel(t))
		assert.Equal(t, "not you", client.expectClose(t, 4001))
		assert.Equal(t, "not you", server.expectClose(t, 4001))
		client.sendFrame(t, wireClose, "")
		server.sendFrame(t, wireClose, "")
		r.endsIn(t, 0, wsproxy.Killed)
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
		r := newMemRig(t, server)
		done := make(chan error, 1)
		server.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			r.p.ServeHTTP(hijackHook{w, func() {
				go func() { done <- r.p.Shutdown(context.Background()) }()
				for r.p.Stats().Handshakes == 1 && !refuses(r.p) {
				}
			}}, req)
		})
		client, upstream := wired(r.tunnel(t))
		bothAnswer(t, 1001, client, upstream)
		r.endsIn(t, 0, wsproxy.Shutdown)
		assert.NoError(t, <-done)
	})
}

// refuses reports whether p takes no more upgrades.
func refuses(p *wsproxy.Proxy) bool {
	w := &hijackRecorder{header: http.Header{}}
	req, _ := http.NewRequest(http.MethodGet, "http://proxy/", nil)
	req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"},
		"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Key": {sampleKey}}
	ended, cancel := context.WithCancel(context.Background())
	cancel() // so that no dial goes far
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
			r := newMemRig(t, nil)
			near, far := newMemConns(room)
			t.Cleanup(func() { far.Close() })
			client := wireEnd{newPeer(far), true}
			early := client.frame(wireText, "hello")
			client.send(t, sampleRequest+early[:cut])
			r.l.conns <- near
			server := wireEnd{<-r.upstreams, false}
			t.Cleanup(func() { server.Close() })
			server.request(t)
			glued := server.frame(wireText, "welcome")
			server.send(t, sampleSwitch+glued[:min(cut, 8)])
			client.answer(t)
			synctest.Wait()
			require.NoError(t, only(t, r.p).Close(4001, "at once"))
			synctest.Wait()
			client.send(t, early[cut:])
			server.send(t, glued[min(cut, 8):])
			server.expectFrame(t, wireText, "hello")
			client.expectFrame(t, wireText, "welcome")
			bothAnswer(t, 4001, client, server)
			r.endsIn(t, 0, wsproxy.Killed)
		})
	}
}

func TestAMalformedStreamPassesAndIsCutOnTimeouts(t *testing.T) {
	eachGoodbye(t, nil, func(t *testing.T, r *memRig, g goodbye, leave func()) {
		client, server := wired(r.tunnel(t))
		rest := strings.Repeat("GET / HTTP/1.1 is no frame. ", 1000)
		for _, c := range []string{"G", "E", "T", " ", "/", " ", "HTTP/1.1 and so on", rest} {
			client.send(t, c)
			server.expect(t, c)
			server.send(t, c)
			client.expect(t, c)
		}
		leave()
		r.endsIn(t, 10*time.Second, g.reason)
		client.expectEOF(t, "")
		server.expectEOF(t, "")
	})
}

func TestAMalformedStreamDoesNotConcernTheOtherFlow(t *testing.T) {
	fromEither(t, nil, func(t *testing.T, r *memRig, from, to wireEnd) {
		from.send(t, "no frames")
		to.expect(t, "no frames")
		to.sendFrame(t, wireText, "a frame")
		from.expectFrame(t, wireText, "a frame")
		require.NoError(t, only(t, r.p).Close(4000, "now"))
		from.expectClose(t, 4000)
		to.sendFrame(t, wireClose, "")
		from.send(t, "more of it")
		to.expect(t, "more of it")
		from.Close()
		ending := r.endsIn(t, 0, wsproxy.Killed)
		assert.EqualValues(t, 1, to.sentBy(ending).Messages)
		assert.Zero(t, from.sentBy(ending).Messages)
	})
}

func TestAnAbruptEndIsGivenNoCloseFrame(t *testing.T) {
	overLinks(t, nil, func(t *testing.T, l link) {
		for _, first := range []wsproxy.Reason{wsproxy.ClientClosed, wsproxy.UpstreamClosed} {
			ended := newEndings()
			client, server := wired(l.start(t, nil, ended.hook()).tunnel(t))
			from, to := client, server
			if first == wsproxy.UpstreamClosed {
				from, to = server, client
			}
			from.sendFrame(t, wireText, "hello")
			to.expectFrame(t, wireText, "hello")
			abort(from.peer)
			got, _ := to.br.Peek(1)
			assert.Empty(t, got, "what the %s gets after a reset", to.name())
			to.Close()
			assert.Equal(t, first, ended.next(t).Reason)
		}
	})
}

func TestATunnelOfAnotherProtocolIsCutWithoutAFrame(t *testing.T) {
	for name, opts := range map[string][]wsproxy.Option{
		"Tunnel.Close": nil,
		"lifetime":     {wsproxy.WithMaxLifetime(2 * time.Second)},
		"read timeout": {wsproxy.WithReadTimeout(2 * time.Second)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ended, u := newEndings(), newUpstream(t)
			p, addr := serveProxy(t, u.url, append(opts, ended.hook(), wsproxy.WithUpgrades("bytes"))...)
			client := dial(t, addr)
			client.send(t, "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: bytes\r\n\r\n")
			server := u.accept(t)
			server.request(t)
			server.send(t, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: bytes\r\n\r\n")
			require.Equal(t, http.StatusSwitchingProtocols, client.answer(t).StatusCode)
			if opts == nil {
				require.NoError(t, only(t, p).Close(4000, "now"))
			}
			client.expectEOF(t, "")
			server.expectEOF(t, "")
			ended.next(t)
		})
	}
}

// The ask comes about when a source has read its last for a while: then nothing
// but the ask can wake it.
func TestNoAskIsLostAsABurstEnds(t *testing.T) {
	overLinks(t, nil, func(t *testing.T, l link) {
		ended := newEndings()
		r := l.start(t, nil, ended.hook(), wsproxy.WithCloseTimeout(time.Hour))
		for i := range 25 {
			client, server := wired(r.tunnel(t))
			tunnel := only(t, r.p)
			burst := strings.Repeat("x", 400+i*1117%40_000)
			sent := make(chan error, 2)
			for _, end := range []wireEnd{client, server} {
				go func() {
					_, err := end.Write([]byte(end.frame(wireText, burst)))
					sent <- err
				}()
			}
			for range i % 4 * 50 {
				runtime.Gosched()
			}
			require.NoError(t, tunnel.Close(4000, "now"))
			for _, end := range []wireEnd{client, server} {
				f, err := readWire(end)
				if err == nil && f.first == wireText {
					require.Equal(t, burst, f.payload)
					f, err = readWire(end)
				}
				require.NoError(t, err, "the %s, waiting for its Close frame", end.name())
				require.Equal(t, closeBody(4000, "now"), f.payload, "what the %s gets", end.name())
				require.NoError(t, <-sent)
			}
			client.sendFrame(t, wireClose, "")
			server.sendFrame(t, wireClose, "")
			require.Equal(t, wsproxy.Killed, ended.next(t).Reason)
			eventually(t, func() bool { return r.p.Stats().Live == 0 }, "the tunnel is not forgotten")
		}
	})
}

// Its connection is closed with something unread, which is not to turn what it
// has yet to read into a reset.
func TestAClientThatGoesOnAfterItsCloseFrameStillReadsTheEnd(t *testing.T) {
	overLinks(t, nil, func(t *testing.T, l link) {
		r := l.start(t, nil)
		client, server := wired(r.tunnel(t))
		half := server.frame(wireText, "last")
		server.send(t, half[:3])
		client.expect(t, half[:3])
		require.NoError(t, only(t, r.p).Close(1000, ""))
		client.sendFrame(t, wireClose, "")
		eventually(t, func() bool { return only(t, r.p).FromClient().CloseCode != 0 }, "the client's Close frame is not seen")
		client.send(t, "more")
		server.send(t, half[3:5])
		server.CloseWrite()
		client.expectEOF(t, half[3:5])
	})
}
