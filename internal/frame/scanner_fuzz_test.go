package frame

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// fuzzStreams are the seeds: valid and malformed streams of either kind.
func fuzzStreams() [][]byte {
	var streams [][]byte
	for _, masked := range []bool{true, false} {
		f := func(first byte, payload string) []byte { return wire(first, masked, payload) }
		streams = append(streams,
			f(0x81, "hello"), f(0x82, strings.Repeat("\x88", 126)),
			slices.Concat(f(0x01, "a"), f(0x89, "ping"), f(0x00, ""), f(0x80, "b"), f(0x88, "\x03\xe8bye"), f(0x81, "late")),
			slices.Concat(f(0xc1, "compressed"), f(0x8a, ""), f(0x88, ""), f(0x88, "\x0f\xa0")),
			slices.Concat(f(0x01, "a"), f(0x81, "b")), f(0x80, "a"), f(0x8f, ""), f(0x09, "x"),
			wireWithLength(0x82, masked, 127, "long form"), wireWithLength(0x88, masked, 126, "\x03\xe8"))
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

// scanByTheBook applies RFC 6455, section 5.2, to a whole stream.
func scanByTheBook(b []byte, masked bool) (got seen) {
	at, fragmented := 0, false
	for {
		f := b[at:]
		if len(f) < 2 {
			break
		}
		header, length := 2, uint64(f[1]&0x7f)
		switch length {
		case 126:
			header = 4
		case 127:
			header = 10
		}
		if f[1]&0x80 != 0 {
			header += 4
		}
		if len(f) < header {
			break
		}
		short := length
		switch short {
		case 126:
			length = uint64(binary.BigEndian.Uint16(f[2:]))
		case 127:
			length = binary.BigEndian.Uint64(f[2:])
		}
		final, opcode := f[0]&0x80 != 0, f[0]&0x0f
		control := opcode >= 8
		if length>>63 != 0 || (f[1]&0x80 != 0) != masked || opcode > 10 || opcode > 2 && opcode < 8 ||
			control && (!final || short > 125) || !control && (opcode == 0) != fragmented {
			got.off = true
			return got
		}
		if uint64(len(f)-header) < length {
			break
		}
		payload := slices.Clone(f[header : header+int(length)])
		if masked {
			for i := range payload {
				payload[i] ^= f[header-4+i%4]
			}
		}
		at += header + int(length)
		got.boundaries = append(got.boundaries, at)
		switch {
		case !control && final:
			got.messages++
			fragmented = false
		case !control:
			fragmented = true
		case opcode == 8 && !got.closed:
			got.closed, got.code = true, 1005
			if length >= 2 {
				got.code = int(binary.BigEndian.Uint16(payload))
			}
		}
	}
	got.open = at < len(b)
	return got
}

func FuzzAnyChunkingScansAsOneChunk(f *testing.F) {
	for i, stream := range fuzzStreams() {
		f.Add(stream, i%2 == 0, []byte{1})
		f.Add(stream, i%2 == 1, []byte{3, 1, 0, 200})
	}
	f.Fuzz(func(t *testing.T, stream []byte, masked bool, sizes []byte) {
		whole := scanChunks(stream, masked, inOnePiece)
		require.Equal(t, whole, scanChunks(stream, masked, chunker(sizes)), "in chunks of % d", sizes)
		require.Equal(t, whole, scanStep(stream, masked, 1), "byte by byte")
		require.Equal(t, scanByTheBook(stream, masked), whole, "by the RFC")
	})
}
