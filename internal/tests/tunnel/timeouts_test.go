package tunnel_test

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// unanswered is the default close timeout. A tunnel lasts so much longer if its
// ends do not reply to the proxy's Close frames, as in most tests.
const unanswered = 10 * time.Second

// endsAfter waits for the next ending, which must come after d.
func endsAfter(t *testing.T, r *testkit.MemRig, d time.Duration, want wsproxy.Reason) wsproxy.Ending {
	t.Helper()
	start := time.Now()
	ending := <-r.Ended
	testkit.OnTime(t, start.Add(d))
	assert.Equal(t, want, ending.Reason, "reason: %v", ending.Reason)
	return ending
}

// pingEverySecond sends in the background until a write fails.
func pingEverySecond(t *testing.T, p *testkit.Peer) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			if _, err := io.WriteString(p, "ping"); err != nil {
				return
			}
			time.Sleep(time.Second)
		}
	}()
	t.Cleanup(func() {
		p.Close()
		<-done
	})
}

func TestAnIdleTunnelEndsAtTheReadTimeout(t *testing.T) {
	for _, test := range []struct {
		opts []wsproxy.Option
		want time.Duration
	}{
		{nil, 60 * time.Second},
		{[]wsproxy.Option{wsproxy.WithReadTimeout(5 * time.Second)}, 5 * time.Second},
		{[]wsproxy.Option{wsproxy.WithReadTimeout(time.Hour)}, time.Hour},
	} {
		t.Run(test.want.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := testkit.NewMemRig(t, nil, test.opts...)
				client, server := r.Tunnel(t)
				start := time.Now()
				client.Expect(t, "\x88\x13\x03\xe9idle for too long")
				server.Expect(t, "\x88\x93") // and an unpredictable mask
				assert.Equal(t, test.want, time.Since(start), "the Close frames come after")
				ending := endsAfter(t, r, unanswered, wsproxy.ReasonReadTimeout)
				assert.Equal(t, test.want+unanswered, ending.Lifetime)
				assert.ErrorIs(t, ending.Err, wsproxy.ErrCut)
				client.ExpectEOF(t, "")
			})
		})
	}
}

// nginx re-arms proxy_read_timeout on every event of an upgraded pair.
func TestAByteInEitherDirectionRearmsTheReadTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil)
		client, server := r.Tunnel(t)
		for range 10 {
			testkit.StaysFor(t, r, 59*time.Second)
			client.Send(t, "a")
			server.Expect(t, "a")
			testkit.StaysFor(t, r, 59*time.Second)
			server.Send(t, "b")
			client.Expect(t, "b")
		}
		endsAfter(t, r, time.Minute+unanswered, wsproxy.ReasonReadTimeout)
	})
}

func TestWithoutTimeoutsATunnelStaysOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil, wsproxy.WithReadTimeout(0), wsproxy.WithSendTimeout(0), wsproxy.WithCloseTimeout(0))
		client, server := r.Tunnel(t)
		go server.Write(make([]byte, 1<<20)) // more than the connections hold
		testkit.StaysFor(t, r, 10_000*time.Hour)
		_, err := io.CopyN(io.Discard, client, 1<<20)
		require.NoError(t, err)
		client.Send(t, "still here")
		server.Expect(t, "still here")
		require.NoError(t, client.CloseWrite())
		testkit.StaysFor(t, r, 10_000*time.Hour)
		server.Close()
		client.Close()
		endsAfter(t, r, 0, wsproxy.ReasonClientClosed)
	})
}

func TestTheLongestDurationIsAValidTimeout(t *testing.T) {
	for name, opt := range map[string]func(time.Duration) wsproxy.Option{
		"read": wsproxy.WithReadTimeout, "send": wsproxy.WithSendTimeout,
		"close": wsproxy.WithCloseTimeout, "lifetime": wsproxy.WithMaxLifetime,
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				// The other timeouts keep the sweeper running.
				r := testkit.NewMemRig(t, nil, wsproxy.WithMaxLifetime(10*time.Hour), opt(math.MaxInt64))
				client, server := r.Tunnel(t)
				pingEverySecond(t, client)
				switch name {
				case "send":
					go server.Write(make([]byte, 1<<20))
				case "close":
					require.NoError(t, server.CloseWrite())
				}
				go io.Copy(io.Discard, server)
				testkit.StaysFor(t, r, 3*time.Hour)
			})
		})
	}
}

