package frames_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A goodbye is one way in which the proxy itself closes a tunnel.
type goodbye struct {
	name   string
	opts   []wsproxy.Option
	start  func(t *testing.T, p *wsproxy.Proxy) // nil: the passing of time is enough
	after  time.Duration
	code   int
	reason wsproxy.Reason
}

var goodbyes = []goodbye{
	{name: "the read timeout", after: 60 * time.Second, code: 1001, reason: wsproxy.ReasonReadTimeout},
	{name: "Shutdown", start: func(t *testing.T, p *wsproxy.Proxy) {
		done := make(chan error, 1)
		go func() { done <- p.Shutdown(context.Background()) }()
		t.Cleanup(func() { assert.NoError(t, <-done, "Shutdown") })
	}, code: 1001, reason: wsproxy.ReasonShutdown},
	{name: "Tunnel.Close", start: func(t *testing.T, p *wsproxy.Proxy) {
		assert.NoError(t, testkit.OnlyTunnel(t, p).Close(4321, "see you"))
	}, code: 4321, reason: wsproxy.ReasonKilled},
}

// eachGoodbye runs a test in a synctest bubble for each goodbye. The goodbye
// has begun when leave returns.
func eachGoodbye(t *testing.T, opts []wsproxy.Option, test func(t *testing.T, r *testkit.MemRig, g goodbye, leave func())) {
	for _, g := range goodbyes {
		t.Run(g.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := testkit.NewMemRig(t, nil, append(g.opts, opts...)...)
				test(t, r, g, func() {
					if g.start != nil {
						g.start(t, r.Proxy)
					}
					time.Sleep(g.after)
					synctest.Wait()
				})
			})
		})
	}
}

func TestBothEndsReceiveACloseFrameAndReply(t *testing.T) {
	eachGoodbye(t, nil, func(t *testing.T, r *testkit.MemRig, g goodbye, leave func()) {
		client, server := testkit.Ends(r.Tunnel(t))
		leave()
		testkit.AnswerClose(t, g.code, client, server)
		ending := r.EndsIn(t, 0, g.reason)
		assert.NoError(t, ending.Err)
		assert.Equal(t, g.code, ending.ClientClose.Code, "code of the client's reply")
		assert.Equal(t, g.code, ending.UpstreamClose.Code, "code of the upstream's reply")
		client.ExpectEOF(t, "")
		server.ExpectEOF(t, "")
	})
}

func TestTheCloseTimeoutBoundsTheWaitForReplies(t *testing.T) {
	for name, test := range map[string]struct {
		opts []wsproxy.Option
		want time.Duration
	}{
		"default":  {nil, 10 * time.Second},
		"3 s":      {[]wsproxy.Option{wsproxy.WithCloseTimeout(3 * time.Second)}, 3 * time.Second},
		"disabled": {[]wsproxy.Option{wsproxy.WithCloseTimeout(0)}, 10 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			eachGoodbye(t, test.opts, func(t *testing.T, r *testkit.MemRig, g goodbye, leave func()) {
				client, server := testkit.Ends(r.Tunnel(t))
				leave()
				client.ExpectClose(t, g.code)
				server.ExpectClose(t, g.code)
				server.SendFrame(t, testkit.Close, testkit.ClosePayload(1000, ""))
				ending := r.EndsIn(t, test.want, g.reason)
				assert.Equal(t, 1000, ending.UpstreamClose.Code)
				assert.Zero(t, ending.ClientClose.Code)
				client.ExpectEOF(t, "")
			})
		})
	}
}

func TestTunnelCloseWorksOverEveryLink(t *testing.T) {
	testkit.OverLinks(t, nil, func(t *testing.T, l testkit.Link) {
		ended := testkit.NewEndings()
		r := l.Start(t, nil, ended.Option(), wsproxy.WithCloseTimeout(testkit.Patience))
		for range 10 {
			start := time.Now()
			client, server := testkit.Ends(r.Tunnel(t))
			client.SendFrame(t, testkit.Text, "hello")
			server.ExpectFrame(t, testkit.Text, "hello")
			require.NoError(t, testkit.OnlyTunnel(t, r.Proxy).Close(3000, strings.Repeat("r", 123)))
			testkit.AnswerClose(t, 3000, client, server)
			client.ExpectEOF(t, "")
			server.ExpectEOF(t, "")
			ending := ended.Next(t)
			require.Equal(t, wsproxy.ReasonKilled, ending.Reason)
			require.NoError(t, ending.Err)
			require.Less(t, time.Since(start), testkit.Patience, "the tunnel waits for nothing")
			testkit.Eventually(t, func() bool { return r.Proxy.Stats().Live == 0 }, "the tunnel is not forgotten")
		}
	})
}

