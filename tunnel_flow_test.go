package wsproxy

import (
	"bytes"
	"errors"
	"io"
	"math/bits"
	"net"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"example.com/wsproxy/internal/frame"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A brokenSink takes nothing.
type brokenSink struct{ sinkTo }

var errBroken = errors.New("broken")

func (*brokenSink) write([]byte) error { return errBroken }

// The comment at flowState has the table of these.
func TestAFlowGoesFromStateToState(t *testing.T) {
	closeFrame := frame.AppendControl(nil, frame.OpClose, []byte{0x03, 0xe8}, true)
	data := frame.Append(nil, frame.Header{Fin: true, Opcode: frame.OpText, Masked: true}, []byte("hello"))
	breaks := func(f *flow) { f.dst = new(brokenSink) }
	leave := func(f *flow) { f.t.goAway(ReasonKilled, 4000, "") }
	take := func(p []byte, err error) func(*flow) { return func(f *flow) { f.take(p, err) } }
	stop := func(f *flow) { f.stop(errBroken) }
	for name, test := range map[string]struct {
		steps []func(*flow)
		want  flowState
	}{
		"src sends":                                    {[]func(*flow){take(data, nil)}, open},
		"src sends its Close frame":                    {[]func(*flow){take(closeFrame, nil)}, open},
		"src ends":                                     {[]func(*flow){take(nil, io.EOF)}, ended},
		"src fails with bytes":                         {[]func(*flow){take(data, errBroken)}, ended},
		"dst fails":                                    {[]func(*flow){breaks, take(data, nil)}, discarding},
		"dst fails before anything was read":           {[]func(*flow){breaks, (*flow).begin}, discarding},
		"dst fails as src ends":                        {[]func(*flow){breaks, take(data, io.EOF)}, ended},
		"dst fails, src sends":                         {[]func(*flow){breaks, take(data, nil), take(data, nil)}, discarding},
		"dst fails, src sends its Close frame":         {[]func(*flow){breaks, take(data, nil), take(closeFrame, nil)}, discarding},
		"dst fails, src ends":                          {[]func(*flow){breaks, take(data, nil), take(nil, io.EOF)}, ended},
		"the proxy closes":                             {[]func(*flow){leave, take(nil, nil)}, discarding},
		"the proxy closes within a frame":              {[]func(*flow){take(data[:3], nil), leave, take(data[3:4], nil)}, open},
		"the proxy closes as src ends":                 {[]func(*flow){leave, take(nil, io.EOF)}, ended},
		"the proxy closes, src answers":                {[]func(*flow){leave, take(nil, nil), take(closeFrame, nil)}, ended},
		"the proxy closes, src has closed":             {[]func(*flow){take(closeFrame, nil), leave, take(nil, nil)}, ended},
		"dst fails late, when src has ended":           {[]func(*flow){take(nil, io.EOF), stop}, ended},
		"dst fails late, when src's bytes are dropped": {[]func(*flow){leave, take(nil, nil), stop}, discarding},
	} {
		t.Run(name, func(t *testing.T) {
			f, _ := newTestFlow(true, 0)
			require.Equal(t, open, f.state)
			for _, step := range test.steps {
				step(f)
			}
			assert.Equal(t, test.want, f.state)
		})
	}
}

// fuzzStreams returns valid and malformed streams of either kind.
func fuzzStreams() [][]byte {
	var streams [][]byte
	for _, masked := range []bool{true, false} {
		framed := func(first byte, extended int, payload string) []byte {
			return frame.Append(nil, frame.Header{Fin: first&0x80 != 0, RSV: first >> 4 & 7, Opcode: first & 0x0f,
				Masked: masked, Key: [4]byte{0x81, 0, 0xff, 0x88}, Extended: extended}, []byte(payload))
		}
		f := func(first byte, payload string) []byte { return framed(first, 0, payload) }
		streams = append(streams,
			f(0x81, "hello"), f(0x82, strings.Repeat("\x88", 126)),
			slices.Concat(f(0x01, "a"), f(0x89, "ping"), f(0x00, ""), f(0x80, "b"), f(0x88, "\x03\xe8bye"), f(0x81, "late")),
			slices.Concat(f(0xc1, "compressed"), f(0x8a, ""), f(0x88, ""), f(0x88, "\x0f\xa0")),
			slices.Concat(f(0x81, "a"), f(0x02, "b"), f(0x80, ""), f(0x82, "c"), f(0x8f, "")),
			slices.Concat(f(0x01, "a"), f(0x81, "b")), f(0x80, "a"), f(0x8f, ""), f(0x09, "x"),
			framed(0x82, 8, "long form"), framed(0x88, 2, "\x03\xe8"))
	}
	return append(streams, nil, []byte("GET / HTTP/1.1\r\n\r\n"), bytes.Repeat([]byte{0xff}, 40))
}

// chunker derives chunk sizes from a fuzzer's bytes.
func chunker(sizes []byte) func() int {
	at := -1
	return func() int {
		if len(sizes) == 0 {
			return 1 << 30
		}
		at++
		return int(sizes[at%len(sizes)])
	}
}

// boundaries returns where the complete frames of stream end. internal/frame
// tests that a Scanner finds them.
func boundaries(stream []byte, masked, strict bool) (ends []int) {
	s := frame.Scanner{Masked: masked, Strict: strict}
	for at := 0; at < len(stream) && !s.Off; {
		at += s.Frame(stream[at:])
		if s.Boundary() {
			ends = append(ends, at)
		}
	}
	return ends
}

// A sinkTo collects the bytes that a flow writes.
type sinkTo struct{ bytes.Buffer }

func (s *sinkTo) write(p []byte) error {
	s.Write(p)
	return nil
}

func (s *sinkTo) closeWrite() bool { return true }
func (s *sinkTo) reset()           {}

// newTestFlow returns the flow from the client, or from the upstream, of a
// tunnel whose connections are not used.
func newTestFlow(fromClient bool, limit int64) (*flow, *sinkTo) {
	p := new(Proxy)
	p.maxFromClient, p.maxFromUpstream = limit, limit
	p.tunnels.sweeper.init(timeouts{})
	client, _ := net.Pipe()
	upstream, _ := net.Pipe()
	tunnel := &Tunnel{p: p, frames: true}
	tunnel.relay = newConnRelay(tunnel, client, upstream)
	tunnel.fromClient.init(tunnel, ReasonClientClosed, ReasonUpstreamClosed)
	tunnel.fromUpstream.init(tunnel, ReasonUpstreamClosed, ReasonClientClosed)
	f, out := &tunnel.fromUpstream, new(sinkTo)
	if fromClient {
		f = &tunnel.fromClient
	}
	f.dst = out
	return f, out
}

// A flow forwards every byte it reads. It adds the proxy's own frames only at
// frame boundaries and writes nothing after its Close frame. With a limit it
// forwards nothing of the frame that exceeds it, of a malformed frame, or after
// the peer's Close frame.
func FuzzAFlowForwardsEveryByteAndAddsFramesBetweenFrames(f *testing.F) {
	for i, stream := range fuzzStreams() {
		f.Add(stream, i%2 == 0, []byte{1}, []byte{0, 1}, uint16(0))
		f.Add(stream, i%2 == 1, []byte{3, 1, 0, 200}, []byte{0}, uint16(3))
		f.Add(stream, i%2 == 1, []byte{2}, []byte{0, 0, 0, 1, 0, 0, 0, 2}, uint16(100))
		f.Add(stream, i%2 == 0, []byte{2}, []byte{0, 2}, uint16(0))
		for _, fromClient := range []bool{true, false} { // a Ping is asked for within the first frame
			f.Add(stream, fromClient, []byte{1, 255}, []byte{0, 0, 1}, uint16(0))
			f.Add(stream, fromClient, []byte{1, 255}, []byte{0}, uint16(100))
		}
	}
	f.Fuzz(func(t *testing.T, stream []byte, fromClient bool, sizes, asks []byte, limit uint16) {
		flow, out := newTestFlow(fromClient, int64(limit))
		next, ask := chunker(sizes), chunker(asks)
		var err error
		for at := 0; at < len(stream) && err == nil; {
			n := min(max(1, next()), len(stream)-at)
			switch {
			case len(asks) == 0:
			case ask()%4 == 1:
				flow.signals.Or(askPing)
			case ask()%16 == 2:
				flow.t.goAway(ReasonKilled, 4000, "")
			}
			if err = flow.forward(stream[at : at+n]); err == nil && flow.has(askAny) {
				err = flow.add() // as run does before each read
			}
			at += n
		}
		if err == nil && flow.held > 0 {
			flow.dst.write(flow.scan.Header(int(flow.held)))
		}

		forwarded := frame.Scanner{Masked: flow.scan.Masked, Strict: flow.scan.Strict}
		require.Equal(t, forwarded.All(out.Bytes()), flow.stats().Messages, "the messages that are forwarded count")
		checkForwarded(t, stream, out.Bytes(), flow, err != nil)
	})
}

// checkForwarded compares the bytes that a flow has written with the bytes that
// it read.
func checkForwarded(t *testing.T, stream, out []byte, f *flow, ended bool) {
	masked := f.scan.Masked
	ends := append([]int{0}, boundaries(stream, masked, f.scan.Strict)...)
	for i, end := range ends[:len(ends)-1] {
		if isOwn(stream[end:], frame.OpPing, pingPayload, masked) {
			t.Skip("a Ping of the peer's that is like the proxy's, before frame ", i)
		}
	}
	for s, rest := (frame.Scanner{Masked: masked, Strict: f.scan.Strict}), out; len(rest) > 0 && !s.Off; {
		rest = rest[s.Frame(rest):]
		require.False(t, f.maxMessage() > 0 && s.Size() > uint64(f.maxMessage()), "a frame over the limit is forwarded")
		require.False(t, s.Off && f.scan.Strict, "a malformed frame is forwarded in spite of the limit")
	}
	at, closed := 0, false // of stream
	for _, end := range ends {
		if !bytes.HasPrefix(out, stream[at:end]) {
			break
		}
		if closed && f.scan.Strict {
			break
		}
		closed = closed || end > at && stream[at]&0x0f == frame.OpClose
		out, at = out[end-at:], end
		for isOwn(out, frame.OpPing, pingPayload, masked) {
			out = out[len(frame.AppendControl(nil, frame.OpPing, []byte(pingPayload), masked)):]
		}
	}
	if closed && f.scan.Strict {
		require.Empty(t, out, "what follows the peer's Close frame")
		return
	}
	if !ended {
		require.True(t, bytes.Equal(stream[at:], out), "after the last whole frame %x is forwarded as %x", stream[at:], out)
		return
	}
	for _, payload := range []string{"\x0f\xa0", "\x03\xf1message too big", "\x03\xeamalformed frame"} {
		if isOwn(out, frame.OpClose, payload, masked) {
			require.False(t, closed, "the proxy's Close frame comes after the peer's own")
			out = out[len(frame.AppendControl(nil, frame.OpClose, []byte(payload), masked)):]
			closed = true
			break
		}
	}
	require.True(t, closed, "no Close frame but %x", out)
	require.Empty(t, out, "what follows the Close frame")
}

// isOwn reports whether b begins with the proxy's own frame.
func isOwn(b []byte, opcode byte, payload string, masked bool) bool {
	header := 2
	if masked {
		header = 6
	}
	if len(b) < header+len(payload) || b[0] != 0x80|opcode || int(b[1]&0x7f) != len(payload) {
		return false
	}
	got := slices.Clone(b[header : header+len(payload)])
	if masked {
		frame.Mask(got, [4]byte(b[2:6]))
	}
	return string(got) == payload
}

// With a few bytes more a Tunnel would take the allocator's next size class. Before, it
// took 576 bytes, and the garbage collector marks objects of more than 512 bytes one by
// one.
func TestATunnelIsSmall(t *testing.T) {
	if bits.UintSize != 64 {
		t.Skip("the sizes are those of 64 bits")
	}
	assert.LessOrEqual(t, unsafe.Sizeof(Tunnel{}), uintptr(448))
	assert.Zero(t, unsafe.Offsetof(Tunnel{}.fromClient)%64, "the fields that a read touches begin a cache line")
	assert.Zero(t, unsafe.Offsetof(Tunnel{}.fromUpstream)%64)
	assert.LessOrEqual(t, unsafe.Offsetof(flow{}.passed), uintptr(128), "a read touches two cache lines of a flow")
}
