package testkit

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"sync"
)

// A Tap is a connection that checks the frames that it receives against every
// rule of RFC 6455 that does not depend on the content of messages.
//
// If Whole is set, Read returns nothing of a message before all of it has
// arrived, and nothing of a message that a Close frame interrupts. nhooyr's
// library needs that: after an interrupted compressed message it uses a buffer
// that it has already returned to its pool.
type Tap struct {
	net.Conn
	Masked bool // the frames received must be masked
	Whole  bool // hand on whole messages only

	mu     sync.Mutex
	frames bool   // the handshake is over
	buf    []byte // the incomplete frame or handshake
	held   []byte // the incomplete message, if Whole
	out    []byte // what Read returns next
	within bool   // a message of several frames
	heard  Heard
}

// Heard is what a Tap has received.
type Heard struct {
	Messages int // whole ones
	Code     int // of the Close frame, 0 without one
	Reason   string
	Err      error // the first rule that was broken
}

// Heard returns what t has received so far.
func (t *Tap) Heard() Heard {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.heard
}

func (t *Tap) Read(b []byte) (int, error) {
	for {
		t.mu.Lock()
		n := copy(b, t.out)
		t.out = t.out[n:]
		t.mu.Unlock()
		if n > 0 || len(b) == 0 {
			return n, nil
		}
		n, err := t.Conn.Read(b)
		if err != nil {
			return 0, err
		}
		t.mu.Lock()
		t.scan(b[:n])
		t.mu.Unlock()
	}
}

func (t *Tap) scan(b []byte) {
	t.buf = append(t.buf, b...)
	if !t.frames {
		t.out = append(t.out, b...)
		_, rest, over := bytes.Cut(t.buf, []byte("\r\n\r\n"))
		if !over {
			return
		}
		t.frames, t.buf = true, rest
		if t.Whole {
			t.out = t.out[:len(t.out)-len(rest)]
		}
	} else if !t.Whole {
		t.out = append(t.out, b...)
	}
	for {
		length, ok := frameLength(t.buf)
		if !ok || len(t.buf) < length {
			return
		}
		f, _ := ReadFrame(bytes.NewReader(t.buf[:length]))
		if err := t.check(f); t.heard.Err == nil {
			t.heard.Err = err
		}
		if t.Whole {
			t.hold(f, t.buf[:length])
		}
		t.buf = t.buf[length:]
	}
}

// hold makes readable a control frame, or a message once it is complete.
func (t *Tap) hold(f Frame, frame []byte) {
	switch {
	case f.First&0x08 != 0:
		t.out = append(t.out, frame...)
	case f.First&0x80 != 0:
		t.out = append(append(t.out, t.held...), frame...)
		t.held = t.held[:0]
	default:
		t.held = append(t.held, frame...)
	}
}

func (t *Tap) check(f Frame) error {
	opcode, final := f.First&0x0f, f.First&0x80 != 0
	switch {
	case t.heard.Code != 0:
		return fmt.Errorf("a frame %#x after the Close frame", f.First)
	case f.Masked != t.Masked:
		return fmt.Errorf("a frame %#x masked %t", f.First, f.Masked)
	case f.First&0x30 != 0, f.First&0x40 != 0 && opcode != 1 && opcode != 2:
		return fmt.Errorf("a frame %#x with reserved bits", f.First)
	case opcode > 2 && opcode < 8, opcode > 10:
		return fmt.Errorf("a frame %#x of an unknown kind", f.First)
	case opcode >= 8 && (!final || len(f.Payload) > 125):
		return fmt.Errorf("a control frame %#x of %d bytes", f.First, len(f.Payload))
	case opcode < 8 && t.within != (opcode == 0):
		return fmt.Errorf("a frame %#x, within a message %t", f.First, t.within)
	case opcode == 8:
		t.heard.Code = 1005
		if len(f.Payload) >= 2 {
			t.heard.Code = int(binary.BigEndian.Uint16([]byte(f.Payload)))
			t.heard.Reason = strings.Clone(f.Payload[2:])
		}
	case opcode < 8:
		t.within = !final
		if final {
			t.heard.Messages++
		}
	}
	return nil
}