// The Close comes after each byte of a frame. It makes no difference whether
// the frame arrives in one piece or byte by byte.
func TestACloseFrameWaitsForTheEndOfAPeersFrame(t *testing.T) {
	for name, opts := range map[string][]wsproxy.Option{
		"":             nil,
		"with a limit": {wsproxy.WithMaxClientMessageSize(1000), wsproxy.WithMaxUpstreamMessageSize(1000)},
	} {
		for _, size := range []int{0, 5, 130} {
			payload := strings.Repeat("x", size)
			t.Run(name, func(t *testing.T) {
				testkit.FromEither(t, opts, func(t *testing.T, r *testkit.MemRig, from, to testkit.End) {
					whole := from.Frame(testkit.Text, payload)
					for cut := range len(whole) + 1 {
						if cut > 0 {
							from.Peer, to.Peer = reopen(t, r, from)
						}
						for i := range cut {
							from.Send(t, whole[i:i+1])
							synctest.Wait()
						}
						require.NoError(t, testkit.OnlyTunnel(t, r.Proxy).Close(4000, "now"))
						synctest.Wait()
						if 0 < cut {
							for i := range whole[cut:] {
								from.Send(t, whole[cut+i:][:1])
								synctest.Wait()
							}
							to.ExpectFrame(t, testkit.Text, payload)
						}
						testkit.AnswerClose(t, 4000, to, from)
						ending := r.EndsIn(t, 0, wsproxy.ReasonKilled)
						assert.EqualValues(t, min(cut, 1), from.Sent(ending).Messages, "messages, asked at byte %d", cut)
						to.ExpectEOF(t, "")
						from.ExpectEOF(t, "")
					}
				})
			})
		}
	}
}

// reopen opens another tunnel and returns its ends in the order of from.
func reopen(t *testing.T, r *testkit.MemRig, from testkit.End) (*testkit.Peer, *testkit.Peer) {
	client, server := r.Tunnel(t)
	if from.Client {
		return client, server
	}
	return server, client
}

// Bytes that arrive in one read with the frame that the proxy waited for must
// be scanned too. Otherwise the proxy misses the reply.
func TestACloseReplyInOneWriteWithTheLastFrameEndsTheTunnel(t *testing.T) {
	testkit.FromEither(t, nil, func(t *testing.T, r *testkit.MemRig, from, to testkit.End) {
		whole := from.Frame(testkit.Text, "hello")
		from.Send(t, whole[:3])
		synctest.Wait()
		require.NoError(t, testkit.OnlyTunnel(t, r.Proxy).Close(4000, "now"))
		synctest.Wait()
		from.ExpectClose(t, 4000)
		from.Send(t, whole[3:]+from.Frame(testkit.Text, "not any more")+from.Frame(testkit.Close, testkit.ClosePayload(4000, "")))
		to.ExpectFrame(t, testkit.Text, "hello")
		to.ExpectClose(t, 4000)
		to.SendFrame(t, testkit.Close, testkit.ClosePayload(4000, ""))
		ending := r.EndsIn(t, 0, wsproxy.ReasonKilled)
		assert.Equal(t, 4000, from.ClosedWith(ending).Code)
	})
}

func TestHalfAFrameInOneWriteWithTheLastOneDoesNotHideTheCloseReply(t *testing.T) {
	testkit.FromEither(t, nil, func(t *testing.T, r *testkit.MemRig, from, to testkit.End) {
		whole, next := from.Frame(testkit.Text, "hello"), from.Frame(testkit.Text, strings.Repeat("\x88", 300))
		from.Send(t, whole[:3])
		synctest.Wait()
		require.NoError(t, testkit.OnlyTunnel(t, r.Proxy).Close(4000, "now"))
		synctest.Wait()
		from.ExpectClose(t, 4000)
		from.Send(t, whole[3:]+next[:5])
		to.ExpectFrame(t, testkit.Text, "hello")
		testkit.AnswerClose(t, 4000, to)
		from.Send(t, next[5:]+from.Frame(testkit.Close, testkit.ClosePayload(4000, "")))
		r.EndsIn(t, 0, wsproxy.ReasonKilled)
	})
}

