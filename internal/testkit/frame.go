package testkit

import (
	"encoding/binary"
	"fmt"
	"io"

	"example.com/wsproxy/internal/frame"
)

// First bytes of frames.
const (
	Continuation     = 0x80
	Text             = 0x81
	Binary           = 0x82
	TextPart         = 0x01 // more frames follow
	ContinuationPart = 0x00
	Close            = 0x88
	Ping             = 0x89
	Pong             = 0x8A
)

// A Frame is a whole WebSocket frame.
type Frame struct {
	First   byte // FIN, reserved bits and opcode
	Masked  bool
	Payload string // unmasked
}

// String returns the frame's bytes on the wire.
func (f Frame) String() string {
	return string(frame.Append(nil, frame.Header{
		Fin:    f.First&0x80 != 0,
		RSV:    f.First >> 4 & 7,
		Opcode: f.First & 0x0f,
		Masked: f.Masked,
		Key:    [4]byte{0x81, 0x00, 0xff, 0x8a},
	}, []byte(f.Payload)))
}

// ReadFrame reads the next frame.
func ReadFrame(r io.Reader) (Frame, error) {
	var b [frame.MaxHeader]byte
	h, size, ok := frame.Parse(nil)
	for have := 0; !ok; h, size, ok = frame.Parse(b[:have]) {
		n, err := io.ReadFull(r, b[have:size])
		if have += n; err != nil && have > 0 {
			return Frame{}, fmt.Errorf("in a frame's header: %w", err)
		} else if err != nil {
			return Frame{}, err
		}
	}
	payload := make([]byte, h.Length)
	if _, err := io.ReadFull(r, payload); err != nil {
		return Frame{}, fmt.Errorf("in a frame's payload: %w", err)
	}
	if h.Masked {
		frame.Mask(payload, h.Key)
	}
	return Frame{b[0], h.Masked, string(payload)}, nil
}

// ClosePayload returns the payload of a Close frame.
func ClosePayload(code int, reason string) string {
	return string(binary.BigEndian.AppendUint16(nil, uint16(code))) + reason
}

// frameLength returns the length of the frame at the start of b, if b has its
// whole header.
func frameLength(b []byte) (length int, ok bool) {
	h, size, ok := frame.Parse(b)
	return size + int(h.Length), ok
}
