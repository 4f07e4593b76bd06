package wsproxy_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// noReadTimeout leaves the close timeout alone, which has its default of 10 s.
var noReadTimeout = []wsproxy.Option{wsproxy.WithReadTimeout(0), wsproxy.WithSendTimeout(0)}

// RFC 6455, section 7.1.1 has the server close first, and nothing makes it:
// without a read timeout such a tunnel stayed for ever.
func TestATunnelEndsAtTheCloseTimeoutAfterACloseFrame(t *testing.T) {
	fromEither(t, noReadTimeout, func(t *testing.T, r *memRig, from, to wireEnd) {
		time.Sleep(time.Hour) // nothing limits it before
		from.sendFrame(t, wireClose, closeBody(1000, ""))
		to.expectFrame(t, wireClose, closeBody(1000, ""))
		ending := r.endsIn(t, 10*time.Second, from.closedBy())
		assert.ErrorIs(t, ending.Err, wsproxy.ErrCut)
		assert.Equal(t, 1000, from.sentBy(ending).CloseCode)
	})
}

func TestATunnelEndsAtTheCloseTimeoutAfterBothCloseFrames(t *testing.T) {
	fromEither(t, noReadTimeout, func(t *testing.T, r *memRig, from, to wireEnd) {
		from.sendFrame(t, wireClose, closeBody(1000, ""))
		time.Sleep(7 * time.Second)
		to.sendFrame(t, wireClose, closeBody(1000, ""))
		r.endsIn(t, 10*time.Second, from.closedBy())
	})
}

func TestTheEndThatHasNotClosedKeepsTheTunnelWhileItSends(t *testing.T) {
	fromEither(t, noReadTimeout, func(t *testing.T, r *memRig, from, to wireEnd) {
		from.sendFrame(t, wireClose, closeBody(1000, ""))
		for range 5 {
			time.Sleep(9 * time.Second)
			to.sendFrame(t, wireText, "more")
			from.expectFrame(t, wireText, "more")
		}
		r.endsIn(t, 10*time.Second, from.closedBy())
	})
}

// Bytes behind a Close frame are against the protocol, and no reason to wait.
func TestTheEndThatHasClosedDoesNotKeepTheTunnel(t *testing.T) {
	for name, opts := range map[string][]wsproxy.Option{
		"":             noReadTimeout,
		"with a limit": append(noReadTimeout[:2:2], wsproxy.WithMaxMessageSize(1000, 1000)),
	} {
		t.Run(name, func(t *testing.T) {
			fromEither(t, opts, func(t *testing.T, r *memRig, from, _ wireEnd) {
				from.sendFrame(t, wireClose, closeBody(1000, ""))
				for range 3 {
					time.Sleep(3 * time.Second)
					from.sendFrame(t, wirePing, "")
				}
				r.endsIn(t, time.Second, from.closedBy())
			})
		})
	}
}

// What was sent before the Close frame still arrives.
func TestASlowReaderGetsAllThatCameBeforeTheCloseFrame(t *testing.T) {
	fromEither(t, noReadTimeout, func(t *testing.T, r *memRig, from, to wireEnd) {
		stream := from.frame(wireText, strings.Repeat("x", 8*room)) + from.frame(wireClose, closeBody(1000, ""))
		sent := make(chan error, 1)
		go func() {
			_, err := from.Write([]byte(stream))
			sent <- err
		}()
		for rest := stream; rest != ""; {
			time.Sleep(8 * time.Second)
			n := min(len(rest), room/4)
			to.expect(t, rest[:n])
			rest = rest[n:]
		}
		require.NoError(t, <-sent)
		to.SetReadDeadline(time.Now().Add(time.Minute))
		to.expectEOF(t, "")
		r.endsIn(t, 0, from.closedBy())
	})
}

func TestAReaderThatStopsBeforeTheCloseFrameEndsTheTunnel(t *testing.T) {
	fromEither(t, noReadTimeout, func(t *testing.T, r *memRig, from, to wireEnd) {
		stream := from.frame(wireText, strings.Repeat("x", room-100)) + from.frame(wireClose, closeBody(1000, strings.Repeat("y", 120)))
		from.send(t, stream)
		synctest.Wait()
		r.endsIn(t, 10*time.Second, from.closedBy())
	})
}

func TestWithoutACloseTimeoutACloseFrameIsLeftToTheReadTimeout(t *testing.T) {
	fromEither(t, []wsproxy.Option{wsproxy.WithCloseTimeout(0)}, func(t *testing.T, r *memRig, from, to wireEnd) {
		from.sendFrame(t, wireClose, closeBody(1000, ""))
		to.expectFrame(t, wireClose, closeBody(1000, ""))
		time.Sleep(time.Minute)
		synctest.Wait()
		to.CloseWrite() // the read timeout asks nothing of ends that have closed
		from.Close()
		ending := r.endsIn(t, 0, from.closedBy())
		assert.NoError(t, ending.Err)
	})
}

func TestTheCloseTimeoutAfterACloseFrameHoldsOverEveryLink(t *testing.T) {
	overLinks(t, nil, func(t *testing.T, l link) {
		ended := newEndings()
		r := l.start(t, nil, append(noReadTimeout[:2:2], ended.hook(), wsproxy.WithCloseTimeout(50*time.Millisecond))...)
		client, server := wired(r.tunnel(t))
		client.sendFrame(t, wireClose, closeBody(1000, ""))
		server.expectFrame(t, wireClose, closeBody(1000, ""))
		ending := ended.next(t)
		assert.Equal(t, wsproxy.ClientClosed, ending.Reason)
		assert.ErrorIs(t, ending.Err, wsproxy.ErrCut)
	})
}
