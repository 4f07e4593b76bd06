//go:build !nogws

package libraries_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"

	"example.com/wsproxy/internal/testkit"
	"github.com/lxzan/gws"
)

// The tag nogws is for module proxies that do not have gws.
func init() { libraries = append(libraries, lxzan{}) }

// lxzan is github.com/lxzan/gws.
type lxzan struct{}

func (lxzan) String() string          { return "gws" }
func (lxzan) sends(code int) bool     { return code >= 1000 }
func (lxzan) refusal(code int) string { return "" } // it replies with 1002 and reports the code
func (lxzan) hangsUp() bool           { return true }
func (lxzan) pingsWithin() bool       { return false } // a lock is held for the whole message

const gwsLimit = 32 << 20

func gwsDeflate(o options) gws.PermessageDeflate {
	return gws.PermessageDeflate{
		Enabled:               o.deflate,
		PoolSize:              1,
		ServerContextTakeover: true,
		ClientContextTakeover: true,
		ServerMaxWindowBits:   15,
		ClientMaxWindowBits:   15,
	}
}

func (lxzan) dial(url string, trust *tls.Config, o options, in *inbox) (conn, error) {
	header := http.Header{}
	if len(o.subprotocols) > 0 {
		header.Set("Sec-WebSocket-Protocol", strings.Join(o.subprotocols, ", "))
	}
	h := newGWSHandler(in)
	socket, res, err := gws.NewClient(h, &gws.ClientOption{
		Addr:                url,
		TlsConfig:           trust.Clone(),
		RequestHeader:       header,
		PermessageDeflate:   gwsDeflate(o),
		HandshakeTimeout:    testkit.Patience,
		ReadMaxPayloadSize:  gwsLimit,
		WriteMaxPayloadSize: gwsLimit,
		CheckUtf8Enabled:    true,
	})
	if err != nil {
		return nil, err
	}
	return &gwsConn{socket, h, res.Header.Get("Sec-WebSocket-Extensions")}, nil
}

func (lxzan) accept(w http.ResponseWriter, r *http.Request, o options, in *inbox) (conn, error) {
	h := newGWSHandler(in)
	socket, err := gws.NewUpgrader(h, &gws.ServerOption{
		SubProtocols:        o.subprotocols,
		PermessageDeflate:   gwsDeflate(o),
		ReadMaxPayloadSize:  gwsLimit,
		WriteMaxPayloadSize: gwsLimit,
		CheckUtf8Enabled:    true,
	}).Upgrade(w, r)
	if err != nil {
		return nil, err
	}
	return &gwsConn{socket, h, ""}, nil
}

type gwsConn struct {
	c *gws.Conn
	gwsHandler
	negotiated string
}

func (c *gwsConn) subprotocol() string { return c.c.SubProtocol() }
func (c *gwsConn) extensions() string  { return c.negotiated }
func (c *gwsConn) cut()                { c.c.NetConn().Close() }

func gwsOpcode(text bool) gws.Opcode {
	if text {
		return gws.OpcodeText
	}
	return gws.OpcodeBinary
}

func (c *gwsConn) send(m message) error { return c.c.WriteMessage(gwsOpcode(m.text), m.payload) }

func (c *gwsConn) sendInPieces(text bool, pieces [][]byte, between func()) error {
	return c.c.WriteFile(gwsOpcode(text), &pieceReader{pieces: pieces, between: between})
}

// A pieceReader returns one piece with each Read.
type pieceReader struct {
	pieces  [][]byte
	between func()
	started bool
}

func (r *pieceReader) Read(p []byte) (n int, err error) {
	if len(r.pieces) == 0 {
		return 0, io.EOF
	}
	if r.started {
		r.between()
	}
	r.started = true
	n = copy(p, r.pieces[0])
	r.pieces[0] = r.pieces[0][n:]
	if len(r.pieces[0]) == 0 {
		r.pieces = r.pieces[1:]
	}
	return n, nil
}

func (c *gwsConn) ping() error {
	if err := c.c.WritePing([]byte("gws's")); err != nil {
		return err
	}
	return c.in.awaitPong("gws's")
}

func (c *gwsConn) close(code int, reason string) error {
	c.leaving.Lock()
	defer c.leaving.Unlock()
	return c.c.WriteClose(uint16(code), []byte(reason))
}

func (c *gwsConn) read() {
	defer c.cut()
	c.c.ReadLoop()
}

// A gwsHandler is what a gws.Conn calls.
type gwsHandler struct {
	in *inbox

	// leaving is held while a Close frame is written. After OnClose a server
	// frees its compression windows, even if WriteClose still uses them.
	leaving *sync.Mutex
}

func newGWSHandler(in *inbox) gwsHandler { return gwsHandler{in, new(sync.Mutex)} }

func (gwsHandler) OnOpen(*gws.Conn) {}

func (h gwsHandler) OnClose(_ *gws.Conn, err error) {
	h.leaving.Lock()
	defer h.leaving.Unlock()
	closed := (*gws.CloseError)(nil)
	switch {
	case !errors.As(err, &closed):
		h.in.closed <- closing{err: err}
	case closed.Code == 0: // reported for a frame without a code
		h.in.closed <- closing{code: 1005}
	default:
		h.in.closed <- closing{code: int(closed.Code), reason: string(closed.Reason)}
	}
}

func (h gwsHandler) OnPing(c *gws.Conn, payload []byte) {
	h.in.pinged(payload)
	c.WritePong(payload)
}

func (h gwsHandler) OnPong(_ *gws.Conn, payload []byte) { h.in.ponged(payload) }

func (h gwsHandler) OnMessage(_ *gws.Conn, m *gws.Message) {
	defer m.Close()
	h.in.message(message{m.Opcode == gws.OpcodeText, bytes.Clone(m.Bytes())})
}
