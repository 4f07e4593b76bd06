package frame

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// wire returns a frame with the shortest length field that fits its payload.
func wire(first byte, masked bool, payload string) []byte {
	form := 0
	switch n := len(payload); {
	case n > 0xffff:
		form = 127
	case n > 125:
		form = 126
	}
	return wireWithLength(first, masked, form, payload)
}

// wireWithLength returns a frame whose length field has 7 bits (form 0), 16
// (126) or 64 (127).
func wireWithLength(first byte, masked bool, form int, payload string) []byte {
	mask := byte(0)
	if masked {
		mask = 0x80
	}
	b := []byte{first}
	switch form {
	case 126:
		b = binary.BigEndian.AppendUint16(append(b, mask|126), uint16(len(payload)))
	case 127:
		b = binary.BigEndian.AppendUint64(append(b, mask|127), uint64(len(payload)))
	default:
		b = append(b, mask|byte(len(payload)))
	}
	if !masked {
		return append(b, payload...)
	}
	key := []byte{0x81, 0, 0xff, 0x88} // similar to a header
	b = append(b, key...)
	for i := range len(payload) {
		b = append(b, payload[i]^key[i&3])
	}
	return b
}

// A seen is what a scanner reports about a stream.
type seen struct {
	off        bool
	closed     bool
	code       int
	messages   int64
	boundaries []int
	open       bool // within a frame at the end
}

// scanChunks scans stream in chunks of the sizes that next returns.
func scanChunks(stream []byte, masked bool, next func() int) seen {
	s := Scanner{Masked: masked}
	var got seen
	for at := 0; at < len(stream); {
		chunk := stream[at:min(len(stream), at+max(1, next()))]
		for len(chunk) > 0 && !s.Off {
			n := s.Frame(chunk)
			if n <= 0 || n > len(chunk) {
				panic(fmt.Sprintf("frame took %d of %d bytes", n, len(chunk)))
			}
			chunk, at = chunk[n:], at+n
			if s.Message() {
				got.messages++
			}
			if s.Boundary() {
				got.boundaries = append(got.boundaries, at)
			}
		}
		if s.Off {
			break
		}
	}
	got.off, got.closed, got.code = s.Off, s.closed, closeCodeOf(s)
	got.open = !s.Off && !s.Boundary()
	return got
}

func inOnePiece() int { return 1 << 30 }

// scanStep scans stream in chunks of n bytes.
func scanStep(stream []byte, masked bool, n int) seen {
	return scanChunks(stream, masked, func() int { return n })
}

func bothMasks(t *testing.T, test func(t *testing.T, masked bool)) {
	for _, masked := range []bool{true, false} {
		t.Run(fmt.Sprintf("masked %t", masked), func(t *testing.T) { test(t, masked) })
	}
}

func TestEveryFrameLengthIsFollowedInAnyChunking(t *testing.T) {
	bothMasks(t, func(t *testing.T, masked bool) {
		for _, size := range []int{0, 1, 2, 124, 125, 126, 127, 128, 255, 256, 65535, 65536, 65537} {
			payload := strings.Repeat("\x88", size)
			stream := slices.Concat(wire(0x82, masked, payload), wire(0x81, masked, "next"))
			first := len(stream) - len(wire(0x81, masked, "next"))
			want := seen{messages: 2, boundaries: []int{first, len(stream)}}
			for _, step := range []int{1, 2, 3, 4, 5, 7, 13, 14, 15, 4096, len(stream)} {
				require.Equal(t, want, scanStep(stream, masked, step), "%d bytes of payload in pieces of %d", size, step)
			}
			for cut := 1; cut < min(20, len(stream)); cut++ {
				cuts := []int{cut, len(stream)}
				got := scanChunks(stream, masked, func() int { n := cuts[0]; cuts = cuts[1:]; return n })
				require.Equal(t, want, got, "%d bytes of payload split at %d", size, cut)
			}
		}
	})
}

func TestANonMinimalLengthIsFollowed(t *testing.T) {
	bothMasks(t, func(t *testing.T, masked bool) {
		for _, form := range []int{126, 127} {
			stream := slices.Concat(wireWithLength(0x82, masked, form, "short"), wire(0x81, masked, "next"))
			for step := 1; step <= len(stream); step++ {
				got := scanStep(stream, masked, step)
				if !got.off { // the scanner may report it as malformed, but must not guess
					require.Equal(t, int64(2), got.messages)
					require.Len(t, got.boundaries, 2)
				}
			}
		}
	})
}

