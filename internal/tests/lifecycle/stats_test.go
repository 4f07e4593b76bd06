package lifecycle_test

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestATunnelReportsItsActivityMessagesAndCloseCodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil)
		client, server := testkit.Ends(r.Tunnel(t))
		opened := time.Now()
		tunnel := testkit.OnlyTunnel(t, r.Proxy)
		assert.EqualValues(t, 1, tunnel.ID())
		assert.Equal(t, netip.MustParseAddr("192.0.2.1"), tunnel.ClientIP())
		assert.Equal(t, "/chat", tunnel.Path())
		assert.Equal(t, "upstream:80", tunnel.Server())
		assert.Equal(t, opened, tunnel.OpenedAt())
		assert.Equal(t, opened, tunnel.LastActivity())
		assert.Equal(t, wsproxy.FlowStats{}, tunnel.FromClient())

		time.Sleep(5 * time.Second)
		client.SendFrame(t, testkit.TextPart, "hel")
		server.ExpectFrame(t, testkit.TextPart, "hel")
		assert.Equal(t, wsproxy.FlowStats{Bytes: 9}, tunnel.FromClient())
		assert.Equal(t, opened.Add(5*time.Second), tunnel.LastActivity())
		time.Sleep(5 * time.Second)
		client.SendFrame(t, testkit.Continuation, "lo")
		server.ExpectFrame(t, testkit.Continuation, "lo")
		server.SendFrame(t, testkit.Ping, "")
		client.ExpectFrame(t, testkit.Ping, "")
		server.SendFrame(t, testkit.Close, testkit.ClosePayload(1000, ""))
		client.ExpectFrame(t, testkit.Close, testkit.ClosePayload(1000, ""))
		synctest.Wait()
		assert.Equal(t, wsproxy.FlowStats{Bytes: 17, Messages: 1}, tunnel.FromClient())
		assert.Equal(t, wsproxy.FlowStats{Bytes: 6}, tunnel.FromUpstream())
		assert.Equal(t, opened.Add(10*time.Second), tunnel.LastActivity())
		assert.Equal(t, testkit.Counts{Live: 1, Opened: 1, FromClient: wsproxy.FlowStats{Bytes: 17, Messages: 1},
			FromUpstream: wsproxy.FlowStats{Bytes: 6}}, testkit.Counted(r.Proxy))

		client.SendFrame(t, testkit.Close, "")
		synctest.Wait()
		server.Close()
		client.Close()
		ending := r.EndsIn(t, 0, wsproxy.ReasonUpstreamClosed)
		assert.Equal(t, wsproxy.FlowStats{Bytes: 23, Messages: 1}, ending.FromClient)
		assert.Equal(t, wsproxy.FlowStats{Bytes: 6}, ending.FromUpstream)
		assert.Equal(t, wsproxy.CloseFrame{Code: 1005}, ending.ClientClose)
		assert.Equal(t, wsproxy.CloseFrame{Code: 1000}, ending.UpstreamClose)
		assert.Equal(t, 10*time.Second, ending.Lifetime)
		assert.Equal(t, ending.FromClient, tunnel.FromClient(), "after the end")
		synctest.Wait()
		assert.Equal(t, testkit.Counts{Opened: 1, FromClient: wsproxy.FlowStats{Bytes: 23, Messages: 1},
			FromUpstream: wsproxy.FlowStats{Bytes: 6}}, testkit.Counted(r.Proxy), "after the end")
	})
}

// The header of the next frame may arrive much later.
func TestAMessageCountsAsSoonAsItIsComplete(t *testing.T) {
	for name, opts := range map[string][]wsproxy.Option{
		"without a limit": nil,
		"with a limit":    {wsproxy.WithMaxClientMessageSize(100), wsproxy.WithMaxUpstreamMessageSize(100)},
	} {
		t.Run(name, func(t *testing.T) {
			testkit.FromEither(t, opts, func(t *testing.T, r *testkit.MemRig, from, to testkit.End) {
				from.Send(t, from.Frame(testkit.Text, "hello")+from.Frame(testkit.Close, testkit.ClosePayload(1000, ""))+"\x81")
				to.ExpectFrame(t, testkit.Text, "hello")
				to.ExpectFrame(t, testkit.Close, testkit.ClosePayload(1000, ""))
				synctest.Wait()
				tunnel := testkit.OnlyTunnel(t, r.Proxy)
				stats := from.Sent(wsproxy.Ending{FromClient: tunnel.FromClient(), FromUpstream: tunnel.FromUpstream()})
				assert.EqualValues(t, 1, stats.Messages)
			})
		})
	}
}

// A FlowStats counts what crossed the tunnel.
func TestBytesAfterTheProxysCloseFrameDoNotCount(t *testing.T) {
	testkit.FromEither(t, nil, func(t *testing.T, r *testkit.MemRig, from, to testkit.End) {
		require.NoError(t, testkit.OnlyTunnel(t, r.Proxy).Close(1000, "enough"))
		from.ExpectClose(t, 1000)
		to.ExpectClose(t, 1000)
		from.SendFrame(t, testkit.Text, "too late")
		from.SendFrame(t, testkit.Close, "")
		to.SendFrame(t, testkit.Close, "")
		ending := r.EndsIn(t, 0, wsproxy.ReasonKilled)
		assert.Equal(t, wsproxy.FlowStats{}, from.Sent(ending))
		assert.Equal(t, wsproxy.CloseFrame{Code: 1005}, from.ClosedWith(ending))
	})
}