func TestAPeerThatStopsReadingEndsTheTunnelAtTheSendTimeout(t *testing.T) {
	for name, opts := range map[string][]wsproxy.Option{
		"default":                   {wsproxy.WithReadTimeout(0)},
		"same as the read timeout":  nil,
		"shorter than read timeout": {wsproxy.WithSendTimeout(time.Minute), wsproxy.WithReadTimeout(time.Hour)},
	} {
		t.Run(name, func(t *testing.T) {
			testkit.EachSide(t, func(t *testing.T, stalled wsproxy.Reason) {
				synctest.Test(t, func(t *testing.T) {
					r := testkit.NewMemRig(t, nil, opts...)
					client, server := r.Tunnel(t)
					_, from := testkit.InOrder(stalled, client, server)
					time.Sleep(7 * time.Second)
					go io.Copy(from, testkit.Zeros{})
					ending := endsAfter(t, r, time.Minute, wsproxy.ReasonSendTimeout)
					assert.ErrorIs(t, ending.Err, wsproxy.ErrCut)
				})
			})
		})
	}
}

// Traffic in the other direction neither delays nor hastens the timeout of a
// blocked write.
func TestTrafficInTheOtherDirectionDoesNotRearmTheSendTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil)
		client, server := r.Tunnel(t)
		go io.Copy(server, testkit.Zeros{})
		pingEverySecond(t, client)
		go io.Copy(io.Discard, server)
		endsAfter(t, r, time.Minute, wsproxy.ReasonSendTimeout)
	})
}

func TestASlowReaderDoesNotTimeOut(t *testing.T) {
	testkit.EachSide(t, func(t *testing.T, slow wsproxy.Reason) {
		synctest.Test(t, func(t *testing.T) {
			r := testkit.NewMemRig(t, nil, wsproxy.WithReadTimeout(0))
			client, server := r.Tunnel(t)
			reader, writer := testkit.InOrder(slow, client, server)
			message := testkit.Noise(1, 1<<20)
			go writer.Write(message)
			got := make([]byte, len(message))
			for rest := got; len(rest) > 0; {
				time.Sleep(50 * time.Second)
				n, err := io.ReadFull(reader, rest[:min(len(rest), 20<<10)])
				require.NoError(t, err, "after %d bytes", len(got)-len(rest))
				rest = rest[n:]
			}
			require.Equal(t, message, got)
			assert.Empty(t, r.Ended)
		})
	})
}

func TestAHalfClosedTunnelEndsAtTheCloseTimeout(t *testing.T) {
	testkit.EachSide(t, func(t *testing.T, first wsproxy.Reason) {
		for _, busy := range []bool{false, true} {
			t.Run(fmt.Sprintf("busy %t", busy), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := testkit.NewMemRig(t, nil)
					client, server := r.Tunnel(t)
					from, to := testkit.InOrder(first, client, server)
					time.Sleep(33 * time.Second)
					require.NoError(t, from.CloseWrite())
					if busy {
						pingEverySecond(t, to)
						go io.Copy(io.Discard, from)
					}
					ending := endsAfter(t, r, 10*time.Second, first)
					assert.ErrorIs(t, ending.Err, wsproxy.ErrCut)
				})
			})
		}
	})
}

func TestWithoutACloseTimeoutTheReadTimeoutEndsAHalfClosedTunnel(t *testing.T) {
	testkit.EachSide(t, func(t *testing.T, first wsproxy.Reason) {
		synctest.Test(t, func(t *testing.T) {
			r := testkit.NewMemRig(t, nil, wsproxy.WithCloseTimeout(0))
			client, server := r.Tunnel(t)
			from, to := testkit.InOrder(first, client, server)
			require.NoError(t, from.CloseWrite())
			testkit.StaysFor(t, r, 59*time.Second)
			to.Send(t, "rest")
			from.Expect(t, "rest")
			// The first event decides the reason. The other end has the default
			// close timeout to reply to the Close frame.
			endsAfter(t, r, time.Minute+unanswered, first)
		})
	})
}

func TestTheMaxLifetimeEndsABusyTunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil, wsproxy.WithMaxLifetime(90*time.Minute))
		client, server := r.Tunnel(t)
		pingEverySecond(t, client)
		go io.Copy(io.Discard, server)
		ending := <-r.Ended
		assert.Equal(t, wsproxy.ReasonMaxLifetime, ending.Reason)
		assert.GreaterOrEqual(t, ending.Lifetime, 81*time.Minute+unanswered)
		assert.LessOrEqual(t, ending.Lifetime, 90*time.Minute+unanswered+time.Millisecond)
		assert.GreaterOrEqual(t, ending.FromClient.Bytes, int64(4*81*60))
	})
}

// Each tunnel ends on time although one timer serves them all. Sweeps of n
// tunnels are at least n times 20 µs apart.
func TestEachOfManyTunnelsEndsAtItsOwnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 100
		r := testkit.NewMemRig(t, nil, wsproxy.WithMaxLifetime(5*time.Minute))
		for i := range n {
			client, server := r.Tunnel(t)
			if i%2 == 0 { // busy until the end
				pingEverySecond(t, client)
				go io.Copy(io.Discard, server)
			}
			time.Sleep(700 * time.Millisecond)
		}
		for range n {
			ending := <-r.Ended
			from := map[wsproxy.Reason]time.Duration{wsproxy.ReasonReadTimeout: time.Minute, wsproxy.ReasonMaxLifetime: 270 * time.Second}[ending.Reason]
			to := map[wsproxy.Reason]time.Duration{wsproxy.ReasonReadTimeout: time.Minute, wsproxy.ReasonMaxLifetime: 300 * time.Second}[ending.Reason]
			assert.GreaterOrEqual(t, ending.Lifetime, from+unanswered, "%v", ending.Reason)
			assert.LessOrEqual(t, ending.Lifetime, to+unanswered+2*n*20*time.Microsecond, "%v", ending.Reason)
		}
	})
}

// Clients that had reconnected together did so again after each lifetime
// (gRPC-Go's MaxConnectionAge has 10 percent for it).
func TestMaxLifetimesAreSpreadOverATenth(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 200
		r := testkit.NewMemRig(t, nil, wsproxy.WithMaxLifetime(50*time.Second))
		for range n {
			client, server := testkit.Ends(r.Tunnel(t))
			client.AnswerPings()
			server.AnswerPings()
		}
		tenths := map[time.Duration]int{}
		for range n {
			ending := <-r.Ended
			assert.Equal(t, wsproxy.ReasonMaxLifetime, ending.Reason)
			assert.Equal(t, wsproxy.CloseFrame{Code: 1001, Reason: "open for too long"}, ending.ClientClose, "the answer")
			tenths[(ending.Lifetime-45*time.Second)/(500*time.Millisecond)]++
		}
		for tenth := range time.Duration(10) {
			assert.NotZero(t, tenths[tenth], "ends in the part %d of 10: %v", tenth, tenths)
		}
		assert.LessOrEqual(t, len(tenths), 11, "%v", tenths)
	})
}

func TestAnEndingReportsHandshakeAndLifetimeSeparately(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil)
		client := r.SendHandshake(t)
		server := <-r.Upstreams
		server.Request(t)
		time.Sleep(3 * time.Second)
		server.Send(t, testkit.SampleSwitch)
		client.Response(t)
		time.Sleep(7 * time.Second)
		client.Close()
		server.Close()
		ending := <-r.Ended
		assert.Equal(t, 3*time.Second, ending.Handshake)
		assert.Equal(t, 7*time.Second, ending.Lifetime)
	})
}

func TestTheServersTimeoutsDoNotApplyToATunnel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, &http.Server{ReadTimeout: time.Second, WriteTimeout: time.Second, IdleTimeout: time.Second,
			ReadHeaderTimeout: time.Second})
		client, server := r.Tunnel(t)
		for range 10 {
			time.Sleep(30 * time.Second)
			client.Send(t, "ping")
			server.Expect(t, "ping")
			server.Send(t, "pong")
			client.Expect(t, "pong")
		}
		endsAfter(t, r, time.Minute+unanswered, wsproxy.ReasonReadTimeout)
	})
}
