package frame

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The examples of RFC 6455, section 5.7.
var examples = []struct {
	name    string
	header  Header
	payload string
	wire    string
}{
	{"unmasked text", Header{Fin: true, Opcode: OpText}, "Hello", "\x81\x05Hello"},
	{"masked text", Header{Fin: true, Opcode: OpText, Masked: true, Key: [4]byte{0x37, 0xfa, 0x21, 0x3d}}, "Hello",
		"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"},
	{"first fragment", Header{Opcode: OpText}, "Hel", "\x01\x03Hel"},
	{"last fragment", Header{Fin: true, Opcode: OpContinuation}, "lo", "\x80\x02lo"},
	{"masked Pong", Header{Fin: true, Opcode: OpPong, Masked: true, Key: [4]byte{0x37, 0xfa, 0x21, 0x3d}}, "Hello",
		"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"},
	{"256 bytes", Header{Fin: true, Opcode: OpBinary, Extended: 2}, strings.Repeat("x", 256), "\x82\x7e\x01\x00" + strings.Repeat("x", 256)},
	{"65,536 bytes", Header{Fin: true, Opcode: OpBinary, Extended: 8}, strings.Repeat("x", 65536),
		"\x82\x7f\x00\x00\x00\x00\x00\x01\x00\x00" + strings.Repeat("x", 65536)},
	{"RSV1, as of permessage-deflate", Header{Fin: true, RSV: 4, Opcode: OpText}, "", "\xc1\x00"},
	{"a length longer than need be", Header{Fin: true, Opcode: OpText, Extended: 8}, "hi", "\x81\x7f\x00\x00\x00\x00\x00\x00\x00\x02hi"},
}

func TestAFrameIsEncodedAsInTheRFC(t *testing.T) {
	for _, test := range examples {
		payload := []byte(test.payload)
		assert.Equal(t, "kept"+test.wire, string(Append([]byte("kept"), test.header, payload)), test.name)
		assert.Equal(t, test.payload, string(payload), "%s changes the payload", test.name)
	}
}

func TestAHeaderIsParsedOnceItIsComplete(t *testing.T) {
	for _, test := range examples {
		want := test.header
		want.Length = int64(len(test.payload))
		size := len(test.wire) - len(test.payload)
		h, n, ok := Parse([]byte(test.wire))
		require.True(t, ok, test.name)
		assert.Equal(t, want, h, test.name)
		assert.Equal(t, size, n, test.name)
		payload := []byte(test.wire[n:])
		if h.Masked {
			Mask(payload, h.Key)
		}
		assert.Equal(t, test.payload, string(payload), test.name)
		for cut := range size {
			h, need, ok := Parse([]byte(test.wire[:cut]))
			assert.False(t, ok, "%s split at %d", test.name, cut)
			assert.Zero(t, h)
			if cut < 2 {
				assert.Equal(t, 2, need)
			} else {
				assert.Equal(t, size, need)
			}
		}
	}
}

func TestAMinimalLengthIsTheDefault(t *testing.T) {
	for length, size := range map[int64]int{0: 2, 125: 2, 126: 4, 65535: 4, 65536: 10, 1 << 40: 10, -1: 10} {
		b := Header{Length: length}.Append(nil)
		assert.Len(t, b, size, "the header of %d bytes", length)
		h, _, ok := Parse(b)
		assert.True(t, ok && h.Length == length, "%d bytes parse as %d", length, h.Length)
	}
	h := Header{Length: 70000, Extended: 2}
	assert.Len(t, h.Append(nil), 10, "a length that 16 bits do not hold")
}

func TestMaskingFollowsTheKeyAtEveryLength(t *testing.T) {
	key := [4]byte{0x81, 0, 0xff, 0x88}
	for n := range 40 {
		payload := bytes.Repeat([]byte{0xa5}, n)
		want := slices.Clone(payload)
		for i := range want {
			want[i] ^= key[i%4]
		}
		Mask(payload, key)
		assert.Equal(t, want, payload, "%d bytes", n)
	}
}

// Any bytes that are parsed and appended again stay the same.
func FuzzAParsedHeaderRoundTrips(f *testing.F) {
	for _, test := range examples {
		f.Add([]byte(test.wire))
	}
	f.Add(bytes.Repeat([]byte{0xff}, MaxHeader))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, size, ok := Parse(b)
		require.LessOrEqual(t, size, MaxHeader)
		require.Equal(t, ok, len(b) >= size)
		if ok {
			require.Equal(t, b[:size], h.Append(nil))
		}
	})
}
