package wsproxy

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"unicode/utf8"
)

// Opcodes of frames (RFC 6455, section 5.2).
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

// Close codes that the proxy sends (RFC 6455, section 7.4.1), and the one that
// stands for a Close frame without a code.
const (
	codeGoingAway = 1001
	codeNoStatus  = 1005
	codeTooBig    = 1009
)

// pingPayload tells the proxy's pings from the peers' own.
const pingPayload = "wsproxy!"

// maxControl is the longest payload of a control frame.
const maxControl = 125

// A scanner follows the frames of one flow, whatever the pieces they come in.
// It only looks: a stream that is not well-formed frames ends the looking. Its
// fields fit a cache line.
type scanner struct {
	masked bool // frames have to be, as a client's do
	off    bool // not frames, or not any longer
	open   bool // within a message of several frames
	over   bool // the frame at hand takes its message over the limit
	closed bool // a Close frame has come
	final  bool
	opcode byte
	have   uint8    // bytes of the header that have come
	header [14]byte // of the frame at hand
	code   [2]byte  // of the Close frame that has come, as on the wire

	left     int64 // bytes of the frame's payload still to come
	size     int64 // of the message at hand
	limit    int64 // the most bytes of a message, 0: any number
	messages int64 // complete ones
}

// all scans the whole of p.
func (s *scanner) all(p []byte) {
	for len(p) > 0 && !s.off {
		if s.boundary() && !s.open {
			if p = p[s.whole(p):]; len(p) == 0 {
				return
			}
		}
		p = p[s.frame(p):]
	}
}

// whole scans the frames that are a whole message each, as nearly all are, as
// long as p has all of them and some bytes more, and returns how much that is.
// It leaves whatever is unusual to frame.
func (s *scanner) whole(p []byte) (n int) {
	header, mask := 2, byte(0)
	if s.masked {
		header, mask = 6, 0x80
	}
	for n+len(s.header) <= len(p) {
		opcode, length := p[n]&0x8f, int(p[n+1]^mask)
		size := header + length
		if length == 126 {
			size += 2 - 126 + int(binary.BigEndian.Uint16(p[n+2:]))
		}
		if opcode != 0x80|opText && opcode != 0x80|opBinary || length > 126 || size > len(p)-n {
			break
		}
		n += size
		s.messages++
	}
	return n
}

// frame scans to the end of the frame at hand, or of p if that is nearer, and
// returns how much of p that is.
func (s *scanner) frame(p []byte) (n int) {
	if s.left == 0 {
		n = s.scanHeader(p)
		if n == 0 || s.have > 0 || s.off {
			return n
		}
	}
	take := int(min(s.left, int64(len(p)-n)))
	if s.opcode == opClose && !s.closed {
		for i, at := n, s.payloadLength()-s.left; i < n+take && at < 2; i, at = i+1, at+1 {
			s.code[at] = p[i]
		}
	}
	s.left -= int64(take)
	if s.left == 0 {
		s.endFrame()
	}
	return n + take
}

// boundary reports whether a frame may begin with the next byte.
func (s *scanner) boundary() bool { return !s.off && s.have == 0 && s.left == 0 }

// scanHeader takes bytes of p until the header is complete; have is then 0
// again.
func (s *scanner) scanHeader(p []byte) (n int) {
	if s.have == 0 && len(p) >= len(s.header) { // nearly always
		s.header = [14]byte(p)
		s.startFrame()
		return s.headerLength()
	}
	for want := s.want(); int(s.have) < want; want = s.want() {
		took := copy(s.header[s.have:want], p[n:])
		if took == 0 {
			return n
		}
		n += took
		s.have += uint8(took)
	}
	s.have = 0
	s.startFrame()
	return n
}

// want is how many bytes of the header are needed to know more.
func (s *scanner) want() int {
	if s.have < 2 {
		return 2
	}
	return s.headerLength()
}

// headerLength is how long the first two bytes say that the header is.
func (s *scanner) headerLength() int {
	length := 2
	switch s.header[1] & 0x7f {
	case 126:
		length += 2
	case 127:
		length += 8
	}
	if s.header[1]&0x80 != 0 {
		length += 4
	}
	return length
}

func (s *scanner) payloadLength() int64 {
	switch length := s.header[1] & 0x7f; length {
	case 126:
		return int64(binary.BigEndian.Uint16(s.header[2:]))
	case 127:
		return int64(binary.BigEndian.Uint64(s.header[2:]))
	default:
		return int64(length)
	}
}

// startFrame takes up the frame whose header is complete, checking what tells
// frames from other bytes.
func (s *scanner) startFrame() {
	s.opcode, s.final = s.header[0]&0x0f, s.header[0]&0x80 != 0
	s.left = s.payloadLength()
	malformed := s.left < 0 || s.masked != (s.header[1]&0x80 != 0)
	switch s.opcode {
	case opText, opBinary:
		malformed = malformed || s.open
		s.size = 0
	case opContinuation:
		malformed = malformed || !s.open
	case opClose, opPing, opPong:
		malformed = malformed || !s.final || s.header[1]&0x7f > maxControl
	default: // no extension in use defines one
		malformed = true
	}
	if malformed {
		s.off = true
		return
	}
	if s.opcode < opClose {
		s.open = !s.final
		s.over = s.limit > 0 && s.left > s.limit-s.size
		s.size += min(s.left, 1<<62-s.size)
	}
}

func (s *scanner) endFrame() {
	switch {
	case s.opcode < opClose:
		if s.final {
			s.messages++
		}
	case s.opcode == opClose && !s.closed:
		s.closed = true
		if s.payloadLength() < 2 {
			binary.BigEndian.PutUint16(s.code[:], codeNoStatus)
		} else if s.masked {
			maskBytes(s.code[:], s.header[2:6])
		}
	}
}

// closeCode is the code of the Close frame that has come.
func (s *scanner) closeCode() int { return int(binary.BigEndian.Uint16(s.code[:])) }

// appendControl appends a control frame, with a fresh key where masked.
func appendControl(b []byte, opcode byte, payload []byte, masked bool) []byte {
	if !masked {
		return append(append(b, 0x80|opcode, byte(len(payload))), payload...)
	}
	var key [4]byte
	rand.Read(key[:]) // RFC 6455, section 10.3: not to be predicted; never fails
	b = append(append(b, 0x80|opcode, 0x80|byte(len(payload))), key[:]...)
	start := len(b)
	b = append(b, payload...)
	maskBytes(b[start:], key[:])
	return b
}

func maskBytes(b, key []byte) {
	for i := range b {
		b[i] ^= key[i&3]
	}
}

// closePayload is the payload of a Close frame, or what is wrong with it. The
// codes are those that RFC 6455, section 7.4, and IANA's registry after it let
// an endpoint send.
func closePayload(code int, reason string) ([]byte, error) {
	switch {
	case 1000 <= code && code <= 1003, 1007 <= code && code <= 1014, 3000 <= code && code <= 4999:
	default:
		return nil, fmt.Errorf("wsproxy: close code %d, want 1000 to 1003, 1007 to 1014 or 3000 to 4999", code)
	}
	if len(reason) > maxControl-2 || !utf8.ValidString(reason) {
		return nil, fmt.Errorf("wsproxy: close reason %s, want at most %d bytes of UTF-8", quote(reason), maxControl-2)
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(code)), reason...), nil
}
