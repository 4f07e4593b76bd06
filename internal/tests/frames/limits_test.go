package frames_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A client with one IPv6 address usually has a whole /64 (RFC 7934). Counted by
// address, one client could open any number of tunnels.
func TestTunnelsOfAnIPv6ClientAreCountedByItsSlash64(t *testing.T) {
	failures := make(chan error, 10)
	r := testkit.PlainLink.Start(t, nil, wsproxy.WithMaxTunnelsPerIP(1), wsproxy.WithTrustedProxies("127.0.0.0/8"),
		wsproxy.WithErrorHandler(func(w http.ResponseWriter, r *http.Request, err error) {
			failures <- err
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(wsproxy.StatusCode(err))
		}))
	from := func(client string) string {
		return strings.Replace(testkit.SampleRequest, "\r\n\r\n", "\r\nX-Forwarded-For: "+client+"\r\n\r\n", 1)
	}
	for _, test := range []struct {
		client string
		with   []string // other addresses that count as the same client
		apart  string   // an address that does not
		named  string   // in the error
	}{
		{"2001:db8::1", []string{"2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", "[2001:db8:0:0:1::]:443"}, "2001:db8:0:1::1", "1 open from 2001:db8::/64"},
		{"192.0.2.1", []string{"192.0.2.1", "::ffff:192.0.2.1"}, "192.0.2.2", "1 open from 192.0.2.1"},
	} {
		for _, client := range []string{test.client, test.apart} {
			conn := r.Dial(t)
			conn.Send(t, from(client))
			server := r.Upstream.Accept(t)
			server.Request(t)
			server.Send(t, testkit.SampleSwitch)
			require.Equal(t, http.StatusSwitchingProtocols, conn.Response(t).StatusCode, client)
		}
		for _, client := range test.with {
			refusedBy(t, r, from(client))
			err := <-failures
			assert.ErrorIs(t, err, wsproxy.ErrTooManyTunnels, client)
			assert.ErrorContains(t, err, test.named, client)
			assert.True(t, strings.HasSuffix(err.Error(), test.named), "%v", err)
		}
	}
}

// A limited is one message that an end sends under a limit of 200 bytes.
type limited struct {
	name   string
	frames []testkit.Frame // masked is set by the test
	over   int             // the first frame that must not pass, or len(frames)
}

var limitedMessages = []limited{
	{"exactly the limit", []testkit.Frame{{First: testkit.Text, Payload: strings.Repeat("x", 200)}}, 1},
	{"one byte more", []testkit.Frame{{First: testkit.Text, Payload: strings.Repeat("x", 201)}}, 0},
	{"70,000 bytes", []testkit.Frame{{First: testkit.Text, Payload: strings.Repeat("x", 70_000)}}, 0},
	{"one byte more after another message", []testkit.Frame{{First: testkit.Text, Payload: strings.Repeat("x", 200)},
		{First: testkit.Text, Payload: strings.Repeat("y", 201)}}, 1},
	{"many messages of the limit", []testkit.Frame{{First: testkit.Text, Payload: strings.Repeat("x", 200)},
		{First: testkit.Text, Payload: strings.Repeat("x", 200)}, {First: testkit.Text, Payload: ""}}, 3},
	{"exactly the limit over fragments", []testkit.Frame{{First: testkit.TextPart, Payload: strings.Repeat("x", 126)},
		{First: testkit.Ping, Payload: strings.Repeat("p", 125)}, {First: testkit.ContinuationPart, Payload: ""},
		{First: testkit.Continuation, Payload: strings.Repeat("y", 74)}, {First: testkit.Text, Payload: "next"}}, 5},
	{"one byte more over fragments", []testkit.Frame{{First: testkit.TextPart, Payload: strings.Repeat("x", 126)},
		{First: testkit.Pong, Payload: "p"}, {First: testkit.Continuation, Payload: strings.Repeat("y", 75)}}, 2},
	{"one byte more, compressed", []testkit.Frame{{First: testkit.Text | 0x40, Payload: strings.Repeat("x", 201)}}, 0},
	{"exactly the limit, compressed", []testkit.Frame{{First: testkit.Text | 0x40, Payload: strings.Repeat("x", 200)}}, 1},
}

// pieces splits a stream in several ways: whole, byte by byte, and once at each
// byte of a header.
func pieces(stream string) map[string][]string {
	cuts := map[string][]string{"in one piece": {stream}, "byte by byte": strings.Split(stream, "")}
	for at := 1; at < 16 && at < len(stream); at++ {
		cuts[fmt.Sprintf("split at %d", at)] = []string{stream[:at], stream[at:]}
	}
	return cuts
}