func TestMessagesAreCountedAcrossFragmentsAndControlFrames(t *testing.T) {
	bothMasks(t, func(t *testing.T, masked bool) {
		f := func(first byte, payload string) []byte { return wire(first, masked, payload) }
		for _, test := range []struct {
			name   string
			frames [][]byte
			want   int64
		}{
			{"none", nil, 0},
			{"text and binary", [][]byte{f(0x81, "a"), f(0x82, "b")}, 2},
			{"empty", [][]byte{f(0x81, "")}, 1},
			{"compressed", [][]byte{f(0xc1, "a"), f(0x41, "b"), f(0x80, "c")}, 2},
			{"fragmented", [][]byte{f(0x01, "a"), f(0x00, "b"), f(0x00, ""), f(0x80, "c")}, 1},
			{"unfinished", [][]byte{f(0x01, "a"), f(0x00, "b")}, 0},
			{"control frames", [][]byte{f(0x89, "ping"), f(0x8a, ""), f(0x8a, strings.Repeat("p", 125))}, 0},
			{"control frames in between", [][]byte{f(0x01, "a"), f(0x89, "ping"), f(0x00, "b"), f(0x8a, "pong"), f(0x80, ""), f(0x81, "next")}, 2},
			{"after a Close frame", [][]byte{f(0x81, "a"), f(0x88, ""), f(0x81, "b")}, 2},
		} {
			stream := slices.Concat(test.frames...)
			for step := 1; step <= len(stream)+1; step++ {
				got := scanStep(stream, masked, step)
				require.Equal(t, test.want, got.messages, "%s, in pieces of %d", test.name, step)
				require.Len(t, got.boundaries, len(test.frames), "%s, in pieces of %d", test.name, step)
				require.False(t, got.off, test.name)
			}
		}
	})
}

func TestTheCodeOfAPeersCloseFrameIsReported(t *testing.T) {
	bothMasks(t, func(t *testing.T, masked bool) {
		for payload, want := range map[string]int{
			"":                                     1005,
			"\x03":                                 1005, // malformed; the other peer reports that
			"\x03\xe8":                             1000,
			"\x03\xe9going away":                   1001,
			"\x0f\xa0" + strings.Repeat("x", 123):  4000,
			"\xff\xff":                             65535,
			"\x03\xf1" + strings.Repeat("é", 61):   1009,
			"\x00\x00nothing that RFC 6455 allows": 0,
		} {
			stream := slices.Concat(wire(0x81, masked, "before"), wire(0x88, masked, payload), wire(0x88, masked, "\x13\x88second"))
			for step := 1; step <= len(stream); step++ {
				got := scanStep(stream, masked, step)
				require.True(t, got.closed)
				require.Equal(t, want, got.code, "payload %q in pieces of %d", payload, step)
			}
		}
	})
}

func TestACloseFrameIsReportedOnceItIsComplete(t *testing.T) {
	bothMasks(t, func(t *testing.T, masked bool) {
		frame := wire(0x88, masked, "\x03\xe8bye")
		for cut := range frame {
			got := scanStep(frame[:cut], masked, 1)
			require.False(t, got.closed, "after %d of %d bytes", cut, len(frame))
			require.Zero(t, got.code)
		}
	})
}

func TestAMalformedStreamStopsTheTracking(t *testing.T) {
	bothMasks(t, func(t *testing.T, masked bool) {
		f := func(first byte, payload string) []byte { return wire(first, masked, payload) }
		long := []byte{0x82, 0x7f, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}
		if masked {
			long[1] |= 0x80
		}
		for name, stream := range map[string][]byte{
			"the wrong masking":                wire(0x81, !masked, "hello"),
			"a reserved data opcode":           f(0x83, "a"),
			"a reserved control opcode":        f(0x8b, "a"),
			"a continuation of nothing":        f(0x80, "a"),
			"a message within a message":       slices.Concat(f(0x01, "a"), f(0x81, "b")),
			"a continuation after the end":     slices.Concat(f(0x01, "a"), f(0x80, "b"), f(0x00, "c")),
			"a fragmented Ping":                f(0x09, "a"),
			"a fragmented Close":               f(0x08, "a"),
			"a control frame of 126 bytes":     f(0x89, strings.Repeat("a", 126)),
			"a Close frame of 70,000 bytes":    f(0x88, strings.Repeat("a", 70_000)),
			"a length with the top bit":        long,
			"text":                             []byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
			"bytes that look like a long text": []byte(strings.Repeat("\xff", 30)),
		} {
			valid := slices.Concat(f(0x81, "valid"), f(0x88, "\x03\xe8"))
			whole := slices.Concat(valid, stream, f(0x81, "after"))
			if name == "a message within a message" || name == "a continuation after the end" {
				continue // these begin with valid frames; see below
			}
			for _, step := range []int{1, 2, 3, 5, 100, len(whole)} {
				got := scanStep(whole, masked, step)
				want := seen{off: true, closed: true, code: 1000, messages: 1, boundaries: []int{len(f(0x81, "valid")), len(valid)}}
				require.Equal(t, want, got, "%s, in pieces of %d", name, step)
			}
		}
		for step := range 5 {
			assert.True(t, scanStep(slices.Concat(f(0x01, "a"), f(0x81, "b")), masked, step+1).off, "a message within a message")
			assert.True(t, scanStep(slices.Concat(f(0x01, "a"), f(0x80, "b"), f(0x00, "c")), masked, step+1).off, "a continuation after the end")
		}
	})
}

