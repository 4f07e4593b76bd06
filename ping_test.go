package wsproxy_test

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// pings is the setting of most tests here.
var pings = []wsproxy.Option{wsproxy.WithPing(20*time.Second, 5*time.Second)}

// pong answers everything that an end gets but a Close frame, in kind, until
// the connection ends: a browser tab without an application. It tells how
// many Pings it got.
func (e wireEnd) answerPings() <-chan int {
	n := make(chan int, 1)
	go func() {
		count := 0
		defer func() { n <- count }()
		for {
			f, err := readWire(e)
			if err != nil {
				return
			}
			answer := ""
			switch f.first {
			case wirePing:
				count++
				answer = e.frame(wirePong, f.payload)
			case wireClose:
				answer = e.frame(wireClose, f.payload)
			}
			if _, err := io.WriteString(e, answer); err != nil {
				return
			}
		}
	}()
	return n
}

// chatter has an end send a frame every so often until the end of the test.
func (e wireEnd) chatter(t testing.TB, every time.Duration) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			if _, err := io.WriteString(e, e.frame(wireText, "chat")); err != nil {
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

func TestASilentEndGetsAPingAndItsPongCrosses(t *testing.T) {
	fromEither(t, pings, func(t *testing.T, r *memRig, silent, other wireEnd) {
		for range 3 {
			start := time.Now()
			silent.expectFrame(t, wirePing, "wsproxy!")
			assert.Equal(t, 20*time.Second, time.Since(start), "the silence before a Ping")
			other.expectFrame(t, wirePing, "wsproxy!") // which is as silent
			silent.sendFrame(t, wirePong, "wsproxy!")
			other.expectFrame(t, wirePong, "wsproxy!")
			other.sendFrame(t, wirePong, "wsproxy!")
			silent.expectFrame(t, wirePong, "wsproxy!")
		}
		assert.Empty(t, r.ended)
	})
}

func TestALiveButSilentPairSurvivesTheReadTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMemRig(t, nil, pings...)
		client, server := wired(r.tunnel(t))
		fromClient, fromServer := client.answerPings(), server.answerPings()
		time.Sleep(time.Hour)
		assert.Empty(t, r.ended)
		assert.WithinDuration(t, time.Now(), only(t, r.p).LastActivity(), 20*time.Second)
		require.NoError(t, only(t, r.p).Close(1000, ""))
		ending := r.endsIn(t, 0, wsproxy.Killed)
		assert.Zero(t, ending.FromClient.Messages, "Pongs that count as messages")
		assert.InDelta(t, 180, <-fromClient, 1, "Pings for the client in an hour")
		assert.InDelta(t, 180, <-fromServer, 1, "Pings for the upstream in an hour")
	})
}

func TestOnlyPongsThatComeKeepATunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMemRig(t, nil, wsproxy.WithPing(50*time.Second, 40*time.Second))
		client, server := wired(r.tunnel(t))
		client.expectFrame(t, wirePing, "wsproxy!")
		server.expectFrame(t, wirePing, "wsproxy!")
		client.expectNothing(t, 9*time.Second)
		bothAnswer(t, 1001, client, server)
		ending := r.endsIn(t, 0, wsproxy.ReadTimeout)
		assert.Equal(t, 60*time.Second, ending.Lifetime, "a Ping of the proxy's is no activity")
	})
}

func TestAnEndThatDoesNotAnswerIsDead(t *testing.T) {
	fromEither(t, pings, func(t *testing.T, r *memRig, dead, live wireEnd) {
		live.chatter(t, time.Second)
		time.Sleep(7 * time.Second)
		dead.sendFrame(t, wireText, "the last of it")
		live.expectFrame(t, wireText, "the last of it")
		start := time.Now()
		assert.NotEmpty(t, live.expectClose(t, 1001), "the reason text")
		assert.Equal(t, 25*time.Second, time.Since(start), "the silence until the end")
		live.sendFrame(t, wireClose, closeBody(1001, ""))
		ending := r.endsIn(t, 0, wsproxy.PingTimeout)
		assert.NoError(t, ending.Err)
		assert.Equal(t, 1001, live.sentBy(ending).CloseCode)
		got, err := io.ReadAll(dead)
		assert.NoError(t, err)
		assert.Equal(t, 1, strings.Count(string(got), wireFrame{wirePing, !dead.client, ""}.String()[:1]+
			map[bool]string{true: "\x08", false: "\x88"}[dead.client]), "Pings for an end that is silent once")
	})
}

// A slowConn takes a moment for each write.
type slowConn struct{ net.Conn }

