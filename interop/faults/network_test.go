//go:build linux

package faults_test

import (
	"io"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestASilentlyBrokenLinkEndsTheTunnelOnBothSides(t *testing.T) {
	t.Parallel()
	pings := role{PingInterval: 200 * time.Millisecond, PingTimeout: 2 * time.Second}
	reads := role{Read: 2 * time.Second, Close: time.Second}
	for _, c := range []struct {
		name   string
		r      role
		client bool // the client's link breaks, not the upstream's
		secure bool
		how    string
	}{
		{"the client's, found by pings", pings, true, false, "ping timeout"},
		{"the client's, found by pings, TLS", pings, true, true, "ping timeout"},
		{"the upstream's, found by pings", pings, false, false, "ping timeout"},
		{"the upstream's, found by pings, TLS", pings, false, true, "ping timeout"},
		{"the client's, found by the read timeout", reads, true, false, "read timeout, cut"},
		{"the upstream's, found by the read timeout, TLS", reads, false, true, "read timeout, cut"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.r.TLS = c.secure
			n := newNetwork(t, c.r, role{})
			client := n.proxy.client(t, "/echo")
			client.sendText(t, "hello")
			client.expectText(t, "hello")
			link := n.upstreamLink
			if c.client {
				link = n.clientLink
			}
			link.set(t, "down")
			if c.client {
				eventually(t, func() bool { return n.upstream.ask(t, "report").Ends["close 1001"] == 1 }, "the upstream gets no Close frame")
			} else {
				client.expectClose(t, ws.StatusGoingAway)
			}
			n.proxy.ended(t, 1, c.how)

			link.set(t, "up")
			if c.client {
				client.Write(masked(ws.NewTextFrame([]byte("hello?"))))
				_, err := io.Copy(io.Discard, client.r)
				require.False(t, timedOut(err), "the client's connection stays open when its link is back")
			}
			settled(t, n.proxy, n.upstream)
		})
	}
}

func TestDataFlowsAgainWhenALinkRecovers(t *testing.T) {
	bothKinds(t, func(t *testing.T, secure bool) {
		n := newNetwork(t, role{TLS: secure}, role{})
		c := n.proxy.client(t, "/echo")
		for _, link := range []cable{n.clientLink, n.upstreamLink} {
			message := string(random(1 << 20))
			link.set(t, "down")
			sent := make(chan error, 1)
			go func() {
				_, err := c.Write(masked(ws.NewTextFrame([]byte(message))))
				sent <- err
			}()
			c.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
			_, err := c.Read(make([]byte, 1))
			require.True(t, timedOut(err), "something passes a link that is cut: %v", err)
			c.SetReadDeadline(time.Now().Add(patience))
			link.set(t, "up")
			c.expectText(t, message)
			require.NoError(t, <-sent)
		}
		c.leave(t)
		n.proxy.ended(t, 1, "client closed")
		settled(t, n.proxy, n.upstream)
	})
}

func TestMessagesArriveIntactOverLinksThatLoseAndDelayPackets(t *testing.T) {
	bothKinds(t, func(t *testing.T, secure bool) {
		n := newNetwork(t, role{TLS: secure}, role{Delay: 25 * time.Millisecond, Loss: 0.07})
		c := n.proxy.client(t, "/echo")
		c.SetDeadline(time.Now().Add(2 * patience))
		const messages = 25
		var want []string
		for i := range messages {
			want = append(want, string(random(100*i)))
		}
		sent := make(chan error, 1)
		go func() {
			for _, text := range want {
				if _, err := c.Write(masked(ws.NewTextFrame([]byte(text)))); err != nil {
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		for _, text := range want {
			c.expectText(t, text)
		}
		require.NoError(t, <-sent)
		c.leave(t)
		n.proxy.ended(t, 1, "client closed")
		lost := []int64{n.clientLink.ask(t, "report").Lost, n.upstreamLink.ask(t, "report").Lost}
		assert.NotContains(t, lost, int64(0), "packets that each link lost")
		t.Logf("packets lost: %d", lost)
		settled(t, n.proxy, n.upstream)
	})
}