func TestTunnelsYieldsEachLiveTunnelUntilTheLoopBreaks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil)
		for range r.Proxy.Tunnels() {
			assert.Fail(t, "a tunnel before any is open")
		}
		for range 5 {
			r.Tunnel(t)
		}
		ids := map[uint64]bool{}
		for tunnel := range r.Proxy.Tunnels() {
			ids[tunnel.ID()] = true
		}
		assert.Equal(t, map[uint64]bool{1: true, 2: true, 3: true, 4: true, 5: true}, ids)
		n := 0
		for range r.Proxy.Tunnels() {
			if n++; n == 2 {
				break
			}
		}
		assert.Equal(t, 2, n)
		for tunnel := range r.Proxy.Tunnels() { // the loop may close each of them
			if tunnel.ID()%2 == 1 {
				assert.NoError(t, tunnel.Close(1000, ""))
			}
		}
		time.Sleep(11 * time.Second)
		clear(ids)
		for tunnel := range r.Proxy.Tunnels() {
			ids[tunnel.ID()] = true
		}
		assert.Equal(t, map[uint64]bool{2: true, 4: true}, ids)
	})
}

// A total would drop if a tunnel left one counter before it entered the other.
func TestStatsAreConsistent(t *testing.T) {
	r := testkit.PlainLink.Start(t, nil)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		var last wsproxy.Stats
		for {
			now := r.Proxy.Stats()
			assert.GreaterOrEqual(t, now.FromClient.Bytes, last.FromClient.Bytes)
			assert.GreaterOrEqual(t, now.FromClient.Messages, last.FromClient.Messages)
			assert.GreaterOrEqual(t, now.FromUpstream.Bytes, last.FromUpstream.Bytes)
			assert.GreaterOrEqual(t, now.Opened, last.Opened)
			assert.LessOrEqual(t, int64(now.Live), now.Opened)
			assert.LessOrEqual(t, now.Live+now.Handshakes, 1, "of one tunnel after the other")
			last = now
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for range 50 {
		client, server := testkit.Ends(r.Tunnel(t))
		client.SendFrame(t, testkit.Text, "hello")
		server.ExpectFrame(t, testkit.Text, "hello")
		server.SendFrame(t, testkit.Text, "welcome")
		client.ExpectFrame(t, testkit.Text, "welcome")
		client.Close()
		server.ExpectEOF(t, "")
		server.Close()
		testkit.Eventually(t, func() bool { return r.Proxy.Stats().Live == 0 }, "the tunnel stays")
	}
	close(stop)
	wg.Wait()
	assert.Equal(t, testkit.Counts{Opened: 50, FromClient: wsproxy.FlowStats{Bytes: 50 * 11, Messages: 50},
		FromUpstream: wsproxy.FlowStats{Bytes: 50 * 9, Messages: 50}}, testkit.Counted(r.Proxy))
}

func TestShutdownReportsTheTunnelsItClosedAndThoseThatEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil, wsproxy.WithCloseTimeout(time.Hour))
		for i := range 10 {
			client, server := testkit.Ends(r.Tunnel(t))
			if i > 0 {
				client.AnswerPings()
			}
			server.AnswerPings()
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		start := time.Now()
		assert.ErrorIs(t, r.Proxy.Shutdown(ctx), context.DeadlineExceeded)
		assert.Equal(t, 30*time.Second, time.Since(start))
		unanswered := 0
		for range 10 {
			ending := <-r.Ended
			assert.Equal(t, wsproxy.ReasonShutdown, ending.Reason)
			assert.Equal(t, 1001, ending.UpstreamClose.Code)
			if ending.ClientClose.Code == 0 {
				assert.Equal(t, 30*time.Second, ending.Lifetime, "the tunnel that the proxy closes")
				unanswered++
			} else {
				assert.Zero(t, ending.Lifetime, "tunnels whose ends reply")
			}
		}
		assert.Equal(t, 1, unanswered)
	})
}

func TestEveryReasonHasItsDocumentedName(t *testing.T) {
	for reason, want := range map[wsproxy.Reason]string{
		wsproxy.ReasonClientClosed:   "client closed",
		wsproxy.ReasonUpstreamClosed: "upstream closed",
		wsproxy.ReasonReadTimeout:    "read timeout",
		wsproxy.ReasonSendTimeout:    "send timeout",
		wsproxy.ReasonPingTimeout:    "ping timeout",
		wsproxy.ReasonMaxLifetime:    "max lifetime",
		wsproxy.ReasonShutdown:       "shutdown",
		wsproxy.ReasonKilled:         "killed",
		wsproxy.ReasonLimit:          "limit",
		wsproxy.ReasonProtocolError:  "protocol error",
		wsproxy.ReasonContextDone:    "context done",
		wsproxy.ReasonFailed:         "failed",
	} {
		assert.Equal(t, want, reason.String())
	}
	assert.Equal(t, "reason 0", wsproxy.Reason(0).String())
	assert.Equal(t, "reason 200", wsproxy.Reason(200).String())
}
