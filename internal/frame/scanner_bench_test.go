package frame

import (
	"bytes"
	"fmt"
	"testing"
)

// The cost of scanning frames that arrive in pieces of a relay buffer's size.
func BenchmarkScanner(b *testing.B) {
	for _, size := range []int{16, 128, 4096} {
		for _, masked := range []bool{true, false} {
			b.Run(fmt.Sprintf("%d bytes, masked %t", size, masked), func(b *testing.B) {
				frame := wire(0x82, masked, string(make([]byte, size)))
				frames := 1 << 20 / len(frame)
				stream := bytes.Repeat(frame, frames)
				s := Scanner{Masked: masked}
				b.ReportAllocs()
				b.SetBytes(int64(len(stream)))
				n, messages := 0, int64(0)
				for b.Loop() {
					for rest := stream; len(rest) > 0; {
						chunk := rest[:min(len(rest), 32<<10)]
						messages += s.All(chunk)
						rest = rest[len(chunk):]
					}
					n++
				}
				if s.Off || messages != int64(n*frames) {
					b.Fatal("the scanner lost track")
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n*frames), "ns/frame")
			})
		}
	}
}
