package tunnel_test

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
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAResetArrivesAsAReset(t *testing.T) {
	testkit.OverLinks(t, testkit.Resettable, func(t *testing.T, l testkit.Link) {
		testkit.EachSide(t, func(t *testing.T, first wsproxy.Reason) {
			ended := testkit.NewEndings()
			r := l.Start(t, nil, ended.Option())
			for range 20 {
				client, server := r.Tunnel(t)
				from, to := testkit.InOrder(first, client, server)
				from.Send(t, "before")
				to.Expect(t, "before")
				from.Reset()
				_, err := to.Read(make([]byte, 1))
				require.True(t, testkit.IsReset(err), "got %v, want a reset", err)
				ending := ended.Next(t)
				assert.Equal(t, first, ending.Reason)
				assert.True(t, testkit.IsReset(ending.Err), "the ending's error is %v, want a reset", ending.Err)
			}
		})
	})
}

// The kernel reports a reset once: to the read or to the write that waits, as
// the case may be, and to the other one an orderly end. Either must pass it on,
// and is excused only if the orderly end was faster: the peer's write then
// meets a broken pipe.
func TestAResetByAPeerThatDoesNotReadArrivesAsAReset(t *testing.T) {
	t.Parallel()
	testkit.OverLinks(t, testkit.Resettable, func(t *testing.T, l testkit.Link) {
		testkit.EachSide(t, func(t *testing.T, first wsproxy.Reason) {
			ended := testkit.NewEndings()
			r := l.Start(t, nil, ended.Option(), wsproxy.WithCloseTimeout(time.Hour)) // its cut would be a reset too
			for range 3 {
				client, server := r.Tunnel(t)
				from, to := testkit.InOrder(first, client, server)
				from.Socket().(*net.TCPConn).SetReadBuffer(4 << 10)
				written := make(chan error, 1)
				go func() {
					_, err := io.Copy(to, testkit.Zeros{})
					written <- err
				}()
				awaitStall(t, r.Proxy)
				to.SetDeadline(time.Now().Add(testkit.Patience))
				from.Reset()
				_, readErr := to.Read(make([]byte, 1))
				writeErr := <-written
				require.True(t, testkit.IsReset(readErr) || testkit.IsReset(writeErr) || errors.Is(writeErr, syscall.EPIPE),
					"reading ended with %v and writing with %v, want a reset in one", readErr, writeErr)
				assert.Equal(t, first, ended.Next(t).Reason)
			}
		})
	})
}

// awaitStall waits until no more bytes enter the proxy.
func awaitStall(t testing.TB, p *wsproxy.Proxy) {
	t.Helper()
	var last wsproxy.Stats
	require.Eventually(t, func() bool {
		now := p.Stats()
		stalled := now == last && now.FromClient.Bytes+now.FromUpstream.Bytes > 0
		last = now
		return stalled
	}, testkit.Patience, 20*time.Millisecond, "bytes keep flowing")
}

// After a half-close nobody reads from the peer that then goes altogether, and
// what the other one sends is taken and dropped, so that it gets what is still
// under way to it. That is no activity and must not last.
func TestAPeerThatKeepsSendingToAClosedEndIsClosed(t *testing.T) {
	t.Parallel()
	testkit.OverLinks(t, testkit.Resettable, func(t *testing.T, l testkit.Link) {
		testkit.EachSide(t, func(t *testing.T, first wsproxy.Reason) {
			ended := testkit.NewEndings()
			r := l.Start(t, nil, wsproxy.WithCloseTimeout(200*time.Millisecond), wsproxy.WithReadTimeout(0), ended.Option())
			client, server := r.Tunnel(t)
			from, to := testkit.InOrder(first, client, server)
			require.NoError(t, from.CloseWrite())
			to.ExpectEOF(t, "")
			from.Reset()
			_, err := io.Copy(to, testkit.Zeros{})
			assert.NotErrorIs(t, err, testkit.ErrDeadline, "the peer goes on sending")
			assert.Equal(t, first, ended.Next(t).Reason)
		})
	})
}