// RFC 6455, section 5.5: a control frame's length has 7 bits. If a longer
// length were read as 7 bits, the code would come from the wrong bytes.
func TestACloseFrameWithALongLengthGivesNoWrongCode(t *testing.T) {
	bothMasks(t, func(t *testing.T, masked bool) {
		for _, form := range []int{126, 127} {
			got := scanStep(wireWithLength(0x88, masked, form, "\x03\xe8"), masked, 100)
			if !got.off {
				assert.Equal(t, 1000, got.code)
			}
		}
	})
}

// The size counts all fragments, and a frame as soon as its header has come.
func TestTheSizeOfAMessageShowsTheFrameThatExceedsALimit(t *testing.T) {
	huge := []byte{0x82, 0x7f, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	for _, test := range []struct {
		name   string
		limit  uint64
		frames [][]byte
		over   int // which frame, -1: none
	}{
		{"exactly", 5, [][]byte{wire(0x81, false, "hello")}, -1},
		{"one more", 5, [][]byte{wire(0x81, false, "hello!")}, 0},
		{"fragments exactly", 5, [][]byte{wire(0x01, false, "he"), wire(0x89, false, "no part of it"), wire(0x80, false, "llo")}, -1},
		{"fragments one more", 5, [][]byte{wire(0x01, false, "he"), wire(0x00, false, "llo"), wire(0x00, false, ""), wire(0x80, false, "!")}, 3},
		{"each message anew", 5, [][]byte{wire(0x81, false, "hello"), wire(0x81, false, "hello"), wire(0x81, false, "hello!")}, 2},
		{"2^63-1 bytes", 1 << 40, [][]byte{huge}, 0},
		{"more than fits 63 bits over fragments", 1<<63 - 1, [][]byte{wire(0x01, false, "x"), {0x80, 0x7f, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}, 1},
	} {
		var s Scanner
		over := -1
		for i, frame := range test.frames {
			for _, b := range frame {
				s.Frame([]byte{b})
				if s.Size() > test.limit && over < 0 {
					over = i
				}
			}
		}
		assert.Equal(t, test.over, over, test.name)
		assert.False(t, s.Off, test.name)
	}
}

func TestTheScannerNeverAllocates(t *testing.T) {
	bothMasks(t, func(t *testing.T, masked bool) {
		stream := slices.Concat(wire(0x81, masked, strings.Repeat("x", 300)), wire(0x89, masked, "p"), wire(0x88, masked, "\x03\xe8bye"))
		for _, step := range []int{1, 7, len(stream)} {
			s := Scanner{Masked: masked}
			assert.Zero(t, testing.AllocsPerRun(100, func() {
				for rest := stream; len(rest) > 0; rest = rest[min(step, len(rest)):] {
					s.All(rest[:min(step, len(rest))])
				}
			}), "allocations in pieces of %d", step)
			assert.False(t, s.Off)
		}
	})
}

// closeCodeOf returns the code that s has read, or 0.
func closeCodeOf(s Scanner) int {
	if !s.closed {
		return 0
	}
	code, _ := s.Close()
	return code
}

// With thousands of tunnels, the memory that a relay's read touches determines
// the cost of a message.
func TestAScannerIsSmall(t *testing.T) {
	assert.LessOrEqual(t, unsafe.Sizeof(Scanner{}), uintptr(48))
}
