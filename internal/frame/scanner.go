package frame

import (
	"encoding/binary"
	"math"
)

// A Scanner tracks the frames of one direction of a connection, in pieces of any
// size. It only reads, and it allocates only for a Close frame. If the stream is
// not a sequence of well-formed frames, the Scanner sets Off and stops. Masked,
// Strict and Off may be set before the first byte.
type Scanner struct {
	Masked bool // frames must be masked, as those of a client are
	Strict bool // lengths must be encoded in the fewest bytes
	Off    bool // frames are not tracked
	open   bool // within a message of several frames
	closed bool // a complete Close frame was scanned
	final  bool
	opcode byte
	have   uint8    // scanned bytes of the current, incomplete header
	header [14]byte // of the current frame
	bye    *payload // of the first Close frame; nil: none has come, or it is empty

	left int64  // remaining payload bytes of the current frame
	size uint64 // of the current message, up to the end of the current frame
}

// Closed reports whether a complete Close frame was scanned.
func (s *Scanner) Closed() bool { return s.closed }

// Close returns the code and the reason of the first Close frame, after Closed
// has returned true. The code is [CodeNoStatus] for a frame without one.
func (s *Scanner) Close() (code int, reason string) { return ParseClose(s.closePayload()) }

func (s *Scanner) closePayload() []byte {
	if s.bye == nil {
		return nil
	}
	return s.bye.bytes[:s.bye.n]
}

// A payload is the payload of a control frame.
type payload struct {
	n     uint8
	bytes [MaxControl]byte
}

// Size returns the payload bytes of the current text or binary message up to the
// end of the current frame, or those of the last message if none has begun since.
// Only Frame counts them.
func (s *Scanner) Size() uint64 { return s.size }

// Partial returns the number of scanned bytes of an incomplete header, or 0 if
// the last header is complete.
func (s *Scanner) Partial() int { return int(s.have) }

// Header returns the first n bytes of the last header. At least n bytes of it
// must have been scanned. The result is valid until the next call of All or
// Frame.
func (s *Scanner) Header(n int) []byte { return s.header[:n] }

// Boundary reports whether the next byte may begin a frame.
func (s *Scanner) Boundary() bool { return !s.Off && s.have == 0 && s.left == 0 }

// Whole reports whether the last call of Frame ended a message, a control frame,
// or a fragment without payload, which no limit of size would ever stop.
func (s *Scanner) Whole() bool {
	return s.Boundary() && (s.final || payloadLength(s.header[:]) == 0)
}

// Message reports whether the last call of Frame ended a text or binary message.
func (s *Scanner) Message() bool { return s.Boundary() && s.final && s.opcode < OpClose }

// All scans all of p, and returns how many text and binary messages ended in it.
func (s *Scanner) All(p []byte) (messages int64) {
	for len(p) > 0 && !s.Off {
		if s.Boundary() && !s.open {
			n, whole := s.whole(p)
			messages += whole
			if p = p[n:]; len(p) == 0 {
				return messages
			}
		}
		p = p[s.Frame(p):]
		if s.Message() {
			messages++
		}
	}
	return messages
}

// whole is the fast path for messages of a single frame of at most 65,535 bytes.
// It scans such frames as long as p has the whole frame and enough bytes for any
// header. It returns the number of bytes scanned, and leaves the rest to Frame.
func (s *Scanner) whole(p []byte) (n int, messages int64) {
	header, mask := 2, byte(0)
	if s.Masked {
		header, mask = 6, 0x80
	}
	for n+len(s.header) <= len(p) {
		opcode, length := p[n]&0x8f, int(p[n+1]^mask)
		size, bits := header+length, uint32(0xffff) // of the header's first bytes
		if length == 126 {
			size += 2 - 126 + int(binary.BigEndian.Uint16(p[n+2:]))
			bits = 0xffffffff
		}
		if opcode != 0x80|OpText && opcode != 0x80|OpBinary || length > 126 || size > len(p)-n {
			break
		}
		start := binary.LittleEndian.Uint32(p[n:])
		n += size
		messages++
		// Frames of one size often follow each other. The position of the next header
		// then does not depend on this header's content, so the processor loads several
		// headers at once. It loads more of them if there are fewer instructions for
		// each. Most of a frame's time is the wait for its header in memory.
		differs := func(n int) uint32 { return (binary.LittleEndian.Uint32(p[n:]) ^ start) & bits }
		room := max(size, 4)
		for n+room <= len(p) && differs(n) == 0 {
			n += size
			messages++
			for n+4*room <= len(p) && differs(n)|differs(n+size)|differs(n+2*size)|differs(n+3*size) == 0 {
				n += 4 * size
				messages += 4
			}
		}
	}
	return n, messages
}

// Frame scans to the end of the current frame or of p, whichever comes first,
// and returns the number of bytes scanned. p must not be empty.
func (s *Scanner) Frame(p []byte) (n int) {
	if s.left == 0 {
		n = s.scanHeader(p)
		if n == 0 || s.have > 0 || s.Off {
			return n
		}
	}
	take := int(min(s.left, int64(len(p)-n)))
	if s.opcode == OpClose && !s.closed {
		if take > 0 {
			if s.bye == nil {
				s.bye = new(payload)
			}
			s.bye.n += uint8(copy(s.bye.bytes[s.bye.n:], p[n:n+take]))
		}
	}
	s.left -= int64(take)
	if s.left == 0 {
		s.endFrame()
	}
	return n + take
}

// scanHeader scans bytes of p until the header is complete. It then sets have
// to 0.
func (s *Scanner) scanHeader(p []byte) (n int) {
	if s.have == 0 && len(p) >= len(s.header) { // the most common case
		s.header = [14]byte(p)
		s.startFrame()
		return headerSize(s.header[1])
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

// want returns the number of header bytes needed next: 2, and then the whole
// header.
func (s *Scanner) want() int {
	if s.have < 2 {
		return 2
	}
	return headerSize(s.header[1])
}

// startFrame starts the frame of the complete header, and sets Off if the
// header is malformed.
func (s *Scanner) startFrame() {
	s.opcode, s.final = s.header[0]&0x0f, s.header[0]&0x80 != 0
	s.left = payloadLength(s.header[:])
	malformed := s.left < 0 || s.Masked != (s.header[1]&0x80 != 0)
	switch s.opcode {
	case OpText, OpBinary:
		malformed = malformed || s.open
		s.size = 0
	case OpContinuation:
		malformed = malformed || !s.open
	case OpClose, OpPing, OpPong:
		malformed = malformed || !s.final || s.header[1]&0x7f > MaxControl
	default: // no extension in use defines other opcodes
		malformed = true
	}
	if s.Strict && !malformed { // RFC 6455, section 5.2: "the minimal number of bytes MUST be used"
		length := s.header[1] & 0x7f
		malformed = length == 126 && s.left < 126 || length == 127 && s.left <= 0xffff
	}
	if malformed {
		s.Off = true
		return
	}
	if s.opcode < OpClose {
		s.open = !s.final
		s.size += min(uint64(s.left), math.MaxUint64-s.size)
	}
}

func (s *Scanner) endFrame() {
	if s.opcode == OpClose && !s.closed {
		s.closed = true
		if s.Masked {
			Mask(s.closePayload(), [4]byte(s.header[2:6]))
		}
	}
}
