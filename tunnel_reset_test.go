package wsproxy_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func resettable(l link) bool { return !l.unix && !l.wrapped }

// eachSide runs a test with either side as the one that goes first.
func eachSide(t *testing.T, test func(t *testing.T, first wsproxy.Reason)) {
	for _, first := range []wsproxy.Reason{wsproxy.ClientClosed, wsproxy.UpstreamClosed} {
		t.Run(first.String(), func(t *testing.T) { test(t, first) })
	}
}

// inOrder returns the side that goes first and the other one.
func inOrder(first wsproxy.Reason, client, server *peer) (*peer, *peer) {
	if first == wsproxy.ClientClosed {
		return client, server
	}
	return server, client
}

func TestAResetArrivesAsAReset(t *testing.T) {
	overLinks(t, resettable, func(t *testing.T, l link) {
		eachSide(t, func(t *testing.T, first wsproxy.Reason) {
			ended := newEndings()
			r := l.start(t, nil, ended.hook())
			for range 20 {
				client, server := r.tunnel(t)
				from, to := inOrder(first, client, server)
				from.send(t, "before")
				to.expect(t, "before")
				abort(from)
				_, err := to.Read(make([]byte, 1))
				require.True(t, isReset(err), "got %v, want a reset", err)
				ending := ended.next(t)
				assert.Equal(t, first, ending.Reason)
				assert.True(t, isReset(ending.Err), "the ending's error is %v, want a reset", ending.Err)
			}
		})
	})
}

// The kernel reports a reset once: to the read or to the write that waits, as
// the case may be, and to the other one an orderly end. Either must pass it on,
// and is excused only if the orderly end was faster: the peer's write then
// meets a broken pipe.
func TestAResetByAPeerThatDoesNotReadArrivesAsAReset(t *testing.T) {
	overLinks(t, resettable, func(t *testing.T, l link) {
		eachSide(t, func(t *testing.T, first wsproxy.Reason) {
			ended := newEndings()
			r := l.start(t, nil, ended.hook(), wsproxy.WithCloseTimeout(time.Hour)) // its cut would be a reset too
			for range 3 {
				client, server := r.tunnel(t)
				from, to := inOrder(first, client, server)
				from.socket().(*net.TCPConn).SetReadBuffer(4 << 10)
				written := make(chan error, 1)
				go func() {
					_, err := io.Copy(to, endless{})
					written <- err
				}()
				awaitStall(t, r.p)
				to.SetDeadline(time.Now().Add(patience))
				abort(from)
				_, readErr := to.Read(make([]byte, 1))
				writeErr := <-written
				require.True(t, isReset(readErr) || isReset(writeErr) || errors.Is(writeErr, syscall.EPIPE),
					"reading ended with %v and writing with %v, want a reset in one", readErr, writeErr)
				assert.Equal(t, first, ended.next(t).Reason)
			}
		})
	})
}

// endless is a reader of zeros.
type endless struct{}

func (endless) Read(b []byte) (int, error) { return len(b), nil }

// awaitStall waits until no more bytes enter the proxy.
func awaitStall(t testing.TB, p *wsproxy.Proxy) {
	t.Helper()
	var last wsproxy.Stats
	require.Eventually(t, func() bool {
		now := p.Stats()
		stalled := now == last && now.FromClient.Bytes+now.FromUpstream.Bytes > 0
		last = now
		return stalled
	}, patience, 20*time.Millisecond, "bytes keep flowing")
}

// After a half-close nobody reads from the peer that then goes altogether, and
// what the other one sends is taken and dropped, so that it gets what is still
// under way to it. That is no activity and must not last.
func TestAPeerThatGoesOnSendingToNobodyIsCut(t *testing.T) {
	overLinks(t, resettable, func(t *testing.T, l link) {
		eachSide(t, func(t *testing.T, first wsproxy.Reason) {
			ended := newEndings()
			r := l.start(t, nil, wsproxy.WithCloseTimeout(200*time.Millisecond), wsproxy.WithReadTimeout(0), ended.hook())
			client, server := r.tunnel(t)
			from, to := inOrder(first, client, server)
			require.NoError(t, from.CloseWrite())
			to.expectEOF(t, "")
			abort(from)
			_, err := io.Copy(to, endless{})
			assert.NotErrorIs(t, err, errDeadline, "the peer goes on sending")
			assert.Equal(t, first, ended.next(t).Reason)
		})
	})
}

// A unix socket and a wrapped connection know no reset; the end must arrive
// all the same.
func TestAResetEndsTunnelsThatCannotPassItOn(t *testing.T) {
	overLinks(t, func(l link) bool { return !resettable(l) }, func(t *testing.T, l link) {
		eachSide(t, func(t *testing.T, first wsproxy.Reason) {
			ended := newEndings()
			client, server := l.start(t, nil, ended.hook()).tunnel(t)
			from, to := inOrder(first, client, server)
			abort(from)
			_, err := to.Read(make([]byte, 1))
			assert.Error(t, err)
			assert.NotErrorIs(t, err, errDeadline)
			to.Close()
			assert.Equal(t, first, ended.next(t).Reason)
		})
	})
}

// Closing a socket with bytes unread resets it and takes back what was sent
// last: the proxy must not do that to a peer that is still sending.
func TestTheFinalMessageArrivesThoughThePeerIsStillSending(t *testing.T) {
	overLinks(t, func(l link) bool { return !l.tlsUpstream }, func(t *testing.T, l link) {
		eachSide(t, func(t *testing.T, first wsproxy.Reason) {
			r := l.start(t, nil)
			final := strings.Repeat("final ", 100)
			repeats := 10
			if l == plainLink {
				repeats = 150
			}
			for i := range repeats {
				client, server := r.tunnel(t)
				from, to := inOrder(first, client, server)
				sending := make(chan struct{})
				go func() {
					defer close(sending)
					message := make([]byte, 2000)
					for n := 0; ; n++ {
						if _, err := to.Write(message); err != nil {
							return
						}
					}
				}()
				// from has read all there is when it closes, so that its own
				// close is orderly as often as can be.
				from.br.Discard(i * 1000)
				from.send(t, final)
				from.Close()
				got := make([]byte, len(final))
				_, err := io.ReadFull(to, got)
				require.NoError(t, err, "tunnel %d", i)
				require.Equal(t, final, string(got))
				abort(to)
				<-sending
			}
		})
	})
}

// Here the end itself is orderly for certain: the peer sends only after it.
func TestAnOrderlyEndStaysOrderlyThoughThePeerGoesOnSending(t *testing.T) {
	overLinks(t, nil, func(t *testing.T, l link) {
		eachSide(t, func(t *testing.T, first wsproxy.Reason) {
			ended := newEndings()
			r := l.start(t, nil, ended.hook())
			for i := range 20 {
				client, server := r.tunnel(t)
				from, to := inOrder(first, client, server)
				from.send(t, "final")
				require.NoError(t, from.Close())
				to.expect(t, "final")
				for range 10 {
					to.send(t, fmt.Sprint("nobody reads this ", i))
				}
				to.expectEOF(t, "")
				to.Close()
				ending := ended.next(t)
				assert.Equal(t, first, ending.Reason)
			}
		})
	})
}
