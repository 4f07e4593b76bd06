package wsproxy_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// refusedBy asks for a tunnel that must be refused for want of room.
func refusedBy(t testing.TB, r *rig, request string) {
	t.Helper()
	res, _ := ask(t, r.addr, request)
	require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
	require.Equal(t, "1", res.Header.Get("Retry-After"))
}

func TestOneTunnelMoreThanMaxTunnelsIsRefused(t *testing.T) {
	failures, ended := make(chan error, 10), newEndings()
	r := plainLink.start(t, nil, ended.hook(), wsproxy.WithMaxTunnels(3),
		wsproxy.WithErrorHandler(func(w http.ResponseWriter, r *http.Request, err error) {
			failures <- err
			w.WriteHeader(wsproxy.StatusCode(err))
		}))
	client, server := r.tunnel(t)
	r.tunnel(t)
	asking := r.connect(t)
	asking.send(t, sampleRequest)
	asked := r.u.accept(t)
	asked.request(t)
	refusedBy(t, r, sampleRequest) // a handshake under way counts
	assert.ErrorIs(t, <-failures, wsproxy.ErrTooManyTunnels)

	asked.send(t, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
	assert.Equal(t, http.StatusForbidden, asking.answer(t).StatusCode)
	eventually(t, func() bool { return r.p.Stats().Handshakes == 0 }, "the handshake that failed still counts")
	r.tunnel(t)
	refusedBy(t, r, sampleRequest)

	client.Close()
	server.expectEOF(t, "")
	server.Close()
	ended.next(t)
	eventually(t, func() bool { return r.p.Stats().Live == 2 }, "the tunnel that has ended still counts")
	r.tunnel(t)
	refusedBy(t, r, sampleRequest)
	assert.EqualValues(t, 4, r.p.Stats().Opened)
}

func TestTunnelsAreLimitedForEachClientAddress(t *testing.T) {
	r := plainLink.start(t, nil, wsproxy.WithMaxTunnelsPerIP(2), wsproxy.WithTrustedProxies("127.0.0.0/8"))
	from := func(list string) string {
		return strings.Replace(sampleRequest, "\r\n\r\n", "\r\nX-Forwarded-For: "+list+"\r\n\r\n", 1)
	}
	open := func(list string) (client, server *peer) {
		client = r.connect(t)
		client.send(t, from(list))
		server = r.u.accept(t)
		server.request(t)
		server.send(t, sampleSwitch)
		require.Equal(t, http.StatusSwitchingProtocols, client.answer(t).StatusCode)
		return client, server
	}
	client, server := open("192.0.2.1")
	open("203.0.113.9, 192.0.2.1") // what the client claims for itself is not its address
	refusedBy(t, r, from("192.0.2.1"))
	refusedBy(t, r, from("198.51.100.1, 192.0.2.1, 127.0.0.1"))
	open("192.0.2.2")
	client.Close()
	server.Close()
	eventually(t, func() bool { return r.p.Stats().Live == 2 }, "the tunnel stays open")
	open("192.0.2.1")
	refusedBy(t, r, from("192.0.2.1"))
}

// Whoever has one IPv6 address has a /64 of them (RFC 7934): counted one by one,
// a single client had as many tunnels as it liked.
func TestTunnelsOfAnIPv6ClientAreCountedByIts64(t *testing.T) {
	failures := make(chan error, 10)
	r := plainLink.start(t, nil, wsproxy.WithMaxTunnelsPerIP(1), wsproxy.WithTrustedProxies("127.0.0.0/8"),
		wsproxy.WithErrorHandler(func(w http.ResponseWriter, r *http.Request, err error) {
			failures <- err
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(wsproxy.StatusCode(err))
		}))
	from := func(client string) string {
		return strings.Replace(sampleRequest, "\r\n\r\n", "\r\nX-Forwarded-For: "+client+"\r\n\r\n", 1)
	}
	for _, test := range []struct {
		client string
		with   []string // other addresses that count as the same client
		apart  string   // one that does not
		named  string   // in the error
	}{
		{"2001:db8::1", []string{"2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", "[2001:db8:0:0:1::]:443"}, "2001:db8:0:1::1", "1 open from 2001:db8::/64"},
		{"192.0.2.1", []string{"192.0.2.1", "::ffff:192.0.2.1"}, "192.0.2.2", "1 open from 192.0.2.1"},
	} {
		for _, client := range []string{test.client, test.apart} {
			conn := r.connect(t)
			conn.send(t, from(client))
			server := r.u.accept(t)
			server.request(t)
			server.send(t, sampleSwitch)
			require.Equal(t, http.StatusSwitchingProtocols, conn.answer(t).StatusCode, client)
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

func TestAnUntrustedClientCannotChooseTheAddressThatItsTunnelsCountFor(t *testing.T) {
	r := plainLink.start(t, nil, wsproxy.WithMaxTunnelsPerIP(1))
	r.tunnel(t)
	refusedBy(t, r, strings.Replace(sampleRequest, "\r\n\r\n", "\r\nX-Forwarded-For: 192.0.2.1\r\nX-Real-IP: 192.0.2.1\r\n\r\n", 1))
}

// A limited is what one end sends of a message, with a limit of 200 bytes.
type limited struct {
	name   string
	frames []wireFrame // masked is set by the test
	over   int         // the first frame that must not pass, or len(frames)
}

var limitedMessages = []limited{
	{"exactly the limit", []wireFrame{{first: wireText, payload: strings.Repeat("x", 200)}}, 1},
	{"one byte more", []wireFrame{{first: wireText, payload: strings.Repeat("x", 201)}}, 0},
	{"70,000 bytes", []wireFrame{{first: wireText, payload: strings.Repeat("x", 70_000)}}, 0},
	{"one byte more after another message", []wireFrame{{first: wireText, payload: strings.Repeat("x", 200)},
		{first: wireText, payload: strings.Repeat("y", 201)}}, 1},
	{"many messages of the limit", []wireFrame{{first: wireText, payload: strings.Repeat("x", 200)},
		{first: wireText, payload: strings.Repeat("x", 200)}, {first: wireText, payload: ""}}, 3},
	{"exactly the limit over fragments", []wireFrame{{first: wireTextPart, payload: strings.Repeat("x", 126)},
		{first: wirePing, payload: strings.Repeat("p", 125)}, {first: wireContPart, payload: ""},
		{first: wireCont, payload: strings.Repeat("y", 74)}, {first: wireText, payload: "next"}}, 5},
	{"one byte more over fragments", []wireFrame{{first: wireTextPart, payload: strings.Repeat("x", 126)},
		{first: wirePong, payload: "p"}, {first: wireCont, payload: strings.Repeat("y", 75)}}, 2},
	{"one byte more, compressed", []wireFrame{{first: wireText | 0x40, payload: strings.Repeat("x", 201)}}, 0},
	{"exactly the limit, compressed", []wireFrame{{first: wireText | 0x40, payload: strings.Repeat("x", 200)}}, 1},
}

// pieces cuts a stream into chunks: whole, byte by byte, and by a header's
// every byte.
func pieces(stream string) map[string][]string {
	cuts := map[string][]string{"in one piece": {stream}, "byte by byte": strings.Split(stream, "")}
	for at := 1; at < 16 && at < len(stream); at++ {
		cuts[fmt.Sprintf("cut at %d", at)] = []string{stream[:at], stream[at:]}
	}
	return cuts
}

func TestAMessageOverTheLimitDoesNotPass(t *testing.T) {
	for _, test := range limitedMessages {
		t.Run(test.name, func(t *testing.T) {
			fromEither(t, []wsproxy.Option{wsproxy.WithMaxMessageSize(200, 200)}, func(t *testing.T, r *memRig, from, to wireEnd) {
				stream := ""
				for _, f := range test.frames {
					stream += from.frame(f.first, f.payload)
				}
				open := true // fromEither has opened the first tunnel
				for name, chunks := range pieces(stream) {
					if len(chunks) > 2 && len(stream) > 1000 {
						continue
					}
					if !open {
						from.peer, to.peer = reopen(t, r, from)
					}
					open = false
					for _, chunk := range chunks {
						from.send(t, chunk)
						synctest.Wait()
					}
					messages := 0
					for _, f := range test.frames[:test.over] {
						to.expectFrame(t, f.first, f.payload)
						if f.first&0x80 != 0 && f.first&0x0f < 8 {
							messages++
						}
					}
					code, reason := 1009, wsproxy.Limit
					if test.over == len(test.frames) {
						code, reason = 1000, wsproxy.Killed
						synctest.Wait()
						require.NoError(t, only(t, r.p).Close(code, "enough"), name)
					}
					bothAnswer(t, code, to, from)
					ending := r.endsIn(t, 0, reason)
					assert.NoError(t, ending.Err)
					assert.EqualValues(t, messages, from.sentBy(ending).Messages, "messages that crossed, %s", name)
					to.expectEOF(t, "")
					from.expectEOF(t, "")
				}
			})
		})
	}
}

func TestEachDirectionHasItsOwnLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMemRig(t, nil, wsproxy.WithMaxMessageSize(10, 0))
		client, server := wired(r.tunnel(t))
		server.sendFrame(t, wireText, strings.Repeat("x", 30_000))
		client.expectFrame(t, wireText, strings.Repeat("x", 30_000))
		client.sendFrame(t, wireText, strings.Repeat("x", 11))
		bothAnswer(t, 1009, client, server)
		r.endsIn(t, 0, wsproxy.Limit)
	})
}

// A peer may give up by itself right behind its message.
func TestACloseFrameBehindAMessageOverTheLimitIsSeen(t *testing.T) {
	fromEither(t, []wsproxy.Option{wsproxy.WithMaxMessageSize(10, 10)}, func(t *testing.T, r *memRig, from, to wireEnd) {
		from.send(t, from.frame(wireText, strings.Repeat("x", 11))+from.frame(wireText, "more")+from.frame(wireClose, closeBody(1000, "")))
		bothAnswer(t, 1009, to)
		from.expectClose(t, 1009)
		ending := r.endsIn(t, 0, wsproxy.Limit)
		assert.Equal(t, 1000, from.sentBy(ending).CloseCode)
		assert.Zero(t, from.sentBy(ending).Messages, "messages that crossed")
	})
}

// The bytes of a header that is not whole yet are all the peer has sent.
func TestTheHeldBytesOfAHeaderAreNotLostAtTheEnd(t *testing.T) {
	fromEither(t, []wsproxy.Option{wsproxy.WithMaxMessageSize(100_000, 100_000)}, func(t *testing.T, r *memRig, from, to wireEnd) {
		whole := from.frame(wireText, "hello") + from.frame(wireText, strings.Repeat("x", 70_000))
		from.send(t, whole[:len(from.frame(wireText, "hello"))+7])
		from.Close()
		to.expectEOF(t, whole[:len(from.frame(wireText, "hello"))+7])
		to.Close()
		ending := r.endsIn(t, 0, from.closedBy())
		assert.EqualValues(t, 1, from.sentBy(ending).Messages)
	})
}

func TestTheMessageLimitWorksOverEveryLink(t *testing.T) {
	overLinks(t, nil, func(t *testing.T, l link) {
		ended := newEndings()
		r := l.start(t, nil, ended.hook(), wsproxy.WithMaxMessageSize(5, 1<<20), wsproxy.WithCloseTimeout(patience))
		client, server := wired(r.tunnel(t))
		client.sendFrame(t, wireText, "hello")
		server.expectFrame(t, wireText, "hello")
		server.sendFrame(t, wireText, strings.Repeat("x", 1<<20))
		client.expectFrame(t, wireText, strings.Repeat("x", 1<<20))
		client.sendFrame(t, wireText, "hello!")
		bothAnswer(t, 1009, client, server)
		ending := ended.next(t)
		assert.Equal(t, wsproxy.Limit, ending.Reason)
		assert.Equal(t, 1009, ending.FromClient.CloseCode)
		assert.Equal(t, 1009, ending.FromUpstream.CloseCode)
	})
}

func TestNegativeLimitsAreMistakes(t *testing.T) {
	_, err := wsproxy.New("http://a", wsproxy.WithMaxTunnels(-1), wsproxy.WithMaxTunnelsPerIP(-2),
		wsproxy.WithMaxMessageSize(-3, -4), wsproxy.WithPing(1, 0))
	for _, option := range []string{"WithMaxTunnels: \"-1\"", "WithMaxTunnelsPerIP: \"-2\"",
		"WithMaxMessageSize: client: \"-3\"", "WithMaxMessageSize: upstream: \"-4\"", "WithPing: timeout"} {
		assert.ErrorContains(t, err, option)
	}
}
