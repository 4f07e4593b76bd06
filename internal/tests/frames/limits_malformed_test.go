package frames_test

import (
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/frame"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// badFrames are streams that RFC 6455 does not allow (sections 5.1, 5.2, 5.4
// and 5.5) but that some receivers accept. The last frame of each is malformed.
// golang.org/x/net/websocket takes a first continuation frame, opcode 3, and
// text inside a fragmented message.
var badFrames = map[string]func(masked bool) (before, bad []byte){
	"a continuation frame without a message": long(frame.Header{Fin: true, Opcode: frame.OpContinuation}),
	"a first fragment as a continuation":     long(frame.Header{Opcode: frame.OpContinuation}),
	"opcode 3":                               long(frame.Header{Fin: true, Opcode: 3}),
	"opcode 4":                               long(frame.Header{Fin: true, Opcode: 4}),
	"opcode 5":                               long(frame.Header{Fin: true, Opcode: 5}),
	"opcode 6":                               long(frame.Header{Fin: true, Opcode: 6}),
	"opcode 7":                               long(frame.Header{Fin: true, Opcode: 7}),
	"opcode 0xB":                             short(frame.Header{Fin: true, Opcode: 0xB}),
	"opcode 0xC":                             short(frame.Header{Fin: true, Opcode: 0xC}),
	"opcode 0xD":                             short(frame.Header{Fin: true, Opcode: 0xD}),
	"opcode 0xE":                             short(frame.Header{Fin: true, Opcode: 0xE}),
	"opcode 0xF":                             short(frame.Header{Fin: true, Opcode: 0xF}),
	"a fragmented Ping":                      short(frame.Header{Opcode: frame.OpPing}),
	"a fragmented Pong":                      short(frame.Header{Opcode: frame.OpPong}),
	"a fragmented Close":                     short(frame.Header{Opcode: frame.OpClose}),
	"a Ping of 126 bytes":                    sized(frame.Header{Fin: true, Opcode: frame.OpPing}, 126),
	"a Close of 126 bytes":                   sized(frame.Header{Fin: true, Opcode: frame.OpClose}, 126),
	"a Pong of 70,000 bytes":                 sized(frame.Header{Fin: true, Opcode: frame.OpPong}, 70_000),
	"a Ping with a long length":              sized(frame.Header{Fin: true, Opcode: frame.OpPing, Extended: 2}, 5),
	"a 16-bit length for 125 bytes":          sized(frame.Header{Fin: true, Opcode: frame.OpText, Extended: 2}, 125),
	"a 64-bit length for 125 bytes":          sized(frame.Header{Fin: true, Opcode: frame.OpText, Extended: 8}, 125),
	"a 64-bit length for 500 bytes":          sized(frame.Header{Fin: true, Opcode: frame.OpText, Extended: 8}, 500),
	"a length with the top bit set": func(masked bool) (before, bad []byte) {
		return nil, frame.Header{Fin: true, Opcode: frame.OpText, Masked: masked, Length: -1 << 63}.Append(nil)
	},
	"text inside a fragmented message": func(masked bool) (before, bad []byte) {
		before = frame.Append(nil, frame.Header{Opcode: frame.OpText, Masked: masked}, []byte("first"))
		return before, frame.Append(nil, frame.Header{Fin: true, Opcode: frame.OpText, Masked: masked}, make([]byte, 900))
	},
	"the wrong masking": func(masked bool) (before, bad []byte) {
		before = frame.Append(nil, frame.Header{Fin: true, Opcode: frame.OpText, Masked: masked}, []byte("first"))
		return before, frame.Append(nil, frame.Header{Fin: true, Opcode: frame.OpText, Masked: !masked, Key: [4]byte{1, 2, 3, 4}}, make([]byte, 900))
	},
	"no frames": func(bool) (before, bad []byte) { return nil, []byte("HTTP/1.1 200 OK\r\n\r\n") },
}

// sized returns a frame with a payload of n bytes.
func sized(h frame.Header, n int) func(masked bool) (before, bad []byte) {
	return func(masked bool) (before, bad []byte) {
		h.Masked = masked
		return nil, frame.Append(nil, h, make([]byte, n))
	}
}

func long(h frame.Header) func(masked bool) (before, bad []byte)  { return sized(h, 900) }
func short(h frame.Header) func(masked bool) (before, bad []byte) { return sized(h, 20) }

// One malformed frame switched the limit off for good, and some receivers
// accept what follows: 5,000 bytes passed a limit of 1,000.
func TestALimitedSideMustSendWellFormedFrames(t *testing.T) {
	for name, make := range badFrames {
		t.Run(name, func(t *testing.T) {
			testkit.FromEither(t, []wsproxy.Option{wsproxy.WithMaxClientMessageSize(1000), wsproxy.WithMaxUpstreamMessageSize(1000)}, func(t *testing.T, r *testkit.MemRig, from, to testkit.End) {
				before, bad := make(from.Client)
				stream := string(before) + string(bad) + from.Frame(testkit.Continuation, strings.Repeat("y", 5000))
				for i, step := range []int{len(stream), 1, len(before) + 1, len(before) + 3} {
					if i > 0 {
						from.Peer, to.Peer = reopen(t, r, from)
					}
					for at := 0; at < len(stream) && at < 1000; at += step {
						from.Send(t, stream[at:min(len(stream), at+step)])
						synctest.Wait()
					}
					to.Expect(t, string(before))
					assert.Equal(t, "malformed frame", to.ExpectClose(t, 1002))
					from.ExpectClose(t, 1002)
					to.SendFrame(t, testkit.Close, testkit.ClosePayload(1002, ""))
					to.ExpectNothing(t, time.Second)
					from.Close()
					ending := r.EndsIn(t, 0, wsproxy.ReasonProtocolError)
					assert.NoError(t, ending.Err)
					to.Close()
				}
			})
		})
	}
}

func TestWithoutALimitAMalformedStreamIsForwarded(t *testing.T) {
	for name, make := range badFrames {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := testkit.NewMemRig(t, nil, wsproxy.WithMaxUpstreamMessageSize(1000))
				client, server := testkit.Ends(r.Tunnel(t))
				before, bad := make(true)
				stream := string(before) + string(bad) + strings.Repeat("and so on ", 500)
				client.Send(t, stream)
				server.Expect(t, stream)
			})
		})
	}
}