func TestAMessageOverTheLimitIsNotForwarded(t *testing.T) {
	for _, test := range limitedMessages {
		t.Run(test.name, func(t *testing.T) {
			testkit.FromEither(t, []wsproxy.Option{wsproxy.WithMaxClientMessageSize(200), wsproxy.WithMaxUpstreamMessageSize(200)}, func(t *testing.T, r *testkit.MemRig, from, to testkit.End) {
				stream := ""
				for _, f := range test.frames {
					stream += from.Frame(f.First, f.Payload)
				}
				open := true // fromEither has opened the first tunnel
				for name, chunks := range pieces(stream) {
					if len(chunks) > 2 && len(stream) > 1000 {
						continue
					}
					if !open {
						from.Peer, to.Peer = reopen(t, r, from)
					}
					open = false
					for _, chunk := range chunks {
						from.Send(t, chunk)
						synctest.Wait()
					}
					messages := 0
					for _, f := range test.frames[:test.over] {
						to.ExpectFrame(t, f.First, f.Payload)
						if f.First&0x80 != 0 && f.First&0x0f < 8 {
							messages++
						}
					}
					code, reason := 1009, wsproxy.ReasonLimit
					if test.over == len(test.frames) {
						code, reason = 1000, wsproxy.ReasonKilled
						synctest.Wait()
						require.NoError(t, testkit.OnlyTunnel(t, r.Proxy).Close(code, "enough"), name)
					}
					testkit.AnswerClose(t, code, to, from)
					ending := r.EndsIn(t, 0, reason)
					assert.NoError(t, ending.Err)
					assert.EqualValues(t, messages, from.Sent(ending).Messages, "messages that crossed, %s", name)
					to.ExpectEOF(t, "")
					from.ExpectEOF(t, "")
				}
			})
		})
	}
}

func TestEachDirectionHasItsOwnLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil, wsproxy.WithMaxClientMessageSize(10))
		client, server := testkit.Ends(r.Tunnel(t))
		server.SendFrame(t, testkit.Text, strings.Repeat("x", 30_000))
		client.ExpectFrame(t, testkit.Text, strings.Repeat("x", 30_000))
		client.SendFrame(t, testkit.Text, strings.Repeat("x", 11))
		testkit.AnswerClose(t, 1009, client, server)
		r.EndsIn(t, 0, wsproxy.ReasonLimit)
	})
}

// A peer may send its own Close frame right after its message.
func TestACloseFrameAfterAMessageOverTheLimitIsReported(t *testing.T) {
	testkit.FromEither(t, []wsproxy.Option{wsproxy.WithMaxClientMessageSize(10), wsproxy.WithMaxUpstreamMessageSize(10)}, func(t *testing.T, r *testkit.MemRig, from, to testkit.End) {
		from.Send(t, from.Frame(testkit.Text, strings.Repeat("x", 11))+from.Frame(testkit.Text, "more")+from.Frame(testkit.Close, testkit.ClosePayload(1000, "")))
		testkit.AnswerClose(t, 1009, to)
		from.ExpectClose(t, 1009)
		ending := r.EndsIn(t, 0, wsproxy.ReasonLimit)
		assert.Equal(t, 1000, from.ClosedWith(ending).Code)
		assert.Zero(t, from.Sent(ending).Messages, "messages that crossed")
	})
}

// The peer sends an incomplete frame header and nothing more.
func TestTheBytesOfAnIncompleteHeaderAreForwardedAtTheEnd(t *testing.T) {
	testkit.FromEither(t, []wsproxy.Option{wsproxy.WithMaxClientMessageSize(100_000), wsproxy.WithMaxUpstreamMessageSize(100_000)}, func(t *testing.T, r *testkit.MemRig, from, to testkit.End) {
		whole := from.Frame(testkit.Text, "hello") + from.Frame(testkit.Text, strings.Repeat("x", 70_000))
		from.Send(t, whole[:len(from.Frame(testkit.Text, "hello"))+7])
		from.Close()
		to.ExpectEOF(t, whole[:len(from.Frame(testkit.Text, "hello"))+7])
		to.Close()
		ending := r.EndsIn(t, 0, from.Closed())
		assert.EqualValues(t, 1, from.Sent(ending).Messages)
	})
}

func TestTheMessageLimitWorksOverEveryLink(t *testing.T) {
	testkit.OverLinks(t, nil, func(t *testing.T, l testkit.Link) {
		ended := testkit.NewEndings()
		r := l.Start(t, nil, ended.Option(), wsproxy.WithMaxClientMessageSize(5), wsproxy.WithMaxUpstreamMessageSize(1<<20), wsproxy.WithCloseTimeout(testkit.Patience))
		client, server := testkit.Ends(r.Tunnel(t))
		client.SendFrame(t, testkit.Text, "hello")
		server.ExpectFrame(t, testkit.Text, "hello")
		server.SendFrame(t, testkit.Text, strings.Repeat("x", 1<<20))
		client.ExpectFrame(t, testkit.Text, strings.Repeat("x", 1<<20))
		client.SendFrame(t, testkit.Text, "hello!")
		testkit.AnswerClose(t, 1009, client, server)
		ending := ended.Next(t)
		assert.Equal(t, wsproxy.ReasonLimit, ending.Reason)
		assert.Equal(t, 1009, ending.ClientClose.Code)
		assert.Equal(t, 1009, ending.UpstreamClose.Code)
	})
}

func TestNegativeLimitsAreRefused(t *testing.T) {
	_, err := wsproxy.New("http://a", wsproxy.WithMaxTunnels(-1), wsproxy.WithMaxTunnelsPerIP(-2),
		wsproxy.WithMaxClientMessageSize(-3), wsproxy.WithMaxUpstreamMessageSize(-4), wsproxy.WithPing(1, 0))
	for _, option := range []string{"WithMaxTunnels: \"-1\"", "WithMaxTunnelsPerIP: \"-2\"",
		"WithMaxClientMessageSize: \"-3\"", "WithMaxUpstreamMessageSize: \"-4\"", "WithPing: timeout"} {
		assert.ErrorContains(t, err, option)
	}
}
