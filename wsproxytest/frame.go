package wsproxytest

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"sync/atomic"
	"time"

	"example.com/wsproxy/internal/frame"
)

// A Side is an end of a tunnel.
type Side int

// The two ends of a tunnel.
const (
	Client Side = iota
	Server
)

// String returns "client" or "server".
func (s Side) String() string {
	if s == Client {
		return "client"
	}
	return "server"
}

// other returns the opposite end.
func (s Side) other() Side { return 1 - s }

// Opcodes of frames (RFC 6455, section 5.2).
const (
	OpContinuation byte = frame.OpContinuation
	OpText         byte = frame.OpText
	OpBinary       byte = frame.OpBinary
	OpClose        byte = frame.OpClose
	OpPing         byte = frame.OpPing
	OpPong         byte = frame.OpPong
)

// MaxFrame is the longest payload, in bytes, that a Handler is called for. A
// longer frame passes unseen, with all that follows it in its direction.
const MaxFrame = 64 << 20

// A Frame is a WebSocket frame. A Handler may change it and send it, any number
// of times. Frames that no end sent come from [Text], [Binary], [Ping], [Pong]
// and [Close], or are literals: Frame{Opcode: OpText, Payload: …} is the first
// fragment of a message, and Frame{Opcode: OpContinuation, Fin: true, …} its last.
type Frame struct {
	From    Side   // the end that sent it
	Opcode  byte   // of a continuation that an end sent, that of its message
	Fin     bool   // the last frame of its message
	Payload []byte // unmasked; the Handler's to change and to keep

	// Index counts the messages of the direction, from 1. All fragments of a
	// message have the same. A control frame has its number among those of its
	// opcode, so a condition on Index needs one on Opcode as well. Frames that
	// no end sent have 0.
	Index int

	// Time is when the frame's last byte came. Behind Latency, Throttle or Chaos
	// in a Chain, it is when the frame passed these.
	Time time.Time

	came *arrival // nil if no end sent it
}

// Text returns a text message of one frame.
func Text(s string) Frame { return Frame{Opcode: OpText, Fin: true, Payload: []byte(s)} }

// Binary returns a binary message of one frame.
func Binary(b []byte) Frame { return Frame{Opcode: OpBinary, Fin: true, Payload: b} }

// Ping returns a Ping frame.
func Ping(b []byte) Frame { return Frame{Opcode: OpPing, Fin: true, Payload: b} }

// Pong returns a Pong frame.
func Pong(b []byte) Frame { return Frame{Opcode: OpPong, Fin: true, Payload: b} }

// Close returns a Close frame. Code and reason are not checked: 1006 is a code
// that no end may send, and a reason of more than 123 bytes makes a control
// frame that is too long. Code 0 makes a frame without a code, and without the
// reason.
func Close(code int, reason string) Frame {
	f := Frame{Opcode: OpClose, Fin: true}
	if code != 0 {
		f.Payload = append(binary.BigEndian.AppendUint16(nil, uint16(code)), reason...)
	}
	return f
}

// Control reports whether f is a control frame: Close, Ping or Pong.
func (f Frame) Control() bool { return f.Opcode&8 != 0 }

// CloseCode returns the code of a Close frame: 1005 if it has none. It returns 0
// for other frames.
func (f Frame) CloseCode() int {
	if f.Opcode != OpClose {
		return 0
	}
	code, _ := frame.ParseClose(f.Payload)
	return code
}

// String describes the frame in one line, as a transcript does.
func (f Frame) String() string { return newRecord(f, 0).describe() }

// An arrival is what is known of a frame that an end sent.
type arrival struct {
	header frame.Header // as it came
	opcode byte         // of its message
	from   Side
	in     *parser // which read it
	part   int     // among the fragments of its message, from 1
	sum    uint32
	kept   Record      // without a fate
	sent   atomic.Bool // it went on, in whatever form
}

// record returns the record of the frame as it came.
func (a *arrival) record(fate Fate) Record {
	r := a.kept
	r.Fate = fate
	return r
}

// changed reports whether f is not as it came.
func (f *Frame) changed() bool {
	a := f.came
	return f.Opcode != a.opcode || f.Fin != a.header.Fin || int64(len(f.Payload)) != a.header.Length ||
		checksum(f.Payload) != a.sum
}

// encode appends the wire form of f toward an end. A frame that came from the
// other one keeps its form: the masking key, the reserved bits, and a length
// that is longer than need be.
func (f *Frame) encode(b []byte, to Side) []byte {
	h := frame.Header{Masked: to == Server}
	a := f.came
	if a != nil && a.from != to {
		h = a.header
	} else if h.Masked {
		h.Key = newKey()
	}
	h.Fin, h.Opcode = f.Fin, f.Opcode
	if a != nil && f.Opcode == a.opcode {
		h.Opcode = a.header.Opcode // a continuation stays one
	}
	return frame.Append(b, h, f.Payload)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

func opcodeName(opcode byte) string {
	switch opcode {
	case OpContinuation:
		return "continuation"
	case OpText:
		return "text"
	case OpBinary:
		return "binary"
	case OpClose:
		return "close"
	case OpPing:
		return "ping"
	case OpPong:
		return "pong"
	}
	return fmt.Sprintf("opcode %d", opcode)
}
