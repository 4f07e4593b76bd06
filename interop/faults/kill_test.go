//go:build linux

package faults_test

import (
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAnUpstreamKilledInTheMiddleOfAMessageEndsTheTunnelWithoutACloseFrame(t *testing.T) {
	t.Parallel()
	for name, unread := range map[string]bool{"which had read all": false, "with bytes unread": true} {
		t.Run(name, func(t *testing.T) {
			bothKinds(t, func(t *testing.T, secure bool) {
				p, up := startPair(t, role{TLS: secure})
				c := p.client(t, "/echo")
				var sent, echoed []byte
				add := func(h ws.Header, payload []byte) {
					echoed = append(append(echoed, ws.MustCompileFrame(ws.Frame{Header: h})...), payload...)
					h.Masked = true // with zeros
					sent = append(append(sent, ws.MustCompileFrame(ws.Frame{Header: h})...), payload...)
				}
				for range 50 {
					add(ws.Header{Fin: true, OpCode: ws.OpBinary, Length: 1000}, random(1000))
				}
				add(ws.Header{Fin: true, OpCode: ws.OpBinary, Length: 64 << 10}, random(20<<10))
				_, err := c.Write(sent)
				require.NoError(t, err)
				how := "upstream closed"
				if unread {
					got := make([]byte, len(echoed))
					_, err := io.ReadFull(c.r, got)
					require.NoError(t, err)
					require.Equal(t, echoed, got, "what was echoed")
					echoed = nil
					up.signal(t, syscall.SIGSTOP)
					for range 2 { // once the proxy has read the second, the first has reached the upstream
						before := p.ask(t, "report").FromClient
						_, err := c.Write(random(100))
						require.NoError(t, err)
						eventually(t, func() bool { return p.ask(t, "report").FromClient == before+100 }, "the proxy does not read")
					}
					how = "upstream closed, reset"
				} else {
					eventually(t, func() bool { return p.ask(t, "report").FromUpstream == int64(len(echoed)) }, "not all is echoed")
				}
				up.signal(t, syscall.SIGKILL)
				c.expectEnd(t, echoed, unread)
				c.Close()
				p.ended(t, 1, how)

				_, err = p.open("/echo")
				assert.Equal(t, ws.StatusError(502), err, "while the upstream is down")
				settled(t, p, start(t, role{Kind: "upstream", Listen: up.addr}))
			})
		})
	}
}

func TestBytesForAFrozenUpstreamArriveWhenItResumes(t *testing.T) {
	bothKinds(t, func(t *testing.T, secure bool) {
		p, up := startPair(t, role{TLS: secure})
		c := p.client(t, "/echo")
		c.sendText(t, "before")
		c.expectText(t, "before")
		up.signal(t, syscall.SIGSTOP)

		message := string(random(16 << 20)) // usually more than the socket buffers hold
		sent := make(chan error, 1)
		go func() {
			_, err := c.Write(masked(ws.NewTextFrame([]byte(message))))
			sent <- err
		}()
		c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		_, err := c.Read(make([]byte, 1))
		require.True(t, timedOut(err), "something comes from a stopped upstream: %v", err)
		c.SetReadDeadline(time.Now().Add(patience))

		up.signal(t, syscall.SIGCONT)
		c.expectText(t, message)
		require.NoError(t, <-sent)
		c.leave(t)
		p.ended(t, 1, "client closed")
		settled(t, p, up)
	})
}

func TestPingsDetectAFrozenUpstream(t *testing.T) {
	bothKinds(t, func(t *testing.T, secure bool) {
		p, up := startPair(t, role{TLS: secure, PingInterval: 100 * time.Millisecond, PingTimeout: 2 * time.Second})
		c := p.client(t, "/echo")
		up.signal(t, syscall.SIGSTOP)
		c.expectClose(t, ws.StatusGoingAway)
		c.expectEnd(t, nil, false)
		c.Close()
		p.ended(t, 1, "ping timeout")
		up.signal(t, syscall.SIGCONT)
		settled(t, p, up)
	})
}

func TestTheSendTimeoutDetectsAFrozenUpstream(t *testing.T) {
	bothKinds(t, func(t *testing.T, secure bool) {
		p, up := startPair(t, role{TLS: secure, Send: time.Second})
		c := p.client(t, "/echo")
		up.signal(t, syscall.SIGSTOP)
		var err error
		for frame := masked(ws.NewBinaryFrame(make([]byte, 1<<20))); err == nil; {
			_, err = c.Write(frame)
		}
		require.False(t, timedOut(err), "the client's connection stays open")
		c.Close()
		p.ended(t, 1, "send timeout, cut")
		up.signal(t, syscall.SIGCONT)
		settled(t, p, up)
	})
}

func TestAResetOnOneSideBecomesAResetOnTheOther(t *testing.T) {
	t.Parallel()
	t.Run("from the client", func(t *testing.T) {
		bothKinds(t, func(t *testing.T, secure bool) {
			p, up := startPair(t, role{TLS: secure})
			c := p.client(t, "/echo")
			c.sendText(t, "whole")
			c.expectText(t, "whole")
			_, err := c.Write(masked(ws.NewTextFrame(make([]byte, 1000)))[:500])
			require.NoError(t, err)
			c.reset()
			p.ended(t, 1, "client closed, reset")
			eventually(t, func() bool { return up.ask(t, "report").Conns == 0 }, "the upstream's connection stays open")
			assert.Equal(t, map[string]int{"reset": 1}, up.ask(t, "report").Ends)
			settled(t, p, up)
		})
	})
	t.Run("from the upstream", func(t *testing.T) {
		bothKinds(t, func(t *testing.T, secure bool) {
			p, up := startPair(t, role{TLS: secure})
			c := p.client(t, "/reset")
			c.sendText(t, "go")
			c.expectText(t, "whole")
			half := make([]byte, 2+50)
			_, err := io.ReadFull(c.r, half)
			require.NoError(t, err)
			c.sendText(t, "go")
			c.expectEnd(t, nil, true)
			c.Close()
			p.ended(t, 1, "upstream closed, reset")
			settled(t, p, up)
		})
	})
}
