package wsproxy_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A goodbye is one way in which the proxy closes a tunnel on its own account.
type goodbye struct {
	name   string
	opts   []wsproxy.Option
	start  func(t *testing.T, p *wsproxy.Proxy) // nil: time alone does
	after  time.Duration
	code   int
	reason wsproxy.Reason
}

var goodbyes = []goodbye{
	{name: "the read timeout", after: 60 * time.Second, code: 1001, reason: wsproxy.ReadTimeout},
	{name: "the lifetime", opts: []wsproxy.Option{wsproxy.WithMaxLifetime(7 * time.Second)}, after: 7 * time.Second,
		code: 1001, reason: wsproxy.MaxLifetime},
	{name: "Shutdown", start: func(t *testing.T, p *wsproxy.Proxy) {
		done := make(chan error, 1)
		go func() { done <- p.Shutdown(context.Background()) }()
		t.Cleanup(func() { assert.NoError(t, <-done, "Shutdown") })
	}, code: 1001, reason: wsproxy.Shutdown},
	{name: "Tunnel.Close", start: func(t *testing.T, p *wsproxy.Proxy) {
		assert.NoError(t, only(t, p).Close(4321, "see you"))
	}, code: 4321, reason: wsproxy.Killed},
}

// eachGoodbye runs a test in a synctest bubble for each way, which has begun
// when leave returns.
func eachGoodbye(t *testing.T, opts []wsproxy.Option, test func(t *testing.T, r *memRig, g goodbye, leave func())) {
	for _, g := range goodbyes {
		t.Run(g.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newMemRig(t, nil, append(g.opts, opts...)...)
				test(t, r, g, func() {
					if g.start != nil {
						g.start(t, r.p)
					}
					time.Sleep(g.after)
					synctest.Wait()
				})
			})
		})
	}
}

func TestBothEndsGetACloseFrameAndAnswer(t *testing.T) {
	eachGoodbye(t, nil, func(t *testing.T, r *memRig, g goodbye, leave func()) {
		client, server := wired(r.tunnel(t))
		leave()
		bothAnswer(t, g.code, client, server)
		ending := r.endsIn(t, 0, g.reason)
		assert.NoError(t, ending.Err)
		assert.Equal(t, g.code, ending.FromClient.CloseCode, "code of the client's answer")
		assert.Equal(t, g.code, ending.FromUpstream.CloseCode, "code of the upstream's answer")
		client.expectEOF(t, "")
		server.expectEOF(t, "")
	})
}

func TestTheCloseTimeoutIsForTheAnswers(t *testing.T) {
	for name, test := range map[string]struct {
		opts []wsproxy.Option
		want time.Duration
	}{
		"default":  {nil, 10 * time.Second},
		"3 s":      {[]wsproxy.Option{wsproxy.WithCloseTimeout(3 * time.Second)}, 3 * time.Second},
		"disabled": {[]wsproxy.Option{wsproxy.WithCloseTimeout(0)}, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			eachGoodbye(t, test.opts, func(t *testing.T, r *memRig, g goodbye, leave func()) {
				client, server := wired(r.tunnel(t))
				leave()
				client.expectClose(t, g.code)
				server.expectClose(t, g.code)
				server.sendFrame(t, wireClose, closeBody(1000, ""))
				ending := r.endsIn(t, test.want, g.reason)
				assert.Equal(t, 1000, ending.FromUpstream.CloseCode)
				assert.Zero(t, ending.FromClient.CloseCode)
				client.expectEOF(t, "")
			})
		})
	}
}

