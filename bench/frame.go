package main

import "encoding/binary"

// The opcodes that the bench sends (RFC 6455, section 5.2), with FIN.
const (
	binaryFrame = 0x82
	closeFrame  = 0x88
)

// maxFrameHeader is the size of a masked frame's header with a 64-bit length.
const maxFrameHeader = 14

// maskKey is the one masking key of all frames: fixed, so that frames can be
// built beforehand.
var maskKey = [4]byte{0x37, 0xfa, 0x21, 0x3d}

// payload returns the n bytes that every message of that size consists of.
func payload(n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*31 + i>>8)
	}
	return p
}

// clientFrame returns the masked frame with the payload of n bytes.
func clientFrame(n int) []byte {
	p := payload(n)
	mask(p, maskKey)
	return append(appendHeader(nil, binaryFrame, n, &maskKey), p...)
}

// serverFrame returns what answers clientFrame(n).
func serverFrame(n int) []byte {
	return append(appendHeader(nil, binaryFrame, n, nil), payload(n)...)
}

// appendHeader appends a frame's header, masked where key is not nil.
func appendHeader(b []byte, first byte, n int, key *[4]byte) []byte {
	var bit byte
	if key != nil {
		bit = 0x80
	}
	switch {
	case n < 126:
		b = append(b, first, bit|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, first, bit|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, first, bit|127), uint64(n))
	}
	if key != nil {
		b = append(b, key[:]...)
	}
	return b
}

// A frameHeader is a parsed header: size bytes long, before length of payload.
type frameHeader struct {
	first        byte
	masked       bool
	key          [4]byte
	size, length int
}

// parseHeader reads the header that b starts with, if all of it is there.
func parseHeader(b []byte) (h frameHeader, ok bool) {
	if len(b) < 2 {
		return h, false
	}
	h = frameHeader{first: b[0], masked: b[1]&0x80 != 0, size: 2, length: int(b[1] & 0x7f)}
	switch h.length {
	case 126:
		h.size = 4
	case 127:
		h.size = 10
	}
	length := h.size
	if h.masked {
		h.size += 4
	}
	if len(b) < h.size {
		return h, false
	}
	switch length {
	case 4:
		h.length = int(binary.BigEndian.Uint16(b[2:]))
	case 10:
		h.length = int(binary.BigEndian.Uint64(b[2:]))
	}
	if h.masked {
		copy(h.key[:], b[length:])
	}
	return h, true
}

// mask masks or unmasks p in place.
func mask(p []byte, key [4]byte) {
	word := uint64(binary.LittleEndian.Uint32(key[:]))
	word |= word << 32
	for len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^word)
		p = p[8:]
	}
	for i := range p {
		p[i] ^= key[i&3]
	}
}
