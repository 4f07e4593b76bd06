package frames_test

import (
	"io"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// noReadTimeout disables the read timeout and keeps the close timeout's
// default, 10 s.
var noReadTimeout = []wsproxy.Option{wsproxy.WithReadTimeout(0), wsproxy.WithSendTimeout(0)}

// RFC 6455, section 7.1.1, has the server close first, but nothing forces it
// to. Without a read timeout such a tunnel stayed open for ever.
func TestATunnelEndsAtTheCloseTimeoutAfterACloseFrame(t *testing.T) {
	testkit.FromEither(t, noReadTimeout, func(t *testing.T, r *testkit.MemRig, from, to testkit.End) {
		time.Sleep(time.Hour) // no timeout applies before the Close frame
		from.SendFrame(t, testkit.Close, testkit.ClosePayload(1000, ""))
		to.ExpectFrame(t, testkit.Close, testkit.ClosePayload(1000, ""))
		ending := r.EndsIn(t, 10*time.Second, from.Closed())
		assert.ErrorIs(t, ending.Err, wsproxy.ErrCut)
		assert.Equal(t, 1000, from.ClosedWith(ending).Code)
	})
}

func TestATunnelEndsAtTheCloseTimeoutAfterBothCloseFrames(t *testing.T) {
	testkit.FromEither(t, noReadTimeout, func(t *testing.T, r *testkit.MemRig, from, to testkit.End) {
		from.SendFrame(t, testkit.Close, testkit.ClosePayload(1000, ""))
		time.Sleep(7 * time.Second)
		to.SendFrame(t, testkit.Close, testkit.ClosePayload(1000, ""))
		r.EndsIn(t, 10*time.Second, from.Closed())
	})
}

func TestAnEndThatHasNotClosedKeepsTheTunnelOpenWhileItSends(t *testing.T) {
	testkit.FromEither(t, noReadTimeout, func(t *testing.T, r *testkit.MemRig, from, to testkit.End) {
		from.SendFrame(t, testkit.Close, testkit.ClosePayload(1000, ""))
		for range 5 {
			time.Sleep(9 * time.Second)
			to.SendFrame(t, testkit.Text, "more")
			from.ExpectFrame(t, testkit.Text, "more")
		}
		r.EndsIn(t, 10*time.Second, from.Closed())
	})
}

// Bytes after a Close frame violate the protocol. The tunnel does not wait for
// them.
func TestAnEndThatHasClosedDoesNotKeepTheTunnelOpen(t *testing.T) {
	for name, opts := range map[string][]wsproxy.Option{
		"":             noReadTimeout,
		"with a limit": append(noReadTimeout[:2:2], wsproxy.WithMaxClientMessageSize(1000), wsproxy.WithMaxUpstreamMessageSize(1000)),
	} {
		t.Run(name, func(t *testing.T) {
			testkit.FromEither(t, opts, func(t *testing.T, r *testkit.MemRig, from, _ testkit.End) {
				from.SendFrame(t, testkit.Close, testkit.ClosePayload(1000, ""))
				for range 3 {
					time.Sleep(3 * time.Second)
					from.SendFrame(t, testkit.Ping, "")
				}
				r.EndsIn(t, time.Second, from.Closed())
			})
		})
	}
}

// What was sent before the Close frame still arrives.
func TestASlowReaderReceivesEverythingSentBeforeTheCloseFrame(t *testing.T) {
	testkit.FromEither(t, noReadTimeout, func(t *testing.T, r *testkit.MemRig, from, to testkit.End) {
		stream := from.Frame(testkit.Text, strings.Repeat("x", 8*testkit.Room)) + from.Frame(testkit.Close, testkit.ClosePayload(1000, ""))
		sent := make(chan error, 1)
		go func() {
			_, err := from.Write([]byte(stream))
			sent <- err
		}()
		for rest := stream; rest != ""; {
			time.Sleep(8 * time.Second)
			n := min(len(rest), testkit.Room/4)
			to.Expect(t, rest[:n])
			rest = rest[n:]
		}
		require.NoError(t, <-sent)
		to.SetReadDeadline(time.Now().Add(time.Minute))
		to.ExpectEOF(t, "")
		r.EndsIn(t, 0, from.Closed())
	})
}

func TestAReaderThatStopsBeforeTheCloseFrameEndsTheTunnel(t *testing.T) {
	testkit.FromEither(t, noReadTimeout, func(t *testing.T, r *testkit.MemRig, from, to testkit.End) {
		stream := from.Frame(testkit.Text, strings.Repeat("x", testkit.Room-100)) + from.Frame(testkit.Close, testkit.ClosePayload(1000, strings.Repeat("y", 120)))
		from.Send(t, stream)
		synctest.Wait()
		r.EndsIn(t, 10*time.Second, from.Closed())
	})
}

func TestWithoutACloseTimeoutTheReadTimeoutEndsATunnelAfterACloseFrame(t *testing.T) {
	testkit.FromEither(t, []wsproxy.Option{wsproxy.WithCloseTimeout(0)}, func(t *testing.T, r *testkit.MemRig, from, to testkit.End) {
		from.SendFrame(t, testkit.Close, testkit.ClosePayload(1000, ""))
		to.ExpectFrame(t, testkit.Close, testkit.ClosePayload(1000, ""))
		time.Sleep(time.Minute)
		synctest.Wait()
		to.CloseWrite() // the read timeout expects no reply from ends that have closed
		from.Close()
		ending := r.EndsIn(t, 0, from.Closed())
		assert.NoError(t, ending.Err)
	})
}

func TestTheCloseTimeoutAfterACloseFrameAppliesOverEveryLink(t *testing.T) {
	t.Parallel()
	testkit.OverLinks(t, nil, func(t *testing.T, l testkit.Link) {
		ended := testkit.NewEndings()
		r := l.Start(t, nil, append(noReadTimeout[:2:2], ended.Option(), wsproxy.WithCloseTimeout(50*time.Millisecond))...)
		client, server := testkit.Ends(r.Tunnel(t))
		client.SendFrame(t, testkit.Close, testkit.ClosePayload(1000, ""))
		server.ExpectFrame(t, testkit.Close, testkit.ClosePayload(1000, ""))
		ending := ended.Next(t)
		assert.Equal(t, wsproxy.ReasonClientClosed, ending.Reason)
		assert.ErrorIs(t, ending.Err, wsproxy.ErrCut)
	})
}

// An end that has sent a Close frame still answers the Pings that come before the
// other's Close frame (RFC 6455, section 5.5.2). If the proxy closes its sockets when
// the other has closed, the Pong causes a reset, which destroys what is on its way.
func TestAPongAfterBothCloseFramesDestroysNothing(t *testing.T) {
	t.Parallel()
	large := string(testkit.Noise(1, 1<<20))
	testkit.EachSide(t, func(t *testing.T, first wsproxy.Reason) {
		testkit.OverLinks(t, notAStream, func(t *testing.T, l testkit.Link) {
			ended := testkit.NewEndings()
			r := l.Start(t, nil, ended.Option())
			from, to := testkit.Ends(r.Tunnel(t))
			if first == wsproxy.ReasonUpstreamClosed {
				from, to = to, from
			}
			from.SendFrame(t, testkit.Close, testkit.ClosePayload(1000, ""))
			to.ExpectFrame(t, testkit.Close, testkit.ClosePayload(1000, ""))
			want := to.Frame(testkit.Binary, large) + to.Frame(testkit.Close, testkit.ClosePayload(1000, ""))
			to.Send(t, to.Frame(testkit.Ping, "still there?")+want)
			require.NoError(t, to.CloseWrite())
			from.ExpectFrame(t, testkit.Ping, "still there?")
			got := make([]byte, len(want))
			for half := range slices.Chunk(got, len(got)/2) {
				from.SendFrame(t, testkit.Pong, "still there?")
				to.ExpectFrame(t, testkit.Pong, "still there?")
				_, err := io.ReadFull(from, half)
				require.NoError(t, err)
			}
			require.True(t, string(got) == want)
			require.NoError(t, from.Close())
			assert.Equal(t, first, ended.Next(t).Reason)
		})
	})
}

// notAStream reports whether the client has a connection. The end of a stream's
// response ends both directions.
func notAStream(l testkit.Link) bool { return !l.HTTP2 }
