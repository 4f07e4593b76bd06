package frames_test

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// pings is the setting of most tests here.
var pings = []wsproxy.Option{wsproxy.WithPing(20*time.Second, 5*time.Second)}

// chatter makes an end send a frame at regular intervals until the test ends.
func chatter(t testing.TB, e testkit.End, every time.Duration) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			if _, err := io.WriteString(e, e.Frame(testkit.Text, "chat")); err != nil {
				return
			}
			select {
			case <-stop:
				return
			case <-time.After(every):
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		e.Close()
		<-stopped
	})
}

func TestASilentEndIsPingedAndItsPongIsForwarded(t *testing.T) {
	testkit.FromEither(t, pings, func(t *testing.T, r *testkit.MemRig, silent, other testkit.End) {
		for range 3 {
			start := time.Now()
			silent.ExpectFrame(t, testkit.Ping, "wsproxy!")
			assert.Equal(t, 20*time.Second, time.Since(start), "the silence before a Ping")
			other.ExpectFrame(t, testkit.Ping, "wsproxy!") // it is silent, too
			silent.SendFrame(t, testkit.Pong, "wsproxy!")
			other.ExpectFrame(t, testkit.Pong, "wsproxy!")
			other.SendFrame(t, testkit.Pong, "wsproxy!")
			silent.ExpectFrame(t, testkit.Pong, "wsproxy!")
		}
		assert.Empty(t, r.Ended)
	})
}

func TestPingsKeepASilentTunnelOpenBeyondTheReadTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil, pings...)
		client, server := testkit.Ends(r.Tunnel(t))
		fromClient, fromServer := client.AnswerPings(), server.AnswerPings()
		time.Sleep(time.Hour)
		assert.Empty(t, r.Ended)
		assert.WithinDuration(t, time.Now(), testkit.OnlyTunnel(t, r.Proxy).LastActivity(), 20*time.Second)
		require.NoError(t, testkit.OnlyTunnel(t, r.Proxy).Close(1000, ""))
		ending := r.EndsIn(t, 0, wsproxy.ReasonKilled)
		assert.Zero(t, ending.FromClient.Messages, "Pongs that count as messages")
		assert.InDelta(t, 180, <-fromClient, 1, "Pings for the client in an hour")
		assert.InDelta(t, 180, <-fromServer, 1, "Pings for the upstream in an hour")
	})
}

func TestPingsWithoutPongsDoNotKeepATunnelOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil, wsproxy.WithPing(50*time.Second, 40*time.Second))
		client, server := testkit.Ends(r.Tunnel(t))
		client.ExpectFrame(t, testkit.Ping, "wsproxy!")
		server.ExpectFrame(t, testkit.Ping, "wsproxy!")
		client.ExpectNothing(t, 9*time.Second)
		testkit.AnswerClose(t, 1001, client, server)
		ending := r.EndsIn(t, 0, wsproxy.ReasonReadTimeout)
		assert.Equal(t, 60*time.Second, ending.Lifetime, "a Ping that the proxy sends counts as no activity")
	})
}

func TestAnEndThatDoesNotReplyToAPingIsDropped(t *testing.T) {
	testkit.FromEither(t, pings, func(t *testing.T, r *testkit.MemRig, dead, live testkit.End) {
		chatter(t, live, time.Second)
		time.Sleep(7 * time.Second)
		dead.SendFrame(t, testkit.Text, "the last of it")
		live.ExpectFrame(t, testkit.Text, "the last of it")
		start := time.Now()
		assert.NotEmpty(t, live.ExpectClose(t, 1001), "the reason text")
		assert.Equal(t, 25*time.Second, time.Since(start), "the silence until the end")
		live.SendFrame(t, testkit.Close, testkit.ClosePayload(1001, ""))
		ending := r.EndsIn(t, 0, wsproxy.ReasonPingTimeout)
		assert.NoError(t, ending.Err)
		assert.Equal(t, 1001, live.ClosedWith(ending).Code)
		got, err := io.ReadAll(dead)
		assert.NoError(t, err)
		assert.Equal(t, 1, strings.Count(string(got), testkit.Frame{First: testkit.Ping, Masked: !dead.Client, Payload: ""}.String()[:1]+
			map[bool]string{true: "\x08", false: "\x88"}[dead.Client]), "Pings for an end that is silent once")
	})
}