// RFC 6455, section 5.2: extensions define the reserved bits, and the proxy
// does not know which extensions the ends agreed on.
func TestALimitedSideMaySetReservedBits(t *testing.T) {
	testkit.FromEither(t, []wsproxy.Option{wsproxy.WithMaxClientMessageSize(1000), wsproxy.WithMaxUpstreamMessageSize(1000)}, func(t *testing.T, _ *testkit.MemRig, from, to testkit.End) {
		for _, first := range []byte{testkit.Text | 0x40, testkit.Text | 0x20, testkit.Text | 0x10, testkit.Ping | 0x40} {
			from.SendFrame(t, first, "hello")
			to.ExpectFrame(t, first, "hello")
		}
	})
}

// A receiver that does not stop at a Close frame would accept a message of any
// size after it.
func TestNothingIsForwardedAfterTheCloseFrameOfALimitedSide(t *testing.T) {
	testkit.FromEither(t, []wsproxy.Option{wsproxy.WithMaxClientMessageSize(1000), wsproxy.WithMaxUpstreamMessageSize(1000)}, func(t *testing.T, r *testkit.MemRig, from, to testkit.End) {
		bye, more := from.Frame(testkit.Close, testkit.ClosePayload(1000, "bye")), from.Frame(testkit.Text, strings.Repeat("x", 5000))
		for i, chunks := range [][]string{{bye + more}, {bye, more}, {bye + more[:1], more[1:]}, {bye[:1], bye[1:] + more}} {
			if i > 0 {
				from.Peer, to.Peer = reopen(t, r, from)
			}
			from.SendFrame(t, testkit.Text, "hello")
			for _, chunk := range chunks {
				from.Send(t, chunk)
				synctest.Wait()
			}
			to.ExpectFrame(t, testkit.Text, "hello")
			to.ExpectFrame(t, testkit.Close, testkit.ClosePayload(1000, "bye"))
			to.SendFrame(t, testkit.Text, "still here")
			to.SendFrame(t, testkit.Close, testkit.ClosePayload(1000, ""))
			from.ExpectFrame(t, testkit.Text, "still here")
			from.ExpectFrame(t, testkit.Close, testkit.ClosePayload(1000, ""))
			from.CloseWrite()
			to.ExpectEOF(t, "") // the EOF is still forwarded
			to.Close()
			ending := r.EndsIn(t, 0, from.Closed())
			assert.NoError(t, ending.Err)
			assert.EqualValues(t, 1, from.Sent(ending).Messages)
			assert.Equal(t, 1000, from.ClosedWith(ending).Code)
		}
	})
}

func TestWithoutALimitBytesAfterACloseFrameAreForwarded(t *testing.T) {
	testkit.FromEither(t, nil, func(t *testing.T, _ *testkit.MemRig, from, to testkit.End) {
		stream := from.Frame(testkit.Close, testkit.ClosePayload(1000, "")) + from.Frame(testkit.Text, strings.Repeat("x", 5000))
		from.Send(t, stream)
		to.Expect(t, stream)
	})
}

// The receiver reads frames as golang.org/x/net/websocket does: it appends
// every payload to the message.
func TestTheMessageLimitHoldsForALenientReceiverOverEveryLink(t *testing.T) {
	testkit.OverLinks(t, nil, func(t *testing.T, l testkit.Link) {
		ended := testkit.NewEndings()
		r := l.Start(t, nil, ended.Option(), wsproxy.WithMaxClientMessageSize(1000), wsproxy.WithCloseTimeout(testkit.Patience))
		client, server := testkit.Ends(r.Tunnel(t))
		client.Send(t, client.Frame(testkit.ContinuationPart, "")+client.Frame(testkit.Continuation, strings.Repeat("x", 5000)))
		client.ExpectClose(t, 1002)
		client.Close()
		f, err := testkit.ReadFrame(server)
		require.NoError(t, err)
		require.EqualValues(t, testkit.Close, f.First)
		server.SendFrame(t, testkit.Close, testkit.ClosePayload(1002, ""))
		rest, _ := io.ReadAll(server) // an EOF, or a reset if the client left bytes unread
		require.Empty(t, rest)
		server.Close()
		assert.Equal(t, wsproxy.ReasonProtocolError, ended.Next(t).Reason)
	})
}
