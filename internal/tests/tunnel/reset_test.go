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
	t.Parallel()
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

// The kernel reports a reset once, either to the pending read or to the pending
// write. The other call sees an orderly end. Whichever call sees the reset must
// forward it. The only excuse is that the orderly end came first: then the
// peer's write returns EPIPE.
func TestAResetByAPeerThatDoesNotReadArrivesAsAReset(t *testing.T) {
	t.Parallel()
	testkit.OverLinks(t, func(l testkit.Link) bool { return testkit.Resettable(l) && testkit.OwnSocket(l) }, func(t *testing.T, l testkit.Link) {
		testkit.EachSide(t, func(t *testing.T, first wsproxy.Reason) {
			ended := testkit.NewEndings()
			r := l.Start(t, nil, ended.Option(), wsproxy.WithCloseTimeout(time.Hour)) // closing at the timeout would also reset
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

// awaitStall waits until the proxy reads no more bytes.
func awaitStall(t testing.TB, p *wsproxy.Proxy) {
	t.Helper()
	var last testkit.Counts
	require.Eventually(t, func() bool {
		now := testkit.Counted(p)
		stalled := now == last && now.FromClient.Bytes+now.FromUpstream.Bytes > 0
		last = now
		return stalled
	}, testkit.Patience, 20*time.Millisecond, "bytes keep flowing")
}

// One peer half-closes and then closes entirely. The proxy reads and drops what
// the other peer still sends, so that this peer receives the bytes already
// under way to it. Dropped bytes count as no activity, so this state ends at
// the close timeout.
func TestAPeerThatKeepsSendingToAClosedEndIsClosed(t *testing.T) {
	t.Parallel()
	testkit.OverLinks(t, testkit.Resettable, func(t *testing.T, l testkit.Link) {
		testkit.EachSide(t, func(t *testing.T, first wsproxy.Reason) {
			timeout := 50 * time.Millisecond
			if l.HTTP2 && first == wsproxy.ReasonUpstreamClosed { // the stream ends after half of it
				timeout = 2 * time.Second
			}
			ended := testkit.NewEndings()
			r := l.Start(t, nil, wsproxy.WithCloseTimeout(timeout), wsproxy.WithReadTimeout(0), ended.Option())
			client, server := r.Tunnel(t)
			from, to := testkit.InOrder(first, client, server)
			require.NoError(t, from.CloseWrite())
			to.ExpectEOF(t, "")
			from.Reset()
			_, err := io.Copy(to, testkit.Zeros{})
			assert.NotErrorIs(t, err, testkit.ErrDeadline, "the peer can still send")
			assert.Equal(t, first, ended.Next(t).Reason)
		})
	})
}

// A unix socket and a wrapped connection cannot be reset. The end must arrive
// anyway.
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

// Closing a socket with unread bytes resets it and discards the last bytes
// sent. The proxy must not do that to a peer that is still sending.
func TestTheFinalMessageArrivesWhileThePeerIsStillSending(t *testing.T) {
	t.Parallel()
	testkit.OverLinks(t, func(l testkit.Link) bool { return !l.TLSUpstream }, func(t *testing.T, l testkit.Link) {
		testkit.EachSide(t, func(t *testing.T, first wsproxy.Reason) {
			r := l.Start(t, nil)
			final := strings.Repeat("final ", 100)
			repeats := 10
			if l == testkit.PlainLink {
				repeats = testkit.Scale(50, 150)
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
				// from has read all available bytes when it closes, so that its
				// own close is usually orderly.
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

// Here the end itself is always orderly: the peer sends only after it.
func TestAnOrderlyEndStaysOrderlyWhileThePeerKeepsSending(t *testing.T) {
	t.Parallel()
	testkit.OverLinks(t, nil, func(t *testing.T, l testkit.Link) {
		testkit.EachSide(t, func(t *testing.T, first wsproxy.Reason) {
			ended := testkit.NewEndings()
			r := l.Start(t, nil, ended.Option())
			times := 20
			if l.HTTP2 { // a stream waits a second for its client
				times = 1
			}
			for i := range times {
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

// If a connection ends without a Close frame, the other end must see that too
// (code 1006). The proxy adds no Close frame and completes no partial one. For
// resets see TestAResetArrivesAsAReset.
func TestAnAbruptEndIsForwardedWithoutACloseFrame(t *testing.T) {
	t.Parallel()
	testkit.OverLinks(t, nil, func(t *testing.T, l testkit.Link) {
		testkit.EachSide(t, func(t *testing.T, side wsproxy.Reason) {
			ended := testkit.NewEndings()
			r := l.Start(t, nil, ended.Option())
			cuts := []int{0, 1, 4, 100}
			if l.HTTP2 { // a stream waits a second for its client
				cuts = cuts[2:3]
			}
			for _, cut := range cuts {
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
				assert.Zero(t, ending.ClientClose.Code)
				assert.Zero(t, ending.UpstreamClose.Code)
				assert.EqualValues(t, 1, from.Sent(ending).Messages)
			}
		})
	})
}