func (c slowConn) Write(b []byte) (int, error) {
	time.Sleep(5 * time.Millisecond)
	return c.Conn.Write(b)
}

// While an end takes its Ping in, the other is not read; that alone is no sign
// of life of the other's.
func TestALiveEndThatIsSlowToTakeItsPingDoesNotKeepADeadOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var r *memRig
		r = newMemRig(t, nil, append(pings, wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) {
			near, far := newMemConns(room)
			r.upstreams <- newPeer(far)
			return slowConn{near}, nil
		}))...)
		dead, live := wired(r.tunnel(t))
		live.answerPings()
		go io.Copy(io.Discard, dead)
		time.Sleep(26 * time.Second)
		require.NotEmpty(t, r.ended, "the dead end is kept")
		assert.Equal(t, wsproxy.PingTimeout, (<-r.ended).Reason)
	})
}

func TestABusyEndGetsNoPing(t *testing.T) {
	fromEither(t, pings, func(t *testing.T, r *memRig, busy, silent wireEnd) {
		count := busy.answerPings()
		silent.answerPings()
		busy.chatter(t, 19*time.Second)
		time.Sleep(time.Hour)
		assert.Empty(t, r.ended)
		busy.Close()
		assert.Zero(t, <-count, "Pings for an end that is never silent for the interval")
	})
}

func TestAPingWaitsForTheEndOfAFrame(t *testing.T) {
	fromEither(t, pings, func(t *testing.T, r *memRig, silent, other wireEnd) {
		whole := other.frame(wireText, strings.Repeat("x", 130))
		time.Sleep(20*time.Second - time.Duration(len(whole))*time.Millisecond/2)
		for i := range whole { // so that the Ping falls due in the middle
			other.send(t, whole[i:i+1])
			time.Sleep(time.Millisecond)
		}
		silent.expectFrame(t, wireText, strings.Repeat("x", 130))
		silent.expectFrame(t, wirePing, "wsproxy!")
		silent.sendFrame(t, wirePong, "wsproxy!")
		other.expectFrame(t, wirePong, "wsproxy!")
	})
}

func TestAPingMayComeBetweenFragments(t *testing.T) {
	fromEither(t, pings, func(t *testing.T, r *memRig, silent, other wireEnd) {
		other.sendFrame(t, wireTextPart, "one ")
		silent.expectFrame(t, wireTextPart, "one ")
		silent.expectFrame(t, wirePing, "wsproxy!")
		silent.sendFrame(t, wirePong, "wsproxy!")
		other.sendFrame(t, wireCont, "message")
		silent.expectFrame(t, wireCont, "message")
		synctest.Wait()
		assert.EqualValues(t, 1, other.sentBy(wsproxy.Ending{FromClient: only(t, r.p).FromClient(), FromUpstream: only(t, r.p).FromUpstream()}).Messages)
	})
}

// An end that takes in a frame for longer than the interval and the timeout
// together cannot be sent a Ping, so that its silence tells nothing.
func TestAnEndThatTakesInALongFrameIsNotDead(t *testing.T) {
	fromEither(t, pings, func(t *testing.T, r *memRig, silent, other wireEnd) {
		whole := other.frame(wireText, strings.Repeat("x", 100))
		for i := range whole { // 100 seconds and more
			other.send(t, whole[i:i+1])
			time.Sleep(time.Second)
		}
		require.Empty(t, r.ended, "endings of a tunnel whose end was never sent a Ping")
		silent.expectFrame(t, wireText, strings.Repeat("x", 100))
		silent.expectFrame(t, wirePing, "wsproxy!")
	})
}

// An end that has begun to close is sent no Ping, and need not answer one.
func TestAnEndThatHasSentItsCloseFrameIsNotDead(t *testing.T) {
	fromEither(t, pings, func(t *testing.T, r *memRig, closing, other wireEnd) {
		closing.sendFrame(t, wireClose, closeBody(1000, ""))
		other.expectFrame(t, wireClose, closeBody(1000, ""))
		for range 50 { // what it has left
			other.sendFrame(t, wireText, "rest")
			closing.expectFrame(t, wireText, "rest")
			time.Sleep(time.Second)
		}
		other.sendFrame(t, wireClose, closeBody(1000, ""))
		closing.expectFrame(t, wireClose, closeBody(1000, ""))
		other.Close()
		closing.expectEOF(t, "")
		closing.Close()
		r.endsIn(t, 0, closing.closedBy())
	})
}

