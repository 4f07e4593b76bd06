package wsproxytest

import (
	"errors"
	"slices"
	"time"

	"example.com/wsproxy/internal/frame"
	"example.com/wsproxy/internal/memconn"
)

// errMalformed means that the following bytes are not a well-formed frame.
var errMalformed = errors.New("wsproxytest: malformed frame")

// A parser reads the frames of one direction.
type parser struct {
	src  *memconn.Conn
	from Side
	buf  []byte
	r, w int       // buf[r:w] is unread
	at   time.Time // when the bytes read last arrived
	left []byte    // the beginning of a frame that did not arrive whole

	opcode byte // of the current message, or 0
	part   int  // its fragments so far
	counts [16]int
}

func newParser(src *memconn.Conn, from Side, early []byte) *parser {
	p := &parser{src: src, from: from, buf: make([]byte, max(4096, len(early))), at: time.Now()}
	p.w = copy(p.buf, early)
	return p
}

// unread returns the bytes that were read but belong to no returned frame.
func (p *parser) unread() []byte { return append(p.left, p.buf[p.r:p.w]...) }

func (p *parser) fill() error {
	if p.r == p.w {
		p.r, p.w = 0, 0
	} else if p.w == len(p.buf) {
		if p.r == 0 {
			p.buf = slices.Grow(p.buf, len(p.buf))
			p.buf = p.buf[:cap(p.buf)]
		} else {
			p.r, p.w = 0, copy(p.buf, p.buf[p.r:p.w])
		}
	}
	n, at, err := p.src.ReadStamped(p.buf[p.w:])
	if n > 0 {
		p.w, p.at = p.w+n, at
		return nil
	}
	return err
}

// next returns the next frame when all of it has arrived.
func (p *parser) next() (Frame, error) {
	h, size, ok := frame.Parse(p.buf[p.r:p.w])
	for !ok {
		if err := p.fill(); err != nil {
			return Frame{}, err
		}
		h, size, ok = frame.Parse(p.buf[p.r:p.w])
	}
	if !p.wellFormed(h) {
		return Frame{}, errMalformed
	}
	header := p.buf[p.r : p.r+size]
	p.r += size
	payload, err := p.payload(int(h.Length), header)
	if err != nil {
		return Frame{}, err
	}
	if h.Masked {
		frame.Mask(payload, h.Key)
	}
	a := &arrival{header: h, opcode: h.Opcode, from: p.from, in: p, part: 1, sum: checksum(payload)}
	f := Frame{From: p.from, Fin: h.Fin, Payload: payload, Time: p.at, came: a}
	switch {
	case h.Opcode >= 8:
		p.counts[h.Opcode]++
		f.Index = p.counts[h.Opcode]
	default:
		if h.Opcode != frame.OpContinuation {
			p.opcode, p.part = h.Opcode, 0
			p.counts[0]++
		}
		p.part++
		a.opcode, a.part = p.opcode, p.part
		f.Index = p.counts[0]
		if h.Fin {
			p.opcode = 0
		}
	}
	f.Opcode = a.opcode
	a.kept = newRecord(f, 0)
	return f, nil
}

// payload reads n bytes. Its memory grows with the bytes that arrive, not with
// the length that the header claims.
func (p *parser) payload(n int, header []byte) ([]byte, error) {
	b := make([]byte, 0, min(n, memconn.Size))
	if n > p.w-p.r {
		p.left = append(p.left, header...)
	}
	for {
		some := min(n-len(b), p.w-p.r)
		b = append(b, p.buf[p.r:p.r+some]...)
		p.r += some
		if len(b) == n {
			p.left = p.left[:0]
			return b, nil
		}
		b = slices.Grow(b, 1)
		got, at, err := p.src.ReadStamped(b[len(b):min(cap(b), n)])
		if got > 0 {
			b, p.at = b[:len(b)+got], at
		} else if err != nil {
			p.left = append(p.left, b...)
			return nil, err
		}
	}
}

// wellFormed reports whether the next frame may have header h.
func (p *parser) wellFormed(h frame.Header) bool {
	if h.Masked != (p.from == Client) || h.Length < 0 || h.Length > MaxFrame {
		return false
	}
	switch h.Opcode {
	case frame.OpContinuation:
		return p.opcode != 0
	case frame.OpText, frame.OpBinary:
		return p.opcode == 0
	case frame.OpClose, frame.OpPing, frame.OpPong:
		return h.Fin && h.Extended == 0 && h.Length <= frame.MaxControl
	}
	return false
}
