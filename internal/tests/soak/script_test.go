package soak_test

import (
	"bytes"
	"crypto/subtle"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"time"

	"example.com/wsproxy/internal/testkit"
)

const (
	soakPatience = time.Minute // bounds every wait of one tunnel
	soakLimit    = 1 << 20     // the largest message
	soakNarrow   = 32 << 10    // size of a socket buffer that fills quickly
	soakPing     = "wsproxy!"  // payload of the proxy's Pings
)

// A soakScript is the sequence of frames that one end sends. It depends only on
// its seed, so the other end can compute each byte and no bytes are stored.
type soakScript struct {
	shape    *rand.Rand
	content  *rand.ChaCha8
	messages int         // not yet sent
	parts    []soakFrame // frames of the current message
}

type soakFrame struct {
	first byte
	size  int
}

// soakEdges are the lengths at which the header's form changes, and the least
// and greatest length.
var soakEdges = []int{0, 1, 125, 126, 127, 65535, 65536, soakLimit - 1, soakLimit}

func newSoakScript(seed, tunnel uint64, side, messages int) *soakScript {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	binary.LittleEndian.PutUint64(key[8:], tunnel)
	key[16] = byte(side)
	return &soakScript{shape: rand.New(rand.NewPCG(seed+uint64(side), tunnel)), content: rand.NewChaCha8(key), messages: messages}
}

// logUniform returns a number from 1 to most. Each number of bits is equally
// likely.
func logUniform(r *rand.Rand, most int) int {
	return min(most, int(math.Exp(r.Float64()*math.Log(float64(most+1)))))
}

// next returns the next frame. Its payload is the next bytes of s.content.
func (s *soakScript) next() (f soakFrame, more bool) {
	if len(s.parts) == 0 {
		if s.messages == 0 {
			return f, false
		}
		s.messages--
		s.compose()
	}
	f, s.parts = s.parts[0], s.parts[1:]
	return f, true
}

// compose makes a message of one frame, or of several with Pongs between them.
func (s *soakScript) compose() {
	left, pieces := logUniform(s.shape, soakLimit), 1
	if s.shape.IntN(16) == 0 {
		left = soakEdges[s.shape.IntN(len(soakEdges))]
	}
	if s.shape.IntN(3) == 0 {
		pieces = 2 + s.shape.IntN(4)
	}
	s.parts = nil
	for first := byte(testkit.Binary &^ 0x80); pieces > 1; pieces-- {
		part := s.shape.IntN(left + 1)
		s.parts = append(s.parts, soakFrame{first, part})
		if s.shape.IntN(4) == 0 {
			s.parts = append(s.parts, soakFrame{testkit.Pong, s.shape.IntN(126)})
		}
		left -= part
		first = testkit.ContinuationPart
	}
	last := soakFrame{testkit.Binary, left}
	if len(s.parts) > 0 {
		last.first = testkit.Continuation
	}
	s.parts = append(s.parts, last)
}

// count consumes the script and returns its messages and bytes.
func (s *soakScript) count() (frames int64) {
	for _, more := s.next(); more; _, more = s.next() {
		frames++
	}
	return frames
}

var soakKey = []byte{0x81, 0x00, 0xff, 0x8a}
var soakPad = bytes.Repeat(soakKey, 16<<10/4+1)

// completes returns 1 if the frame is the last one of a message, otherwise 0.
func (f soakFrame) completes() int64 {
	if f.first == testkit.Binary || f.first == testkit.Continuation {
		return 1
	}
	return 0
}

// header appends the wire form of the frame's header to b.
func (f soakFrame) header(b []byte, masked bool) []byte {
	b, at := append(b, f.first), len(b)+1
	switch {
	case f.size < 126:
		b = append(b, byte(f.size))
	case f.size <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(f.size))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), uint64(f.size))
	}
	if masked {
		b[at] |= 0x80
		b = append(b, soakKey...)
	}
	return b
}

// soakRoom is the free space that pending always keeps for a header or a
// control frame.
const soakRoom = 256

// control adds a control frame.
func (e *soakEnd) control(first byte, payload string) {
	e.pending = append(e.pending, testkit.End{Peer: e.Peer, Client: e.client}.Frame(first, payload)...)
}

// put adds a frame with the first bytes of its payload.
func (e *soakEnd) put(f soakFrame, upTo int) {
	e.pending = f.header(e.pending, e.client)
	for at := 0; at < upTo; {
		from := len(e.pending)
		n := min(upTo-at, cap(e.pending)-soakRoom-from, len(soakPad)-4)
		if n > 0 {
			e.pending = e.pending[:from+n]
			e.out.content.Read(e.pending[from:])
			if e.client {
				soakMask(e.pending[from:], at)
			}
			at += n
		} else if !e.flush() {
			return
		}
	}
	if len(e.pending) > cap(e.pending)-2*soakRoom {
		e.flush()
	}
}

// soakMask masks or unmasks b, which begins at byte at of a client's payload.
func soakMask(b []byte, at int) { subtle.XORBytes(b, b, soakPad[at&3:]) }

// flush sends the pending bytes, unless an earlier write has failed.
func (e *soakEnd) flush() bool {
	if e.writeErr == nil && len(e.pending) > 0 {
		var n int
		n, e.writeErr = e.Write(e.pending)
		e.sent += int64(n)
	}
	e.pending = e.buffer.out[:0]
	return e.writeErr == nil
}