// An end that the proxy itself does not read from, because the other takes no
// more, is not silent.
func TestAnEndThatIsHeldUpByTheOtherIsNotDead(t *testing.T) {
	fromEither(t, pings, func(t *testing.T, r *memRig, held, slow wireEnd) {
		slow.chatter(t, time.Second)
		go io.Copy(io.Discard, held)
		flooded := make(chan struct{})
		go func() {
			defer close(flooded)
			io.WriteString(held, strings.Repeat(held.frame(wireText, strings.Repeat("x", 100)), 5000))
		}()
		time.Sleep(40 * time.Second) // the send timeout is 60 seconds
		require.Empty(t, r.ended, "endings while an end that has more to say is not read")
		go io.Copy(io.Discard, slow)
		<-flooded
		held.chatter(t, time.Second)
		time.Sleep(time.Minute)
		require.Empty(t, r.ended)
	})
}

func TestAnEndThatNeitherReadsNorSendsIsCut(t *testing.T) {
	fromEither(t, pings, func(t *testing.T, r *memRig, deaf, other wireEnd) {
		other.chatter(t, time.Millisecond)
		go io.Copy(io.Discard, other)
		ending := <-r.ended
		assert.Contains(t, []wsproxy.Reason{wsproxy.PingTimeout, wsproxy.SendTimeout}, ending.Reason)
		assert.LessOrEqual(t, ending.Lifetime, 70*time.Second)
	})
}

// Where no Ping can be sent, nobody can fail to answer it.
func TestAMalformedStreamKnowsNoPingTimeout(t *testing.T) {
	fromEither(t, pings, func(t *testing.T, r *memRig, silent, talking wireEnd) {
		for range 60 {
			talking.send(t, "no frame at all")
			silent.expect(t, "no frame at all")
			time.Sleep(time.Second)
		}
		require.Empty(t, r.ended, "endings of a tunnel whose end was never sent a Ping")
	})
}

func TestAHalfClosedTunnelGetsNoPing(t *testing.T) {
	fromEither(t, append(pings, wsproxy.WithCloseTimeout(50*time.Second)), func(t *testing.T, r *memRig, from, to wireEnd) {
		require.NoError(t, from.CloseWrite())
		to.expectEOF(t, "")
		from.expectNothing(t, 49*time.Second)
		r.endsIn(t, time.Second, from.closedBy())
	})
}

// The dead end's half frame is all that the other could be told after.
func TestAnEndThatDiesWithinAFrameIsGivenNoCloseFrameWithinIt(t *testing.T) {
	fromEither(t, pings, func(t *testing.T, r *memRig, dead, live wireEnd) {
		half := dead.frame(wireText, "hello")[:6]
		dead.send(t, half)
		live.chatter(t, time.Second)
		live.expectEOF(t, half)
		r.endsIn(t, 0, wsproxy.PingTimeout)
	})
}

func TestPingsCrossEveryLink(t *testing.T) {
	overLinks(t, nil, func(t *testing.T, l link) {
		ended := newEndings()
		r := l.start(t, nil, ended.hook(), wsproxy.WithPing(20*time.Millisecond, patience))
		client, server := wired(r.tunnel(t))
		for i := range 10 {
			silent, other := client, server
			if i%2 == 0 {
				silent, other = server, client
			}
			for f := (wireFrame{}); f.first != wirePing; {
				var err error
				f, err = readWire(silent) // past Pongs of the other end
				require.NoError(t, err)
				require.Equal(t, "wsproxy!", f.payload)
			}
			silent.sendFrame(t, wirePong, "wsproxy!")
			for f := (wireFrame{}); f.first != wirePong; {
				var err error
				f, err = readWire(other)
				require.NoError(t, err)
				if f.first == wirePing {
					other.sendFrame(t, wirePong, f.payload)
				}
			}
		}
	})
}

// The live end talks so that it need not be pinged, and has seconds for that.
func TestADeadEndIsCutOnEveryLink(t *testing.T) {
	overLinksAtOnce(t, nil, func(t *testing.T, l link) func(*testing.T) {
		ended := newEndings()
		r := l.start(t, nil, ended.hook(), wsproxy.WithPing(2*time.Second, time.Second))
		client, server := wired(r.tunnel(t))
		server.answerPings()
		server.chatter(t, 100*time.Millisecond)
		return func(t *testing.T) {
			ending := ended.next(t)
			assert.Equal(t, wsproxy.PingTimeout, ending.Reason)
			assert.Equal(t, 1001, ending.FromUpstream.CloseCode, "of the live end's answer")
			got, _ := io.ReadAll(client)
			assert.Contains(t, string(got), wireFrame{wirePing, false, "wsproxy!"}.String(), "what the dead end was sent")
		}
	})
}