// A slowConn delays each write.
type slowConn struct{ net.Conn }

func (c slowConn) Write(b []byte) (int, error) {
	time.Sleep(5 * time.Millisecond)
	return c.Conn.Write(b)
}

// While the proxy writes a Ping to one end it does not read from the other.
// That pause is no sign of life from the other.
func TestALiveEndThatReadsItsPingSlowlyDoesNotKeepADeadOneOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r *testkit.MemRig
		r = testkit.NewMemRig(t, nil, append(pings, wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) {
			near, far := testkit.NewMemConns(testkit.Room)
			r.Upstreams <- testkit.NewPeer(far)
			return slowConn{near}, nil
		}))...)
		dead, live := testkit.Ends(r.Tunnel(t))
		live.AnswerPings()
		go io.Copy(io.Discard, dead)
		time.Sleep(26 * time.Second)
		require.NotEmpty(t, r.Ended, "the dead end is kept")
		assert.Equal(t, wsproxy.ReasonPingTimeout, (<-r.Ended).Reason)
	})
}

func TestABusyEndIsNotPinged(t *testing.T) {
	testkit.FromEither(t, pings, func(t *testing.T, r *testkit.MemRig, busy, silent testkit.End) {
		count := busy.AnswerPings()
		silent.AnswerPings()
		chatter(t, busy, 19*time.Second)
		time.Sleep(time.Hour)
		assert.Empty(t, r.Ended)
		busy.Close()
		assert.Zero(t, <-count, "Pings for an end that is never silent for the interval")
	})
}

func TestAPingWaitsForTheEndOfAFrame(t *testing.T) {
	testkit.FromEither(t, pings, func(t *testing.T, r *testkit.MemRig, silent, other testkit.End) {
		whole := other.Frame(testkit.Text, strings.Repeat("x", 130))
		time.Sleep(20*time.Second - time.Duration(len(whole))*time.Millisecond/2)
		for i := range whole { // the Ping becomes due in the middle
			other.Send(t, whole[i:i+1])
			time.Sleep(time.Millisecond)
		}
		silent.ExpectFrame(t, testkit.Text, strings.Repeat("x", 130))
		silent.ExpectFrame(t, testkit.Ping, "wsproxy!")
		silent.SendFrame(t, testkit.Pong, "wsproxy!")
		other.ExpectFrame(t, testkit.Pong, "wsproxy!")
	})
}

func TestAPingMayComeBetweenFragments(t *testing.T) {
	testkit.FromEither(t, pings, func(t *testing.T, r *testkit.MemRig, silent, other testkit.End) {
		other.SendFrame(t, testkit.TextPart, "one ")
		silent.ExpectFrame(t, testkit.TextPart, "one ")
		silent.ExpectFrame(t, testkit.Ping, "wsproxy!")
		silent.SendFrame(t, testkit.Pong, "wsproxy!")
		other.SendFrame(t, testkit.Continuation, "message")
		silent.ExpectFrame(t, testkit.Continuation, "message")
		synctest.Wait()
		assert.EqualValues(t, 1, other.Sent(wsproxy.Ending{FromClient: testkit.OnlyTunnel(t, r.Proxy).FromClient(), FromUpstream: testkit.OnlyTunnel(t, r.Proxy).FromUpstream()}).Messages)
	})
}

