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

// MaxFrame is the largest payload, in bytes, for which a Handler is called. A
// larger frame, and everything after it in its direction, is forwarded without a
// call.
const MaxFrame = 64 << 20

// A Frame is a WebSocket frame. A Handler may change it and send it any number of
// times. [Text], [Binary], [Ping], [Pong] and [Close] make other frames, and so
// does a literal: Frame{Opcode: OpText, Payload: …} is the first fragment of a
// message, and Frame{Opcode: OpContinuation, Fin: true, …} the last.
type Frame struct {
	From    Side   // the end that sent it
	Opcode  byte   // in a continuation that an end sent, the opcode of its message
	Fin     bool   // the last frame of its message
	Payload []byte // unmasked; the Handler may change and keep it

	// Index is the number of the message in its direction, counted from 1. All
	// fragments of a message have the same Index. Control frames are counted
	// separately for each opcode, so a condition on Index needs a condition on
	// Opcode as well. Frames that neither end sent have Index 0.
	Index int

	// Time is when the frame's last byte arrived. For a Handler behind Latency,
	// Throttle or Chaos in a Chain, it is when they sent the frame.
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

// Close returns a Close frame. It does not check code and reason, so it can make
// frames that no end may send, such as one with code 1006 or with a reason of
// more than 123 bytes. If code is 0, the frame has neither code nor reason.
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

// An arrival describes a frame that an end sent, as it arrived.
type arrival struct {
	header frame.Header // as it arrived
	opcode byte         // of its message
	from   Side
	in     *parser // which read it
	part   int     // among the fragments of its message, from 1
	sum    uint32
	kept   Record      // without a fate
	sent   atomic.Bool // it was sent, changed or not
}

// record returns the record of the frame as it arrived.
func (a *arrival) record(fate Fate) Record {
	r := a.kept
	r.Fate = fate
	return r
}

// changed reports whether f differs from the frame that arrived.
func (f *Frame) changed() bool {
	a := f.came
	return f.Opcode != a.opcode || f.Fin != a.header.Fin || int64(len(f.Payload)) != a.header.Length ||
		checksum(f.Payload) != a.sum
}

// encode appends the wire form of f toward an end. A frame from the other end
// keeps its masking key, its reserved bits, and the size of its length field, even
// if that is larger than necessary.
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
