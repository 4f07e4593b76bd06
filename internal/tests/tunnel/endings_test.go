package tunnel_test

import (
	"context"
	"net/http"
	"net/netip"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

// endsWith opens a tunnel, calls end to end it, and checks that there is one
// ending. Both peers close when they see the end.
func endsWith(t *testing.T, want wsproxy.Reason, r *testkit.Rig, ended testkit.Endings, end func(client, server *testkit.Peer)) wsproxy.Ending {
	t.Helper()
	client, server := greeted(t, r)
	end(client, server)
	return endsGreeted(t, want, r, ended, client, server)
}

// greeted opens a tunnel and sends bytes through it in both directions.
func greeted(t *testing.T, r *testkit.Rig) (client, server *testkit.Peer) {
	t.Helper()
	client, server = r.Tunnel(t)
	client.Send(t, "hello")
	server.Expect(t, "hello")
	server.Send(t, "welcome")
	client.Expect(t, "welcome")
	return client, server
}

// endsGreeted is endsWith once the end is under way.
func endsGreeted(t *testing.T, want wsproxy.Reason, r *testkit.Rig, ended testkit.Endings, client, server *testkit.Peer) wsproxy.Ending {
	t.Helper()
	for _, p := range []*testkit.Peer{client, server} {
		p.Read(make([]byte, 1))
		p.Close()
	}
	ending := ended.Next(t)
	assert.Equal(t, want, ending.Reason, "reason: %v", ending.Reason)
	assert.EqualValues(t, 5, ending.FromClient.Bytes, "bytes from the client")
	assert.EqualValues(t, 7, ending.FromUpstream.Bytes, "bytes from the upstream")
	assert.Positive(t, ending.Handshake)
	assert.Positive(t, ending.Lifetime)
	testkit.Eventually(t, func() bool { return r.Proxy.Stats().Live == 0 }, "the tunnel stays in the proxy's count")
	assert.Empty(t, ended, "endings beyond the first")
	return ending
}

func TestTheReasonNamesThePeerThatClosed(t *testing.T) {
	t.Parallel()
	testkit.OverLinks(t, nil, func(t *testing.T, l testkit.Link) {
		testkit.EachSide(t, func(t *testing.T, first wsproxy.Reason) {
			ended := testkit.NewEndings()
			ending := endsWith(t, first, l.Start(t, nil, ended.Option()), ended, func(client, server *testkit.Peer) {
				from, _ := testkit.InOrder(first, client, server)
				from.Close()
			})
			assert.NoError(t, ending.Err)
		})
	})
}

// impatient shortens the close timeout, because the raw peers of these tests do
// not reply to Close frames.
var impatient = wsproxy.WithCloseTimeout(50 * time.Millisecond)

func TestTheReasonNamesTheTimeout(t *testing.T) {
	t.Parallel()
	for want, opt := range map[wsproxy.Reason]wsproxy.Option{
		wsproxy.ReasonReadTimeout: wsproxy.WithReadTimeout(2 * time.Second),
		wsproxy.ReasonMaxLifetime: wsproxy.WithMaxLifetime(2 * time.Second),
	} {
		t.Run(want.String(), func(t *testing.T) {
			t.Parallel()
			testkit.OverLinksAtOnce(t, testkit.OneOfEachSocket, func(t *testing.T, l testkit.Link) func(*testing.T) {
				ended := testkit.NewEndings()
				r := l.Start(t, nil, ended.Option(), opt, impatient)
				client, server := greeted(t, r)
				return func(t *testing.T) {
					ending := endsGreeted(t, want, r, ended, client, server)
					if ending.Err != nil { // an end that has not replied to the Close frame
						assert.ErrorIs(t, ending.Err, wsproxy.ErrCut)
					}
				}
			})
		})
	}
}

func TestTheReasonNamesCloseOrShutdown(t *testing.T) {
	testkit.OverLinks(t, nil, func(t *testing.T, l testkit.Link) {
		ended := testkit.NewEndings()
		r := l.Start(t, nil, ended.Option())
		endsWith(t, wsproxy.ReasonKilled, r, ended, func(_, _ *testkit.Peer) { assert.NoError(t, r.Proxy.Close()) })

		r = l.Start(t, nil, ended.Option())
		endsWith(t, wsproxy.ReasonShutdown, r, ended, func(_, _ *testkit.Peer) {
			assert.ErrorIs(t, r.Proxy.Shutdown(testkit.EndedContext()), context.Canceled)
		})
	})
}

func TestATunnelReportsItsClientPathServerAndBytes(t *testing.T) {
	tunnels := make(chan *wsproxy.Tunnel, 2)
	before := time.Now()
	r := testkit.PlainLink.Start(t, nil, testkit.OnOpen(func(tunnel *wsproxy.Tunnel, _ *http.Request) { tunnels <- tunnel }))
	client, server := r.Tunnel(t)
	tunnel := <-tunnels
	assert.EqualValues(t, 1, tunnel.ID())
	assert.Equal(t, netip.MustParseAddr("127.0.0.1"), tunnel.ClientIP())
	assert.Equal(t, "/chat", tunnel.Path())
	assert.Equal(t, r.Upstream.Addr, tunnel.Server())
	assert.WithinRange(t, tunnel.OpenedAt(), before, time.Now())
	client.Send(t, "hello")
	server.Expect(t, "hello")
	server.Send(t, "hi")
	client.Expect(t, "hi")
	assert.EqualValues(t, 5, tunnel.FromClient().Bytes)
	assert.EqualValues(t, 2, tunnel.FromUpstream().Bytes)
	client.Close()
	server.Close()
	testkit.Eventually(t, func() bool { return r.Proxy.Stats().Live == 0 }, "the tunnel stays")
	assert.EqualValues(t, 5, tunnel.FromClient().Bytes, "after the end")

	r.Tunnel(t)
	assert.EqualValues(t, 2, (<-tunnels).ID())
}

func TestStatsCountHandshakesTunnelsAndBytes(t *testing.T) {
	r := testkit.PlainLink.Start(t, nil)
	assert.Zero(t, testkit.Counted(r.Proxy))
	client := r.Dial(t)
	client.Send(t, testkit.SampleRequest+"early")
	server := r.Upstream.Accept(t)
	server.Request(t)
	assert.Equal(t, testkit.Counts{Handshakes: 1}, testkit.Counted(r.Proxy))
	server.Send(t, testkit.SampleSwitch+"glued")
	client.Response(t)
	client.Expect(t, "glued")
	server.Expect(t, "early")
	five := wsproxy.FlowStats{Bytes: 5}
	assert.Equal(t, testkit.Counts{Live: 1, Opened: 1, FromClient: five, FromUpstream: five}, testkit.Counted(r.Proxy))

	r.Tunnel(t)
	client.Close()
	server.Close()
	testkit.Eventually(t, func() bool { return r.Proxy.Stats().Live == 1 }, "the first tunnel stays")
	assert.Equal(t, testkit.Counts{Live: 1, Opened: 2, FromClient: five, FromUpstream: five}, testkit.Counted(r.Proxy))
}

func TestReasonsHaveDistinctNames(t *testing.T) {
	seen := map[string]bool{}
	for r := wsproxy.ReasonClientClosed; r <= wsproxy.ReasonFailed; r++ {
		assert.NotContains(t, r.String(), "reason", "%d", r)
		assert.False(t, seen[r.String()], "two reasons named %q", r)
		seen[r.String()] = true
	}
	assert.Equal(t, "read timeout", wsproxy.ReasonReadTimeout.String())
	assert.Equal(t, "reason 0", wsproxy.Reason(0).String())
	assert.Equal(t, "reason 200", wsproxy.Reason(200).String())
}
