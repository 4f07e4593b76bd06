// Package frame reads and writes WebSocket frames (RFC 6455, section 5). It has
// a codec for single frames, and a [Scanner] that tracks the frames of a stream.
// It does no I/O.
package frame

import (
	"encoding/binary"
)

// Opcodes (RFC 6455, section 5.2).
const (
	OpContinuation = 0x0
	OpText         = 0x1
	OpBinary       = 0x2
	OpClose        = 0x8
	OpPing         = 0x9
	OpPong         = 0xA
)

// Sizes in bytes.
const (
	MaxHeader  = 14  // maximum header, of a masked frame with a 64-bit length
	MaxControl = 125 // maximum payload of a control frame
)

// A Header is the header of a frame. It can hold every header that the wire
// format can express, well-formed or not.
type Header struct {
	Fin      bool // the last frame of a message
	RSV      byte // RSV1 (4), RSV2 (2) and RSV3 (1)
	Opcode   byte
	Masked   bool
	Key      [4]byte // the masking key, if Masked
	Length   int64   // of the payload; negative if the top bit of a 64-bit length is set
	Extended int     // bytes of the extended length: 0, 2 or 8; Append uses more if Length needs them
}

// Append appends the header to b.
func (h Header) Append(b []byte) []byte {
	first, mask := h.RSV&7<<4|h.Opcode&0x0f, byte(0)
	if h.Fin {
		first |= 0x80
	}
	if h.Masked {
		mask = 0x80
	}
	switch {
	case h.Extended > 2 || h.Length < 0 || h.Length > 0xffff:
		b = binary.BigEndian.AppendUint64(append(b, first, mask|127), uint64(h.Length))
	case h.Extended > 0 || h.Length > 125:
		b = binary.BigEndian.AppendUint16(append(b, first, mask|126), uint16(h.Length))
	default:
		b = append(b, first, mask|byte(h.Length))
	}
	if h.Masked {
		b = append(b, h.Key[:]...)
	}
	return b
}

// Parse parses the header at the start of b and returns its size. If b is too
// short, ok is false, and size is the number of bytes that Parse needs next: 2,
// and then the whole header.
func Parse(b []byte) (h Header, size int, ok bool) {
	if len(b) < 2 {
		return Header{}, 2, false
	}
	size = headerSize(b[1])
	if len(b) < size {
		return Header{}, size, false
	}
	h = Header{
		Fin:    b[0]&0x80 != 0,
		RSV:    b[0] >> 4 & 7,
		Opcode: b[0] & 0x0f,
		Masked: b[1]&0x80 != 0,
		Length: payloadLength(b),
	}
	switch b[1] & 0x7f {
	case 126:
		h.Extended = 2
	case 127:
		h.Extended = 8
	}
	if h.Masked {
		h.Key = [4]byte(b[size-4:])
	}
	return h, size, true
}

// headerSize returns the size of the header whose second byte is b.
func headerSize(b byte) int {
	size := 2
	switch b & 0x7f {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	if b&0x80 != 0 {
		size += 4
	}
	return size
}

// payloadLength returns the payload length in a complete header.
func payloadLength(header []byte) int64 {
	switch length := header[1] & 0x7f; length {
	case 126:
		return int64(binary.BigEndian.Uint16(header[2:]))
	case 127:
		return int64(binary.BigEndian.Uint64(header[2:]))
	default:
		return int64(length)
	}
}

// Append appends a frame to b: h with the length of payload, and then payload,
// masked with h.Key if h.Masked is set. It does not change payload.
func Append(b []byte, h Header, payload []byte) []byte {
	h.Length = int64(len(payload))
	b = append(h.Append(b), payload...)
	if h.Masked {
		Mask(b[len(b)-len(payload):], h.Key)
	}
	return b
}

// Mask masks or unmasks payload in place (RFC 6455, section 5.3).
func Mask(payload []byte, key [4]byte) {
	word := uint64(binary.LittleEndian.Uint32(key[:]))
	word |= word << 32
	for len(payload) >= 8 {
		binary.LittleEndian.PutUint64(payload, binary.LittleEndian.Uint64(payload)^word)
		payload = payload[8:]
	}
	for i := range payload {
		payload[i] ^= key[i&3]
	}
}
