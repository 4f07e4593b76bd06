package frames_test

import (
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// rateRig opens a tunnel on which the client may send perSecond messages, with
// burst at once.
func rateRig(t *testing.T, perSecond float64, burst int, opts ...wsproxy.Option) (r *testkit.MemRig, client, server testkit.End) {
	r = testkit.NewMemRig(t, nil, append(opts, wsproxy.WithMessageRate(perSecond, burst))...)
	client, server = testkit.Ends(r.Tunnel(t))
	return r, client, server
}

// One client could keep a server busy with small messages, or with pings
// (websockets/ws#1429, caddy-ratelimit#38). A message over the rate is the last
// that passes: part of it may have passed before it is whole.
func TestATunnelOverItsMessageRateIsClosed(t *testing.T) {
	fragment := func(first byte, payload string) func(testkit.End) string {
		return func(e testkit.End) string { return e.Frame(first, payload) }
	}
	message := func(kinds ...func(testkit.End) string) func(testkit.End) string {
		return func(e testkit.End) string {
			var b strings.Builder
			for _, kind := range kinds {
				b.WriteString(kind(e))
			}
			return b.String()
		}
	}
	for name, next := range map[string]func(testkit.End) string{
		"texts":             fragment(testkit.Text, "hello"),
		"empty texts":       fragment(testkit.Text, ""),
		"large messages":    fragment(testkit.Text, strings.Repeat("x", 70_000)),
		"pings":             fragment(testkit.Ping, "ping"),
		"pongs":             fragment(testkit.Pong, ""),
		"fragments":         message(fragment(testkit.TextPart, "one "), fragment(testkit.ContinuationPart, "two "), fragment(testkit.Continuation, "three")),
		"the last is empty": message(fragment(testkit.TextPart, "one "), fragment(testkit.Continuation, "")),
	} {
		for chunk, size := range map[string]int{"at once": math.MaxInt, "in pieces": 3000, "in small pieces": 5} {
			t.Run(name+" "+chunk, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r, client, server := rateRig(t, 2, 4)
					send := func(n int) {
						var bytes strings.Builder
						for range n {
							bytes.WriteString(next(client))
						}
						for rest := bytes.String(); rest != ""; {
							n := min(size, len(rest))
							client.Send(t, rest[:n])
							rest = rest[n:]
						}
					}
					got := make(chan string, 1)
					go func() {
						var all strings.Builder
						for {
							f, err := testkit.ReadFrame(server)
							if err != nil || f.First == testkit.Close {
								got <- all.String()
								server.SendFrame(t, testkit.Close, f.Payload)
								return
							}
							all.WriteString(client.Frame(f.First, f.Payload))
						}
					}()
					send(4)
					time.Sleep(500 * time.Millisecond)
					send(1)
					time.Sleep(time.Hour / 120) // within the read timeout
					send(4)
					synctest.Wait()
					require.Empty(t, r.Ended, "within the rate")
					time.Sleep(499 * time.Millisecond)
					send(1)
					assert.NotEmpty(t, client.ExpectClose(t, 1008))
					assert.Equal(t, strings.Repeat(next(client), 10), <-got)
					client.Send(t, next(client)) // too late
					client.SendFrame(t, testkit.Close, testkit.ClosePayload(1008, ""))
					ending := r.EndsIn(t, 0, wsproxy.ReasonLimit)
					assert.NoError(t, ending.Err)
					assert.Equal(t, 1008, ending.UpstreamClose.Code)
				})
			})
		}
	}
}

func TestTheUpstreamsMessagesHaveNoRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, client, server := rateRig(t, 1, 1)
		for range 100 {
			server.SendFrame(t, testkit.Text, "hello")
			client.ExpectFrame(t, testkit.Text, "hello")
		}
		client.SendFrame(t, testkit.Text, "one")
		server.ExpectFrame(t, testkit.Text, "one")
		client.SendFrame(t, testkit.Close, testkit.ClosePayload(1000, "")) // which is above the rate
		server.ExpectClose(t, 1000)
		server.SendFrame(t, testkit.Close, "")
		synctest.Wait()
		server.Close()
		client.Close()
		r.EndsIn(t, 0, wsproxy.ReasonClientClosed)
	})
}