func TestTunnelCloseWorksOverEveryLink(t *testing.T) {
	overLinks(t, nil, func(t *testing.T, l link) {
		ended := newEndings()
		r := l.start(t, nil, ended.hook(), wsproxy.WithCloseTimeout(patience))
		for range 10 {
			start := time.Now()
			client, server := wired(r.tunnel(t))
			client.sendFrame(t, wireText, "hello")
			server.expectFrame(t, wireText, "hello")
			require.NoError(t, only(t, r.p).Close(3000, strings.Repeat("r", 123)))
			bothAnswer(t, 3000, client, server)
			client.expectEOF(t, "")
			server.expectEOF(t, "")
			ending := ended.next(t)
			require.Equal(t, wsproxy.Killed, ending.Reason)
			require.NoError(t, ending.Err)
			require.Less(t, time.Since(start), patience, "the tunnel waits for nothing")
			eventually(t, func() bool { return r.p.Stats().Live == 0 }, "the tunnel is not forgotten")
		}
	})
}

// The ask comes after each byte of a frame; in one piece or byte by byte makes
// no difference.
func TestACloseFrameWaitsForTheEndOfAPeersFrame(t *testing.T) {
	for name, opts := range map[string][]wsproxy.Option{
		"":             nil,
		"with a limit": {wsproxy.WithMaxMessageSize(1000, 1000)},
	} {
		for _, size := range []int{0, 5, 130} {
			payload := strings.Repeat("x", size)
			t.Run(name, func(t *testing.T) {
				fromEither(t, opts, func(t *testing.T, r *memRig, from, to wireEnd) {
					whole := from.frame(wireText, payload)
					for cut := range len(whole) + 1 {
						if cut > 0 {
							from.peer, to.peer = reopen(t, r, from)
						}
						for i := range cut {
							from.send(t, whole[i:i+1])
							synctest.Wait()
						}
						require.NoError(t, only(t, r.p).Close(4000, "now"))
						synctest.Wait()
						if 0 < cut {
							for i := range whole[cut:] {
								from.send(t, whole[cut+i:][:1])
								synctest.Wait()
							}
							to.expectFrame(t, wireText, payload)
						}
						bothAnswer(t, 4000, to, from)
						ending := r.endsIn(t, 0, wsproxy.Killed)
						assert.EqualValues(t, min(cut, 1), from.sentBy(ending).Messages, "messages, asked at byte %d", cut)
						to.expectEOF(t, "")
						from.expectEOF(t, "")
					}
				})
			})
		}
	}
}

// reopen opens another tunnel and returns its ends in the order of from.
func reopen(t *testing.T, r *memRig, from wireEnd) (*peer, *peer) {
	client, server := r.tunnel(t)
	if from.client {
		return client, server
	}
	return server, client
}

// What arrives in one piece with the frame that the proxy waited for must be
// followed too: else the answer is not recognised.
func TestAnAnswerGluedToTheLastFrameEndsTheTunnel(t *testing.T) {
	fromEither(t, nil, func(t *testing.T, r *memRig, from, to wireEnd) {
		whole := from.frame(wireText, "hello")
		from.send(t, whole[:3])
		synctest.Wait()
		require.NoError(t, only(t, r.p).Close(4000, "now"))
		synctest.Wait()
		from.expectClose(t, 4000)
		from.send(t, whole[3:]+from.frame(wireText, "not any more")+from.frame(wireClose, closeBody(4000, "")))
		to.expectFrame(t, wireText, "hello")
		to.expectClose(t, 4000)
		to.sendFrame(t, wireClose, closeBody(4000, ""))
		ending := r.endsIn(t, 0, wsproxy.Killed)
		assert.Equal(t, 4000, from.sentBy(ending).CloseCode)
	})
}

func TestHalfAFrameGluedToTheLastOneDoesNotHideTheAnswer(t *testing.T) {
	fromEither(t, nil, func(t *testing.T, r *memRig, from, to wireEnd) {
		whole, next := from.frame(wireText, "hello"), from.frame(wireText, strings.Repeat("\x88", 300))
		from.send(t, whole[:3])
		synctest.Wait()
		require.NoError(t, only(t, r.p).Close(4000, "now"))
		synctest.Wait()
		from.expectClose(t, 4000)
		from.send(t, whole[3:]+next[:5])
		to.expectFrame(t, wireText, "hello")
		bothAnswer(t, 4000, to)
		from.send(t, next[5:]+from.frame(wireClose, closeBody(4000, "")))
		r.endsIn(t, 0, wsproxy.Killed)
	})
}

