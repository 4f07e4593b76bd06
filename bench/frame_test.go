package main

import (
	"bytes"
	"testing"
)

func TestAClientFrameIsTheMaskedServerFrame(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 128, 65535, 65536, 1 << 20} {
		frame, want := clientFrame(n), serverFrame(n)
		h, ok := parseHeader(frame)
		if !ok || !h.masked || h.first != binaryFrame || h.length != n || h.size+n != len(frame) {
			t.Errorf("the header of %d bytes parses as %+v, %v", n, h, ok)
			continue
		}
		body := bytes.Clone(frame[h.size:])
		mask(body, h.key)
		if got := append(appendHeader(nil, h.first, n, nil), body...); !bytes.Equal(got, want) {
			t.Errorf("%d bytes unmasked are not the answer", n)
		}
		if h, ok := parseHeader(want); !ok || h.masked || h.length != n || h.size+n != len(want) {
			t.Errorf("the answer's header of %d bytes parses as %+v, %v", n, h, ok)
		}
	}
}

func TestAHeaderIsNotParsedBeforeAllOfItIsThere(t *testing.T) {
	for _, n := range []int{5, 500, 70000} {
		header := appendHeader(nil, binaryFrame, n, &maskKey)
		for cut := range header {
			if h, ok := parseHeader(header[:cut]); ok {
				t.Errorf("%d of %d bytes parse as %+v", cut, len(header), h)
			}
		}
	}
}