func TestTheProxyDoesNotReplyToAPeersCloseFrame(t *testing.T) {
	testkit.FromEither(t, nil, func(t *testing.T, r *testkit.MemRig, from, to testkit.End) {
		from.SendFrame(t, testkit.Close, testkit.ClosePayload(1000, "done"))
		to.ExpectFrame(t, testkit.Close, testkit.ClosePayload(1000, "done"))
		require.NoError(t, testkit.OnlyTunnel(t, r.Proxy).Close(4000, "now"))
		from.ExpectNothing(t, time.Second)
		to.SendFrame(t, testkit.Text, "last words")
		to.SendFrame(t, testkit.Close, testkit.ClosePayload(1000, "yes"))
		from.ExpectFrame(t, testkit.Text, "last words")
		from.ExpectFrame(t, testkit.Close, testkit.ClosePayload(1000, "yes"))
		ending := r.EndsIn(t, 0, from.Closed()) // before either end closes its connection
		assert.Equal(t, 1000, ending.ClientClose.Code)
		assert.Equal(t, 1000, ending.UpstreamClose.Code)
		to.ExpectEOF(t, "")
		from.ExpectEOF(t, "")
	})
}

func TestTunnelCloseAfterBothCloseFramesEndsTheTunnelAtOnce(t *testing.T) {
	testkit.FromEither(t, nil, func(t *testing.T, r *testkit.MemRig, from, to testkit.End) {
		from.SendFrame(t, testkit.Close, "")
		to.ExpectFrame(t, testkit.Close, "")
		to.SendFrame(t, testkit.Close, "")
		from.ExpectFrame(t, testkit.Close, "")
		require.NoError(t, testkit.OnlyTunnel(t, r.Proxy).Close(4000, "now"))
		ending := r.EndsIn(t, 0, from.Closed())
		assert.Equal(t, 1005, ending.ClientClose.Code, "of a Close frame without a code")
		assert.Equal(t, 1005, ending.UpstreamClose.Code)
		to.ExpectEOF(t, "")
		from.ExpectEOF(t, "")
	})
}

func TestAPeerInTheMiddleOfAFrameIsClosedAtTheCloseTimeout(t *testing.T) {
	eachGoodbye(t, nil, func(t *testing.T, r *testkit.MemRig, g goodbye, leave func()) {
		client, server := testkit.Ends(r.Tunnel(t))
		half := server.Frame(testkit.Text, "never finished")[:9]
		server.Send(t, half)
		synctest.Wait()
		leave()
		server.ExpectClose(t, g.code)
		r.EndsIn(t, 10*time.Second, g.reason)
		client.ExpectEOF(t, half) // and no Close frame within a frame
	})
}

func TestAPeerThatDoesNotReadIsClosedAtTheCloseTimeout(t *testing.T) {
	testkit.FromEither(t, nil, func(t *testing.T, r *testkit.MemRig, from, stalled testkit.End) {
		go func() {
			for {
				if _, err := from.Write([]byte(from.Frame(testkit.Text, "flood"))); err != nil {
					return
				}
			}
		}()
		time.Sleep(time.Second)
		require.NoError(t, testkit.OnlyTunnel(t, r.Proxy).Close(4000, "now"))
		from.ExpectClose(t, 4000)
		r.EndsIn(t, 10*time.Second, wsproxy.ReasonKilled)
	})
}

func TestTheFirstCloseOfATunnelDecidesCodeAndReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil)
		client, server := testkit.Ends(r.Tunnel(t))
		tunnel := testkit.OnlyTunnel(t, r.Proxy)
		require.NoError(t, tunnel.Close(4000, "first"))
		require.NoError(t, tunnel.Close(4001, "second"))
		go r.Proxy.Shutdown(context.Background())
		synctest.Wait()
		assert.Equal(t, "first", client.ExpectClose(t, 4000))
		assert.Equal(t, "first", server.ExpectClose(t, 4000))
		client.ExpectNothing(t, time.Second)
		server.ExpectNothing(t, time.Second)
		r.EndsIn(t, 8*time.Second, wsproxy.ReasonKilled)
		require.NoError(t, tunnel.Close(4002, "a tunnel that has ended"))
	})
}