func TestACloseOfAPeersOwnIsNotAnsweredByTheProxy(t *testing.T) {
	fromEither(t, nil, func(t *testing.T, r *memRig, from, to wireEnd) {
		from.sendFrame(t, wireClose, closeBody(1000, "done"))
		to.expectFrame(t, wireClose, closeBody(1000, "done"))
		require.NoError(t, only(t, r.p).Close(4000, "now"))
		from.expectNothing(t, time.Second)
		to.sendFrame(t, wireText, "last words")
		to.sendFrame(t, wireClose, closeBody(1000, "yes"))
		from.expectFrame(t, wireText, "last words")
		from.expectFrame(t, wireClose, closeBody(1000, "yes"))
		ending := r.endsIn(t, 0, from.closedBy()) // without waiting for either to close its connection
		assert.Equal(t, 1000, ending.FromClient.CloseCode)
		assert.Equal(t, 1000, ending.FromUpstream.CloseCode)
		to.expectEOF(t, "")
		from.expectEOF(t, "")
	})
}

func TestAfterBothCloseFramesATunnelThatIsAskedToCloseEnds(t *testing.T) {
	fromEither(t, nil, func(t *testing.T, r *memRig, from, to wireEnd) {
		from.sendFrame(t, wireClose, "")
		to.expectFrame(t, wireClose, "")
		to.sendFrame(t, wireClose, "")
		from.expectFrame(t, wireClose, "")
		require.NoError(t, only(t, r.p).Close(4000, "now"))
		ending := r.endsIn(t, 0, from.closedBy())
		assert.Equal(t, 1005, ending.FromClient.CloseCode, "of a Close frame without a code")
		assert.Equal(t, 1005, ending.FromUpstream.CloseCode)
		to.expectEOF(t, "")
		from.expectEOF(t, "")
	})
}

func TestAPeerInTheMiddleOfAFrameIsCutAtTheCloseTimeout(t *testing.T) {
	eachGoodbye(t, nil, func(t *testing.T, r *memRig, g goodbye, leave func()) {
		client, server := wired(r.tunnel(t))
		half := server.frame(wireText, "never finished")[:9]
		server.send(t, half)
		synctest.Wait()
		leave()
		server.expectClose(t, g.code)
		r.endsIn(t, 10*time.Second, g.reason)
		client.expectEOF(t, half) // and no Close frame within a frame
	})
}

func TestAPeerThatDoesNotReadIsCutAtTheCloseTimeout(t *testing.T) {
	fromEither(t, nil, func(t *testing.T, r *memRig, from, deaf wireEnd) {
		go func() {
			for {
				if _, err := from.Write([]byte(from.frame(wireText, "flood"))); err != nil {
					return
				}
			}
		}()
		time.Sleep(time.Second)
		require.NoError(t, only(t, r.p).Close(4000, "now"))
		from.expectClose(t, 4000)
		r.endsIn(t, 10*time.Second, wsproxy.Killed)
	})
}

func TestTheFirstToCloseATunnelDecides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMemRig(t, nil)
		client, server := wired(r.tunnel(t))
		tunnel := only(t, r.p)
		require.NoError(t, tunnel.Close(4000, "first"))
		require.NoError(t, tunnel.Close(4001, "second"))
		go r.p.Shutdown(context.Background())
		synctest.Wait()
		assert.Equal(t, "first", client.expectClose(t, 4000))
		assert.Equal(t, "first", server.expectClose(t, 4000))
		client.expectNothing(t, time.Second)
		server.expectNothing(t, time.Second)
		r.endsIn(t, 8*time.Second, wsproxy.Killed)
		require.NoError(t, tunnel.Close(4002, "a tunnel that has ended"))
	})
}
