package wsproxy_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// First bytes of frames.
const (
	wireCont     = 0x80
	wireText     = 0x81
	wireTextPart = 0x01 // more frames follow
	wireContPart = 0x00
	wireClose    = 0x88
	wirePing     = 0x89
	wirePong     = 0x8A
)

// A wireFrame is a frame as it crosses a connection, unmasked.
type wireFrame struct {
	first   byte
	masked  bool
	payload string
}

// String is the frame's bytes.
func (f wireFrame) String() string {
	b, mask := []byte{f.first}, byte(0)
	if f.masked {
		mask = 0x80
	}
	switch n := len(f.payload); {
	case n < 126:
		b = append(b, mask|byte(n))
	case n <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, mask|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, mask|127), uint64(n))
	}
	if !f.masked {
		return string(b) + f.payload
	}
	key := []byte{0x81, 0x00, 0xff, 0x8a}
	b = append(b, key...)
	for i := range len(f.payload) {
		b = append(b, f.payload[i]^key[i%4])
	}
	return string(b)
}

// readWire reads the next frame.
func readWire(r io.Reader) (f wireFrame, err error) {
	var b [8]byte
	if _, err = io.ReadFull(r, b[:2]); err != nil {
		return f, err
	}
	f.first, f.masked = b[0], b[1]&0x80 != 0
	n := uint64(b[1] & 0x7f)
	if extended := map[uint64]int{126: 2, 127: 8}[n]; extended > 0 {
		clear(b[:])
		if _, err = io.ReadFull(r, b[8-extended:]); err != nil {
			return f, fmt.Errorf("in a frame's length: %w", err)
		}
		n = binary.BigEndian.Uint64(b[:])
	}
	var key [4]byte
	if f.masked {
		if _, err = io.ReadFull(r, key[:]); err != nil {
			return f, fmt.Errorf("in a frame's key: %w", err)
		}
	}
	payload := make([]byte, n)
	if _, err = io.ReadFull(r, payload); err != nil {
		return f, fmt.Errorf("in a frame's payload: %w", err)
	}
	for i := range payload {
		payload[i] ^= key[i%4]
	}
	f.payload = string(payload)
	return f, nil
}

// closeBody is the payload of a Close frame.
func closeBody(code int, reason string) string {
	return string(binary.BigEndian.AppendUint16(nil, uint16(code))) + reason
}

// A wireEnd is an end of a tunnel that speaks frames: its own are masked if it
// is the client, and what it reads must be masked if it is not.
type wireEnd struct {
	*peer
	client bool
}

func (e wireEnd) name() string {
	if e.client {
		return "client"
	}
	return "upstream"
}

// frame is the wire form of a frame of e's.
func (e wireEnd) frame(first byte, payload string) string {
	return wireFrame{first, e.client, payload}.String()
}

// sendFrame sends a frame of e's.
func (e wireEnd) sendFrame(t testing.TB, first byte, payload string) {
	t.Helper()
	e.send(t, e.frame(first, payload))
}

// expectFrame reads the next frame.
func (e wireEnd) expectFrame(t testing.TB, first byte, payload string) {
	t.Helper()
	f, err := readWire(e)
	require.NoError(t, err, "the %s, waiting for frame %#x %q", e.name(), first, payload)
	require.Equal(t, wireFrame{first, !e.client, payload}, f, "what the %s gets", e.name())
}

// expectClose reads a Close frame, the next one, with code and some reason.
func (e wireEnd) expectClose(t testing.TB, code int) (reason string) {
	t.Helper()
	f, err := readWire(e)
	require.NoError(t, err, "the %s, waiting for Close %d", e.name(), code)
	require.Equal(t, byte(wireClose), f.first, "what the %s gets: %q", e.name(), f.payload)
	require.Equal(t, !e.client, f.masked, "masked toward the %s", e.name())
	require.GreaterOrEqual(t, len(f.payload), 2, "bytes of the Close frame for the %s", e.name())
	require.EqualValues(t, code, binary.BigEndian.Uint16([]byte(f.payload)), "the code for the %s", e.name())
	return f.payload[2:]
}

// expectNothing checks that nothing arrives in d, in a synctest bubble.
func (e wireEnd) expectNothing(t testing.TB, d time.Duration) {
	t.Helper()
	e.SetReadDeadline(time.Now().Add(d))
	got, err := e.br.Peek(1)
	require.ErrorIs(t, err, errDeadline, "the %s gets %q", e.name(), got)
	e.SetReadDeadline(time.Time{})
}

// wired gives the ends of a tunnel their frames.
func wired(client, server *peer) (wireEnd, wireEnd) {
	return wireEnd{client, true}, wireEnd{server, false}
}

// fromEither runs a test in a synctest bubble with either end as the first.
func fromEither(t *testing.T, opts []wsproxy.Option, test func(t *testing.T, r *memRig, from, to wireEnd)) {
	t.Helper()
	for _, name := range []string{"client first", "upstream first"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newMemRig(t, nil, opts...)
				client, server := wired(r.tunnel(t))
				if name == "client first" {
					test(t, r, client, server)
				} else {
					test(t, r, server, client)
				}
			})
		})
	}
}

// sentBy is what the first end of fromEither has sent, by an ending.
func (e wireEnd) sentBy(ending wsproxy.Ending) wsproxy.FlowStats {
	if e.client {
		return ending.FromClient
	}
	return ending.FromUpstream
}

// closedBy is the reason of a tunnel that e is the first to leave.
func (e wireEnd) closedBy() wsproxy.Reason {
	if e.client {
		return wsproxy.ClientClosed
	}
	return wsproxy.UpstreamClosed
}

// only returns the one live tunnel.
func only(t testing.TB, p *wsproxy.Proxy) (tunnel *wsproxy.Tunnel) {
	t.Helper()
	n := 0
	for each := range p.Tunnels() {
		tunnel = each
		n++
	}
	require.Equal(t, 1, n, "tunnels that live")
	return tunnel
}

// onTime wants it to be the time at which a tunnel is to end, in a synctest
// bubble, and no more than the millisecond later that the portable relay takes
// to tell a reset from an orderly end.
func onTime(t testing.TB, end time.Time) {
	t.Helper()
	require.WithinRange(t, time.Now(), end, end.Add(time.Millisecond), "the end of the tunnel")
}

// endsIn waits for the next ending, in a synctest bubble, which must come after
// d.
func (r *memRig) endsIn(t testing.TB, d time.Duration, want wsproxy.Reason) wsproxy.Ending {
	t.Helper()
	start := time.Now()
	select {
	case ending := <-r.ended:
		onTime(t, start.Add(d))
		require.Equal(t, want.String(), ending.Reason.String(), "reason of the ending")
		return ending
	case <-time.After(24 * time.Hour):
		require.Fail(t, "the tunnel does not end")
		return wsproxy.Ending{}
	}
}

// bothAnswer has both ends take the proxy's Close and answer it in kind.
func bothAnswer(t testing.TB, code int, ends ...wireEnd) {
	t.Helper()
	for _, end := range ends {
		reason := end.expectClose(t, code)
		assert.NotEmpty(t, reason, "the reason text for the %s", end.name())
		end.sendFrame(t, wireClose, closeBody(code, ""))
	}
}
