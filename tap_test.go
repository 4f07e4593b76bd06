package wsproxy_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"sync"
)

// A tap is a connection that checks the frames it receives, by every rule of
// RFC 6455 that needs no knowledge of the messages.
//
// One that keeps messages whole hands on a message when all of it has come, and
// nothing of one that a Close frame interrupts: nhooyr's library does not stand
// that in a compressed message (it goes on using what it has given back).
type tap struct {
	net.Conn
	masked bool // what comes has to be
	whole  bool // keeps messages whole

	mu     sync.Mutex
	frames bool   // the handshake is over
	buf    []byte // of the frame at hand, or of the handshake
	held   []byte // of the message at hand
	out    []byte // to be read
	within bool   // a message of several frames
	heard  tapResult
}

// A tapResult is what a tap has received.
type tapResult struct {
	messages int // whole ones
	code     int // of the Close frame, 0: there was none
	reason   string
	err      error // the first rule that was broken
}

func (t *tap) result() tapResult {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.heard
}

func (t *tap) Read(b []byte) (int, error) {
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
		t.take(b[:n])
		t.mu.Unlock()
	}
}

func (t *tap) take(b []byte) {
	t.buf = append(t.buf, b...)
	if !t.frames {
		t.out = append(t.out, b...)
		_, rest, over := bytes.Cut(t.buf, []byte("\r\n\r\n"))
		if !over {
			return
		}
		t.frames, t.buf = true, rest
		if t.whole {
			t.out = t.out[:len(t.out)-len(rest)]
		}
	} else if !t.whole {
		t.out = append(t.out, b...)
	}
	for {
		length, ok := wireLength(t.buf)
		if !ok || len(t.buf) < length {
			return
		}
		f, _ := readWire(bytes.NewReader(t.buf[:length]))
		if err := t.check(f); t.heard.err == nil {
			t.heard.err = err
		}
		if t.whole {
			t.hold(f, t.buf[:length])
		}
		t.buf = t.buf[length:]
	}
}

// hold hands a frame on at its time.
func (t *tap) hold(f wireFrame, frame []byte) {
	switch {
	case f.first&0x08 != 0:
		t.out = append(t.out, frame...)
	case f.first&0x80 != 0:
		t.out = append(append(t.out, t.held...), frame...)
		t.held = t.held[:0]
	default:
		t.held = append(t.held, frame...)
	}
}

func (t *tap) check(f wireFrame) error {
	opcode, final := f.first&0x0f, f.first&0x80 != 0
	switch {
	case t.heard.code != 0:
		return fmt.Errorf("a frame %#x after the Close frame", f.first)
	case f.masked != t.masked:
		return fmt.Errorf("a frame %#x masked %t", f.first, f.masked)
	case f.first&0x30 != 0, f.first&0x40 != 0 && opcode != 1 && opcode != 2:
		return fmt.Errorf("a frame %#x with reserved bits", f.first)
	case opcode > 2 && opcode < 8, opcode > 10:
		return fmt.Errorf("a frame %#x of an unknown kind", f.first)
	case opcode >= 8 && (!final || len(f.payload) > 125):
		return fmt.Errorf("a control frame %#x of %d bytes", f.first, len(f.payload))
	case opcode < 8 && t.within != (opcode == 0):
		return fmt.Errorf("a frame %#x, within a message %t", f.first, t.within)
	case opcode == 8:
		t.heard.code = 1005
		if len(f.payload) >= 2 {
			t.heard.code = int(binary.BigEndian.Uint16([]byte(f.payload)))
			t.heard.reason = strings.Clone(f.payload[2:])
		}
	case opcode < 8:
		t.within = !final
		if final {
			t.heard.messages++
		}
	}
	return nil
}

// wireLength is how long the frame is whose first bytes b has.
func wireLength(b []byte) (length int, ok bool) {
	if len(b) < 2 {
		return 0, false
	}
	header, payload := 2, int(b[1]&0x7f)
	extended := map[int]int{126: 2, 127: 8}[payload]
	header += extended
	if b[1]&0x80 != 0 {
		header += 4
	}
	if len(b) < header {
		return 0, false
	}
	switch extended {
	case 2:
		payload = int(binary.BigEndian.Uint16(b[2:]))
	case 8:
		payload = int(binary.BigEndian.Uint64(b[2:]))
	}
	return header + payload, true
}
