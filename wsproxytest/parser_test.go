package wsproxytest

import (
	"bytes"
	"io"
	"testing"

	"example.com/wsproxy/internal/memconn"
)

// parse returns the frames of a stream that arrives in pieces, the error at its
// end, and the bytes that would be forwarded.
func parse(stream []byte, from Side, piece int) (frames []string, passed []byte, end error) {
	near, far := memconn.Pipe(memconn.Size)
	go func() {
		for rest := stream; len(rest) > 0; {
			n := min(piece, len(rest))
			near.Write(rest[:n])
			rest = rest[n:]
		}
		near.Close()
	}()
	defer far.Close()
	p := newParser(far, from, nil)
	for {
		f, err := p.next()
		if err != nil {
			passed = append(passed, p.unread()...)
			if err == errMalformed {
				rest, _ := io.ReadAll(far)
				passed = append(passed, rest...)
			}
			return frames, passed, err
		}
		frames = append(frames, f.String())
		passed = f.encode(passed, from.other())
	}
}

// For any stream in any pieces, a nil Handler forwards the same bytes, and a
// Handler gets the same frames.
func FuzzAnyStreamPassesInAnyPieces(f *testing.F) {
	f.Add([]byte("\x81\x05hello\x01\x01a\x89\x00\x80\x01b\x88\x02\x03\xe8"), false, 3)
	f.Add([]byte("\x81\x85\x01\x02\x03\x04abcde\x82\xfe\x00\x02\x01\x02\x03\x04ab"), true, 1)
	f.Add([]byte("\x82\x7f\x00\x00\x00\x00\x00\x00\x00\x03abc\x82\x7e\x00"), false, 2)
	f.Add([]byte("\xc1\x01x\x83\x01x"), false, 100)
	f.Add(append([]byte("\x82\x7e\x20\x00"), bytes.Repeat([]byte("x"), 1<<13)...), false, 5000)
	f.Fuzz(func(t *testing.T, stream []byte, client bool, piece int) {
		from := Server
		if client {
			from = Client
		}
		piece = max(1, piece)
		frames, passed, end := parse(stream, from, piece)
		if !bytes.Equal(passed, stream) {
			t.Fatalf("%q passes as %q", stream, passed)
		}
		whole, _, wholeEnd := parse(stream, from, len(stream)+1)
		if end != wholeEnd || len(frames) != len(whole) {
			t.Fatalf("in pieces of %d: %q, %v; whole: %q, %v", piece, frames, end, whole, wholeEnd)
		}
		for i := range frames {
			if frames[i] != whole[i] {
				t.Fatalf("in pieces of %d frame %d is %s, whole it is %s", piece, i, frames[i], whole[i])
			}
		}
	})
}