// A Ping cannot be sent in the middle of a frame. While an end receives one
// frame for longer than interval and timeout together, its silence means
// nothing.
func TestAnEndThatReadsALongFrameIsNotDropped(t *testing.T) {
	testkit.FromEither(t, pings, func(t *testing.T, r *testkit.MemRig, silent, other testkit.End) {
		whole := other.Frame(testkit.Text, strings.Repeat("x", 100))
		for i := range whole { // 100 seconds and more
			other.Send(t, whole[i:i+1])
			time.Sleep(time.Second)
		}
		require.Empty(t, r.Ended, "endings of a tunnel whose end was never sent a Ping")
		silent.ExpectFrame(t, testkit.Text, strings.Repeat("x", 100))
		silent.ExpectFrame(t, testkit.Ping, "wsproxy!")
	})
}

// An end that has sent its Close frame is not pinged and need not reply to a
// Ping.
func TestAnEndThatHasSentItsCloseFrameIsNotDropped(t *testing.T) {
	testkit.FromEither(t, pings, func(t *testing.T, r *testkit.MemRig, closing, other testkit.End) {
		closing.SendFrame(t, testkit.Close, testkit.ClosePayload(1000, ""))
		other.ExpectFrame(t, testkit.Close, testkit.ClosePayload(1000, ""))
		for range 50 { // it may still be sending
			other.SendFrame(t, testkit.Text, "rest")
			closing.ExpectFrame(t, testkit.Text, "rest")
			time.Sleep(time.Second)
		}
		other.SendFrame(t, testkit.Close, testkit.ClosePayload(1000, ""))
		closing.ExpectFrame(t, testkit.Close, testkit.ClosePayload(1000, ""))
		other.Close()
		closing.ExpectEOF(t, "")
		closing.Close()
		r.EndsIn(t, 0, closing.Closed())
	})
}

// An end is not silent if the proxy has stopped reading from it because the
// other end does not read.
func TestAnEndThatIsBlockedByTheOtherIsNotDropped(t *testing.T) {
	testkit.FromEither(t, pings, func(t *testing.T, r *testkit.MemRig, held, slow testkit.End) {
		chatter(t, slow, time.Second)
		go io.Copy(io.Discard, held)
		flooded := make(chan struct{})
		go func() {
			defer close(flooded)
			io.WriteString(held, strings.Repeat(held.Frame(testkit.Text, strings.Repeat("x", 100)), 5000))
		}()
		time.Sleep(40 * time.Second) // the send timeout is 60 seconds
		require.Empty(t, r.Ended, "endings while an end that has more to say is not read")
		go io.Copy(io.Discard, slow)
		<-flooded
		chatter(t, held, time.Second)
		time.Sleep(time.Minute)
		require.Empty(t, r.Ended)
	})
}

func TestAnEndThatNeitherReadsNorSendsIsDropped(t *testing.T) {
	testkit.FromEither(t, pings, func(t *testing.T, r *testkit.MemRig, stalled, other testkit.End) {
		chatter(t, other, time.Millisecond)
		go io.Copy(io.Discard, other)
		ending := <-r.Ended
		assert.Contains(t, []wsproxy.Reason{wsproxy.ReasonPingTimeout, wsproxy.ReasonSendTimeout}, ending.Reason)
		assert.LessOrEqual(t, ending.Lifetime, 70*time.Second)
	})
}

// No Ping can be sent into a malformed stream, so there is no missing Pong.
func TestAMalformedStreamHasNoPingTimeout(t *testing.T) {
	testkit.FromEither(t, pings, func(t *testing.T, r *testkit.MemRig, silent, talking testkit.End) {
		for range 60 {
			talking.Send(t, "no frame at all")
			silent.Expect(t, "no frame at all")
			time.Sleep(time.Second)
		}
		require.Empty(t, r.Ended, "endings of a tunnel whose end was never sent a Ping")
	})
}

func TestAHalfClosedTunnelIsNotPinged(t *testing.T) {
	testkit.FromEither(t, append(pings, wsproxy.WithCloseTimeout(50*time.Second)), func(t *testing.T, r *testkit.MemRig, from, to testkit.End) {
		require.NoError(t, from.CloseWrite())
		to.ExpectEOF(t, "")
		from.ExpectNothing(t, 49*time.Second)
		r.EndsIn(t, time.Second, from.Closed())
	})
}

