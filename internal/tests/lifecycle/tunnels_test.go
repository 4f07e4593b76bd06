package lifecycle_test

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An admin page kept a map of its own for what a tunnel did not tell.
func TestATunnelTellsWhatWasAskedAndAgreed(t *testing.T) {
	long := strings.Repeat("x", 1000)
	u := testkit.NewUpstream(t)
	p, addr := testkit.ServeProxy(t, u.URL, wsproxy.WithUpgrades("websocket", "tcp"))
	for _, test := range []struct {
		request, response           string
		host, protocol, subprotocol string
	}{
		{testkit.SampleRequest, testkit.SampleSwitch, "server.example.com", "websocket", ""},
		{testkit.UpgradeGet("/x", "Sec-WebSocket-Protocol: v1, v2"), switchWith("Sec-WebSocket-Protocol: v2"), "server.example.com", "websocket", "v2"},
		{testkit.UpgradeGet("http://other.example:8080/x"), testkit.SampleSwitch, "other.example:8080", "websocket", ""},
		{testkit.PlainGet("/x", "Upgrade: TCP", "Connection: upgrade"), "HTTP/1.1 101 Switching\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n", "server.example.com", "tcp", ""},
		{testkit.UpgradeGet("/x", "Sec-WebSocket-Protocol: "+long), switchWith("Sec-WebSocket-Protocol: " + long), "server.example.com", "websocket", long[:256]},
	} {
		client := testkit.Dial(t, addr)
		client.Send(t, test.request)
		server := u.Accept(t)
		server.Request(t)
		server.Send(t, test.response)
		client.WantSwitch(t)
		tunnel := testkit.OnlyTunnel(t, p)
		assert.Equal(t, test.host, tunnel.Host())
		assert.Equal(t, test.protocol, tunnel.Protocol())
		assert.Equal(t, test.subprotocol, tunnel.Subprotocol())
		assert.Equal(t, u.Addr, tunnel.Server())
		found, ok := p.Tunnel(tunnel.ID())
		assert.True(t, ok)
		assert.Same(t, tunnel, found)
		tunnel.Cut()
		client.Rest(t, "the client's")
		testkit.Eventually(t, func() bool { return p.Stats().Live == 0 }, "the tunnel stays")
		found, ok = p.Tunnel(tunnel.ID())
		assert.False(t, ok)
		assert.Nil(t, found)
	}
}

func switchWith(line string) string {
	return strings.TrimSuffix(testkit.SampleSwitch, "\r\n") + line + "\r\n\r\n"
}

// Close is polite: an end that does not answer keeps its tunnel for the close
// timeout.
func TestCutDoesNotWaitForAnybody(t *testing.T) {
	testkit.OverLinks(t, nil, func(t *testing.T, l testkit.Link) {
		ended := testkit.NewEndings()
		r := l.Start(t, nil, ended.Option())
		for _, first := range []func(*wsproxy.Tunnel){
			func(*wsproxy.Tunnel) {},
			func(tunnel *wsproxy.Tunnel) { assert.NoError(t, tunnel.Close(1000, "")) },
			(*wsproxy.Tunnel).Cut,
		} {
			client, server := testkit.Ends(r.Tunnel(t))
			tunnel := testkit.OnlyTunnel(t, r.Proxy)
			first(tunnel)
			tunnel.Cut()
			client.Rest(t, "the client's")
			server.Rest(t, "the upstream's")
			ending := ended.Next(t)
			assert.Equal(t, wsproxy.ReasonKilled, ending.Reason)
			assert.ErrorIs(t, ending.Err, wsproxy.ErrCut)
			tunnel.Cut() // and after the end
			testkit.Eventually(t, func() bool { return r.Proxy.Stats().Live == 0 }, "the tunnel stays")
		}
	})
}

// The doc of Ending.Err promised ErrCut. A tunnel without Close frames that the
// proxy had closed at once ended as one that had closed in order.
func TestATunnelWithoutCloseFramesThatTheProxyEndsWasCut(t *testing.T) {
	for name, test := range map[string]struct {
		reason wsproxy.Reason
		opts   []wsproxy.Option
		end    func(p *wsproxy.Proxy, tunnel *wsproxy.Tunnel) error
	}{
		"Close":   {wsproxy.ReasonKilled, nil, func(_ *wsproxy.Proxy, tunnel *wsproxy.Tunnel) error { return tunnel.Close(1000, "") }},
		"Cut":     {wsproxy.ReasonKilled, nil, func(_ *wsproxy.Proxy, tunnel *wsproxy.Tunnel) error { tunnel.Cut(); return nil }},
		"Drain":   {wsproxy.ReasonShutdown, nil, func(p *wsproxy.Proxy, _ *wsproxy.Tunnel) error { return p.Drain(context.Background(), 0, nil) }},
		"idle":    {wsproxy.ReasonReadTimeout, nil, nil},
		"too old": {wsproxy.ReasonMaxLifetime, []wsproxy.Option{wsproxy.WithMaxLifetime(time.Second)}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := testkit.NewMemRig(t, nil, append(test.opts, wsproxy.WithUpgrades("tcp"))...)
				client := r.Send(t, testkit.PlainGet("/x", "Upgrade: tcp", "Connection: upgrade"))
				server := <-r.Upstreams
				server.Request(t)
				server.Send(t, "HTTP/1.1 101 Switching\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n")
				client.WantSwitch(t)
				if test.end != nil {
					assert.NoError(t, test.end(r.Proxy, testkit.OnlyTunnel(t, r.Proxy)))
				}
				ending := <-r.Ended
				assert.Equal(t, test.reason, ending.Reason)
				assert.ErrorIs(t, ending.Err, wsproxy.ErrCut)
				client.ExpectEOF(t, "")
				server.ExpectEOF(t, "")
			})
		})
	}
}

