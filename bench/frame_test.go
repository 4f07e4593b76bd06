package main

import (
	"bytes"
	"testing"

	"example.com/wsproxy/internal/frame"
)

func TestAClientFrameIsTheMaskedServerFrame(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 128, 65535, 65536, 1 << 20} {
		got := clientFrame(n)
		h, size, ok := frame.Parse(got)
		if !ok || !h.Masked || h.Length != int64(n) || size+n != len(got) {
			t.Errorf("the header of %d bytes parses as %+v, %v", n, h, ok)
			continue
		}
		frame.Mask(got[size:], h.Key)
		h.Masked = false
		if !bytes.Equal(append(h.Append(nil), got[size:]...), serverFrame(n)) {
			t.Errorf("%d bytes: unmasked, they are not the server's frame", n)
		}
	}
}