// A limit that an invalid frame switches off is none. Fragments without payload
// would otherwise never be a message, nor reach a limit of its size.
func TestAMessageRateHasNoWayRound(t *testing.T) {
	for name, test := range map[string]struct {
		bytes  func(testkit.End) string
		code   int
		reason wsproxy.Reason
	}{
		"a malformed frame": {func(e testkit.End) string { return e.Frame(0x83, "what") }, 1002, wsproxy.ReasonProtocolError},
		"an unmasked frame": {func(testkit.End) string { return "\x81\x02hi" }, 1002, wsproxy.ReasonProtocolError},
		"a long length":     {func(testkit.End) string { return "\x81\xfe\x00\x01" + "abcd" + "x" }, 1002, wsproxy.ReasonProtocolError},
		"empty fragments": {func(e testkit.End) string {
			return e.Frame(testkit.TextPart, "a") + strings.Repeat(e.Frame(testkit.ContinuationPart, ""), 20)
		}, 1008, wsproxy.ReasonLimit},
		"small fragments": {func(e testkit.End) string {
			return e.Frame(testkit.TextPart, "a") + strings.Repeat(e.Frame(testkit.ContinuationPart, "a"), 20)
		}, 1009, wsproxy.ReasonLimit},
		"pings in a message": {func(e testkit.End) string {
			return e.Frame(testkit.TextPart, "a") + strings.Repeat(e.Frame(testkit.Ping, ""), 20)
		}, 1008, wsproxy.ReasonLimit},
		"early, with the 101": {nil, 1008, wsproxy.ReasonLimit},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := testkit.NewMemRig(t, nil, wsproxy.WithMessageRate(1, 10), wsproxy.WithMaxClientMessageSize(15))
				var client, server testkit.End
				if test.bytes == nil {
					texts := strings.Repeat(testkit.Frame{First: testkit.Text, Masked: true, Payload: "hi"}.String(), 20)
					c := r.Send(t, testkit.SampleRequest+texts)
					s := <-r.Upstreams
					s.Request(t)
					s.Send(t, testkit.SampleSwitch)
					c.WantSwitch(t)
					client, server = testkit.Ends(c, s)
				} else {
					client, server = testkit.Ends(r.Tunnel(t))
					client.Send(t, test.bytes(client))
				}
				assert.NotEmpty(t, client.ExpectClose(t, test.code))
				frames := 0
				for {
					f, err := testkit.ReadFrame(server)
					require.NoError(t, err)
					if f.First == testkit.Close {
						break
					}
					frames++
				}
				assert.LessOrEqual(t, frames, 15, "frames that passed")
				client.SendFrame(t, testkit.Close, "")
				server.SendFrame(t, testkit.Close, "")
				synctest.Wait()
				client.Close()
				server.Close()
				r.EndsIn(t, 0, test.reason)
			})
		})
	}
}

// What is not frames has no messages.
func TestAMessageRateLeavesOtherProtocolsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil, wsproxy.WithMessageRate(1, 1), wsproxy.WithUpgrades("tcp"))
		client := r.Send(t, testkit.PlainGet("/x", "Upgrade: tcp", "Connection: upgrade"))
		server := <-r.Upstreams
		server.Request(t)
		server.Send(t, "HTTP/1.1 101 Switching\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n")
		client.WantSwitch(t)
		client.Send(t, strings.Repeat("no frames", 1000))
		server.Expect(t, strings.Repeat("no frames", 1000))
	})
}

func TestTheMessageRateHoldsOverEveryLink(t *testing.T) {
	testkit.OverLinks(t, nil, func(t *testing.T, l testkit.Link) {
		ended := testkit.NewEndings()
		r := l.Start(t, nil, ended.Option(), wsproxy.WithMessageRate(0.001, 5))
		client, server := testkit.Ends(r.Tunnel(t))
		client.Send(t, strings.Repeat(client.Frame(testkit.Text, "hello"), 100))
		for range 6 {
			server.ExpectFrame(t, testkit.Text, "hello")
		}
		testkit.AnswerClose(t, 1008, server, client)
		ending := ended.Next(t)
		assert.Equal(t, wsproxy.ReasonLimit, ending.Reason)
		assert.EqualValues(t, 6, ending.FromClient.Messages)
	})
}

func TestARateThatIsNoneIsAMistake(t *testing.T) {
	for _, test := range []struct {
		perSecond float64
		burst     int
		want      string
	}{
		{-1, 1, `WithMessageRate: "-1" messages a second`},
		{math.NaN(), 1, `WithMessageRate: "NaN" messages a second`},
		{math.Inf(1), 1, `WithMessageRate: "+Inf" messages a second`},
		{1, 0, `WithMessageRate: a burst of "0", want at least 1`},
		{0, -5, ""},
	} {
		_, err := wsproxy.New("http://a", wsproxy.WithMessageRate(test.perSecond, test.burst))
		if test.want == "" {
			assert.NoError(t, err)
		} else {
			assert.ErrorContains(t, err, test.want)
		}
	}
}