// Only the code was known, not the reason that says what went wrong.
func TestAnEndingHasTheCloseFramesOfBothEnds(t *testing.T) {
	reason := strings.Repeat("ß", 61) + "x" // 123 bytes, the most
	for name, pieces := range map[string]int{"whole": 200, "in pieces": 7, "byte by byte": 1} {
		t.Run(name, func(t *testing.T) {
			testkit.FromEither(t, nil, func(t *testing.T, r *testkit.MemRig, from, to testkit.End) {
				bytes := from.Frame(testkit.Text, "hi") + from.Frame(testkit.Close, testkit.ClosePayload(4001, reason))
				for len(bytes) > 0 {
					n := min(pieces, len(bytes))
					from.Send(t, bytes[:n])
					bytes = bytes[n:]
					synctest.Wait()
				}
				to.ExpectFrame(t, testkit.Text, "hi")
				assert.Equal(t, reason, to.ExpectClose(t, 4001))
				to.SendFrame(t, testkit.Close, "")
				synctest.Wait()
				to.Close()
				from.Close()
				ending := r.EndsIn(t, 0, from.Closed())
				assert.Equal(t, wsproxy.CloseFrame{Code: 4001, Reason: reason}, from.ClosedWith(ending))
				assert.Equal(t, wsproxy.CloseFrame{Code: 1005}, to.ClosedWith(ending))
			})
		})
	}
}

func TestATunnelWithoutCloseFramesEndsWithNone(t *testing.T) {
	ended := testkit.NewEndings()
	r := testkit.PlainLink.Start(t, nil, ended.Option())
	client, server := testkit.Ends(r.Tunnel(t))
	half := client.Frame(testkit.Close, testkit.ClosePayload(1000, "never whole"))
	client.Send(t, half[:len(half)-1])
	server.Expect(t, half[:len(half)-1])
	client.Close()
	server.ExpectEOF(t, "")
	server.Close()
	ending := ended.Next(t)
	assert.Zero(t, ending.ClientClose)
	assert.Zero(t, ending.UpstreamClose)
}

// Fails is reset by time and success, so a rate of failures was lost between two
// scrapes.
func TestTotalsOfServersAndRetriesDoNotReset(t *testing.T) {
	up := testkit.NewUpstream(t)
	down := testkit.RefusingAddr(t)
	u := testkit.Servers(t, firstServer{}, wsproxy.Server{Addr: down, MaxFails: wsproxy.NeverDown}, wsproxy.Server{Addr: up.Addr})
	p, addr := testkit.ServeProxy(t, "http://group", wsproxy.WithUpstream(u))
	for range 3 {
		client, _ := testkit.Tunnel(t, addr, up)
		client.Close()
	}
	up.Respond(testkit.ResponseOKClose)
	res, _ := testkit.Do(t, addr, testkit.PlainRequest)
	require.Equal(t, http.StatusOK, res.StatusCode)
	servers := u.Servers()
	assert.EqualValues(t, 4, servers[0].Failed)
	assert.EqualValues(t, 0, servers[0].Opened)
	assert.EqualValues(t, 0, servers[1].Failed)
	assert.EqualValues(t, 3, servers[1].Opened)
	assert.EqualValues(t, 4, p.Stats().Retries)
	require.NoError(t, u.SetServers(wsproxy.Server{Addr: up.Addr, Weight: 5}))
	assert.EqualValues(t, 3, u.Servers()[0].Opened, "of a server that stays")
}

// firstServer picks the first server that can be tried.
type firstServer struct{}

func (firstServer) Pick(_ *http.Request, _ netip.Addr, servers []*wsproxy.Candidate) *wsproxy.Candidate {
	return servers[0]
}

// An exporter kept a map and a mutex of its own for the reasons.
func TestClosedCountsEachReason(t *testing.T) {
	r := testkit.PlainLink.Start(t, nil)
	for range 2 {
		client, server := r.Tunnel(t)
		client.Reset()
		server.Rest(t, "the upstream's")
	}
	client, server := r.Tunnel(t)
	server.Close()
	client.Rest(t, "the client's")
	client.Close()
	testkit.Eventually(t, func() bool { return r.Proxy.Stats().Live == 0 }, "a tunnel stays")
	stats := r.Proxy.Stats()
	for reason := wsproxy.Reason(0); reason < 255; reason++ {
		assert.EqualValues(t, map[wsproxy.Reason]int64{wsproxy.ReasonClientClosed: 2, wsproxy.ReasonUpstreamClosed: 1}[reason], stats.Closed(reason), reason)
	}
}