// A unix socket and a wrapped connection know no reset; the end must arrive
// all the same.
func TestAResetEndsTunnelsThatCannotForwardIt(t *testing.T) {
	testkit.OverLinks(t, func(l testkit.Link) bool { return !testkit.Resettable(l) }, func(t *testing.T, l testkit.Link) {
		testkit.EachSide(t, func(t *testing.T, first wsproxy.Reason) {
			ended := testkit.NewEndings()
			client, server := l.Start(t, nil, ended.Option()).Tunnel(t)
			from, to := testkit.InOrder(first, client, server)
			from.Reset()
			_, err := to.Read(make([]byte, 1))
			assert.Error(t, err)
			assert.NotErrorIs(t, err, testkit.ErrDeadline)
			to.Close()
			assert.Equal(t, first, ended.Next(t).Reason)
		})
	})
}

// Closing a socket with bytes unread resets it and takes back what was sent
// last: the proxy must not do that to a peer that is still sending.
func TestTheFinalMessageArrivesWhileThePeerIsStillSending(t *testing.T) {
	t.Parallel()
	testkit.OverLinks(t, func(l testkit.Link) bool { return !l.TLSUpstream }, func(t *testing.T, l testkit.Link) {
		testkit.EachSide(t, func(t *testing.T, first wsproxy.Reason) {
			r := l.Start(t, nil)
			final := strings.Repeat("final ", 100)
			repeats := 10
			if l == testkit.PlainLink {
				repeats = 150
			}
			for i := range repeats {
				client, server := r.Tunnel(t)
				from, to := testkit.InOrder(first, client, server)
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
				from.Reader.Discard(i * 1000)
				from.Send(t, final)
				from.Close()
				got := make([]byte, len(final))
				_, err := io.ReadFull(to, got)
				require.NoError(t, err, "tunnel %d", i)
				require.Equal(t, final, string(got))
				to.Reset()
				<-sending
			}
		})
	})
}

// Here the end itself is orderly for certain: the peer sends only after it.
func TestAnOrderlyEndStaysOrderlyWhileThePeerKeepsSending(t *testing.T) {
	testkit.OverLinks(t, nil, func(t *testing.T, l testkit.Link) {
		testkit.EachSide(t, func(t *testing.T, first wsproxy.Reason) {
			ended := testkit.NewEndings()
			r := l.Start(t, nil, ended.Option())
			for i := range 20 {
				client, server := r.Tunnel(t)
				from, to := testkit.InOrder(first, client, server)
				from.Send(t, "final")
				require.NoError(t, from.Close())
				to.Expect(t, "final")
				for range 10 {
					to.Send(t, fmt.Sprint("nobody reads this ", i))
				}
				to.ExpectEOF(t, "")
				to.Close()
				ending := ended.Next(t)
				assert.Equal(t, first, ending.Reason)
			}
		})
	})
}

// A connection that ends without a Close frame is seen so, as code 1006: the
// proxy makes up none, nor completes what is cut. For resets see
// TestAResetArrivesAsAReset.
func TestAnAbruptEndIsForwardedWithoutACloseFrame(t *testing.T) {
	testkit.OverLinks(t, nil, func(t *testing.T, l testkit.Link) {
		testkit.EachSide(t, func(t *testing.T, side wsproxy.Reason) {
			ended := testkit.NewEndings()
			r := l.Start(t, nil, ended.Option())
			for _, cut := range []int{0, 1, 4, 100} {
				client, server := testkit.Ends(r.Tunnel(t))
				from, to := client, server
				if side == wsproxy.ReasonUpstreamClosed {
					from, to = server, client
				}
				from.SendFrame(t, testkit.Text, "whole")
				to.ExpectFrame(t, testkit.Text, "whole")
				part := from.Frame(testkit.Text, strings.Repeat("x", 200))[:cut]
				from.Send(t, part)
				from.Close()
				to.ExpectEOF(t, part)
				to.Close()
				ending := ended.Next(t)
				assert.Equal(t, side, ending.Reason)
				assert.Zero(t, ending.FromClient.CloseCode)
				assert.Zero(t, ending.FromUpstream.CloseCode)
				assert.EqualValues(t, 1, from.Sent(ending).Messages)
			}
		})
	})
}