// The dead end sent half a frame. A Close frame after it would be read as its
// payload.
func TestNoCloseFrameFollowsADeadEndsIncompleteFrame(t *testing.T) {
	testkit.FromEither(t, pings, func(t *testing.T, r *testkit.MemRig, dead, live testkit.End) {
		half := dead.Frame(testkit.Text, "hello")[:6]
		dead.Send(t, half)
		chatter(t, live, time.Second)
		live.ExpectEOF(t, half)
		r.EndsIn(t, 0, wsproxy.ReasonPingTimeout)
	})
}

func TestPingsWorkOverEveryLink(t *testing.T) {
	t.Parallel()
	testkit.OverLinks(t, nil, func(t *testing.T, l testkit.Link) {
		ended := testkit.NewEndings()
		r := l.Start(t, nil, ended.Option(), wsproxy.WithPing(20*time.Millisecond, testkit.Patience))
		client, server := testkit.Ends(r.Tunnel(t))
		for i := range 10 {
			silent, other := client, server
			if i%2 == 0 {
				silent, other = server, client
			}
			for f := (testkit.Frame{}); f.First != testkit.Ping; {
				var err error
				f, err = testkit.ReadFrame(silent) // skip the other end's Pongs
				require.NoError(t, err)
				require.Equal(t, "wsproxy!", f.Payload)
			}
			silent.SendFrame(t, testkit.Pong, "wsproxy!")
			for f := (testkit.Frame{}); f.First != testkit.Pong; {
				var err error
				f, err = testkit.ReadFrame(other)
				require.NoError(t, err)
				if f.First == testkit.Ping {
					other.SendFrame(t, testkit.Pong, f.Payload)
				}
			}
		}
	})
}

// The live end keeps sending so that it is not pinged.
func TestADeadEndIsDroppedOverEveryLink(t *testing.T) {
	t.Parallel()
	testkit.OverLinksAtOnce(t, nil, func(t *testing.T, l testkit.Link) func(*testing.T) {
		ended := testkit.NewEndings()
		r := l.Start(t, nil, ended.Option(), wsproxy.WithPing(500*time.Millisecond, 2*time.Second)) // time for the live end of a busy machine
		client, server := testkit.Ends(r.Tunnel(t))
		server.AnswerPings()
		chatter(t, server, 100*time.Millisecond)
		return func(t *testing.T) {
			ending := ended.Next(t)
			assert.Equal(t, wsproxy.ReasonPingTimeout, ending.Reason)
			assert.Equal(t, 1001, ending.UpstreamClose.Code, "of the live end's reply")
			got, _ := io.ReadAll(client)
			assert.Contains(t, string(got), testkit.Frame{First: testkit.Ping, Masked: false, Payload: "wsproxy!"}.String(), "what the dead end was sent")
		}
	})
}

func TestPingsAndPongsOfTheEndsAreForwarded(t *testing.T) {
	testkit.OverLinks(t, nil, func(t *testing.T, l testkit.Link) {
		testkit.EachSide(t, func(t *testing.T, side wsproxy.Reason) {
			client, server := testkit.Ends(l.Start(t, nil).Tunnel(t))
			from, to := client, server
			if side == wsproxy.ReasonUpstreamClosed {
				from, to = server, client
			}
			from.SendFrame(t, testkit.TextPart, "one ")
			to.ExpectFrame(t, testkit.TextPart, "one ")
			for _, payload := range []string{"", "Ping", strings.Repeat("p", 125)} {
				from.SendFrame(t, testkit.Ping, payload)
				to.ExpectFrame(t, testkit.Ping, payload) // the proxy does not reply to it
				to.SendFrame(t, testkit.Pong, payload)
				from.ExpectFrame(t, testkit.Pong, payload)
			}
			to.SendFrame(t, testkit.Pong, "unsolicited")
			from.ExpectFrame(t, testkit.Pong, "unsolicited")
			from.SendFrame(t, testkit.Continuation, "message")
			to.ExpectFrame(t, testkit.Continuation, "message")
		})
	})
}
