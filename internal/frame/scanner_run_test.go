package frame

import (
	"math/rand/v2"
	"strings"
	"testing"
)

// The scanner compares each header with the one before, which is faster for runs
// of equal frames. The frames here differ from those before in every way, and
// byte for byte they are scanned without that.
func TestRunsOfEqualFramesAreScannedAsSingleBytesAre(t *testing.T) {
	for _, masked := range []bool{true, false} {
		random := rand.New(rand.NewPCG(1, 2))
		var stream strings.Builder
		for range 300 {
			first := []byte{0x81, 0x82, 0x89, 0x01}[random.IntN(4)] // the last begins a message of two frames
			f := wire(first, masked, strings.Repeat("x", []int{0, 1, 2, 125, 126, 127, 255, 256, 65535}[random.IntN(9)]%(1<<16)))
			if first == 0x89 {
				f = wire(first, masked, "ping")
			}
			for range 1 + random.IntN(5) {
				stream.Write(f)
				if first == 0x01 {
					stream.Write(wire(0x80, masked, "end"))
				}
			}
		}
		whole, single := Scanner{Masked: masked}, Scanner{Masked: masked}
		inOnePiece, byteForByte := whole.All([]byte(stream.String())), int64(0)
		for _, b := range []byte(stream.String()) {
			byteForByte += single.All([]byte{b})
		}
		if inOnePiece != byteForByte || whole.Off || !whole.Boundary() {
			t.Errorf("masked %t: %d messages in one piece, %d byte for byte; off %t, boundary %t",
				masked, inOnePiece, byteForByte, whole.Off, whole.Boundary())
		}
	}
}
