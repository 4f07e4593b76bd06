package libraries_test

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"

	"example.com/wsproxy/internal/testkit"
	"github.com/gobwas/httphead"
	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsflate"
	"github.com/gobwas/ws/wsutil"
)

// gobwas is github.com/gobwas/ws. Its user writes the frames, so it can send
// frames that no other library sends, and it reports the exact content of every
// Close frame.
type gobwas struct{}

func (gobwas) String() string          { return "gobwas" }
func (gobwas) sends(code int) bool     { return true }
func (gobwas) refusal(code int) string { return "" }
func (gobwas) hangsUp() bool           { return false }
func (gobwas) pingsWithin() bool       { return true }

var gobwasFlate = wsflate.Helper{
	Compressor: func(w io.Writer) wsflate.Compressor {
		f, _ := flate.NewWriter(w, flate.BestSpeed)
		return f
	},
	Decompressor: func(r io.Reader) wsflate.Decompressor { return flate.NewReader(r) },
}

func (gobwas) dial(url string, trust *tls.Config, o options, in *inbox) (conn, error) {
	d := ws.Dialer{Protocols: o.subprotocols, TLSConfig: trust, Timeout: testkit.Patience}
	if o.deflate {
		d.Extensions = []httphead.Option{wsflate.DefaultParameters.Option()}
	}
	c, br, agreed, err := d.Dial(context.Background(), url)
	if err != nil {
		return nil, err
	}
	if br == nil {
		br = bufio.NewReader(c)
	}
	return &gobwasConn{Conn: c, br: br, state: ws.StateClientSide, in: in, agreed: agreed}, nil
}

func (gobwas) accept(w http.ResponseWriter, r *http.Request, o options, in *inbox) (conn, error) {
	u := ws.HTTPUpgrader{}
	if len(o.subprotocols) > 0 {
		u.Protocol = func(offered string) bool { return o.choose(r.Header) == offered }
	}
	if o.deflate {
		u.Negotiate = (&wsflate.Extension{Parameters: wsflate.DefaultParameters}).Negotiate
	}
	c, brw, agreed, err := u.Upgrade(r, w)
	if err != nil {
		return nil, err
	}
	return &gobwasConn{Conn: c, br: brw.Reader, state: ws.StateServerSide, in: in, agreed: agreed}, nil
}

type gobwasConn struct {
	net.Conn
	br     *bufio.Reader
	state  ws.State
	in     *inbox
	agreed ws.Handshake

	mu     sync.Mutex
	leaves bool // has sent a Close frame
}

func (c *gobwasConn) subprotocol() string { return c.agreed.Protocol }
func (c *gobwasConn) deflates() bool      { return len(c.agreed.Extensions) > 0 }
func (c *gobwasConn) cut()                { c.Conn.Close() }

func (c *gobwasConn) extensions() string {
	var b bytes.Buffer
	httphead.WriteOptions(&b, c.agreed.Extensions)
	return b.String()
}

// Write keeps frames whole if two goroutines write.
func (c *gobwasConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.Conn.Write(p)
}

func (c *gobwasConn) frame(f ws.Frame) error {
	if c.state.ClientSide() {
		f = ws.MaskFrame(f)
	}
	wire, err := ws.CompileFrame(f)
	if err == nil {
		_, err = c.Write(wire)
	}
	return err
}

func gobwasOpcode(text bool) ws.OpCode {
	if text {
		return ws.OpText
	}
	return ws.OpBinary
}

func (c *gobwasConn) send(m message) error {
	f := ws.NewFrame(gobwasOpcode(m.text), true, m.payload)
	if c.deflates() {
		var err error
		if f, err = gobwasFlate.CompressFrame(f); err != nil {
			return err
		}
	}
	return c.frame(f)
}

func (c *gobwasConn) sendInPieces(text bool, pieces [][]byte, between func()) error {
	n := len(pieces)
	f := ws.NewFrame(gobwasOpcode(text), true, bytes.Join(pieces, nil))
	if c.deflates() {
		var err error
		if f, err = gobwasFlate.CompressFrame(f); err != nil {
			return err
		}
	}
	rest := f.Payload
	for i := range n {
		if i > 0 {
			between()
			f.Header = ws.Header{OpCode: ws.OpContinuation}
		}
		f.Header.Fin = i == n-1
		f.Payload = rest[:len(rest)/(n-i)]
		f.Header.Length = int64(len(f.Payload))
		rest = rest[len(f.Payload):]
		if err := c.frame(f); err != nil {
			return err
		}
	}
	return nil
}

func (c *gobwasConn) ping() error {
	if err := c.frame(ws.NewPingFrame([]byte("gobwas's"))); err != nil {
		return err
	}
	return c.in.awaitPong("gobwas's")
}

func (c *gobwasConn) close(code int, reason string) error {
	var body []byte
	if code != noCode {
		body = ws.NewCloseFrameBody(ws.StatusCode(code), reason)
	}
	c.mu.Lock()
	c.leaves = true
	c.mu.Unlock()
	return c.frame(ws.NewCloseFrame(body))
}

func (c *gobwasConn) read() {
	defer c.cut()
	var compressed wsflate.MessageState
	r := wsutil.Reader{Source: c.br, State: c.state, CheckUTF8: !c.deflates()}
	if c.deflates() {
		r.State = r.State.Set(ws.StateExtended)
		r.Extensions = []wsutil.RecvExtension{&compressed}
	}
	r.OnIntermediate = c.control
	for {
		h, err := r.NextFrame()
		if err == nil && h.OpCode.IsControl() {
			if err = c.control(h, &r); err == nil {
				continue
			}
		}
		var payload []byte
		if err == nil {
			payload, err = io.ReadAll(&r)
		}
		if err == nil && compressed.IsCompressed() {
			payload, err = gobwasFlate.Decompress(payload)
		}
		if closed, ok := err.(gobwasClosed); ok {
			c.in.closed <- closing(closed)
			return
		}
		if err != nil {
			c.in.closed <- closing{err: err}
			return
		}
		c.in.message(message{h.OpCode == ws.OpText, payload})
	}
}

// gobwasClosed is the error of a connection that received a Close frame.
type gobwasClosed closing

func (c gobwasClosed) Error() string { return fmt.Sprintf("closed with %d", c.code) }

// control records a control frame and makes the library reply to it.
func (c *gobwasConn) control(h ws.Header, r io.Reader) error {
	payload, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	closed := gobwasClosed{code: 1005}
	c.mu.Lock()
	leaves := c.leaves
	c.mu.Unlock()
	switch h.OpCode {
	case ws.OpPing:
		c.in.pinged(payload)
	case ws.OpPong:
		c.in.ponged(payload)
	case ws.OpClose:
		var wrong error
		if len(payload) > 0 {
			code, reason := ws.ParseCloseFrameData(payload)
			closed = gobwasClosed{code: int(code), reason: reason}
			wrong = ws.CheckCloseFrameData(code, reason)
		}
		switch {
		case leaves:
			return closed
		case wrong != nil:
			// As a client, ControlHandler would mask the payload of this reply
			// without setting the mask bit in its header.
			c.frame(ws.NewCloseFrame(ws.NewCloseFrameBody(ws.StatusProtocolError, wrong.Error())))
			return closed
		}
	}
	err = wsutil.ControlHandler{Src: bytes.NewReader(payload), Dst: c, State: c.state, DisableSrcCiphering: true}.Handle(h)
	if h.OpCode == ws.OpClose {
		return closed
	}
	return err
}
