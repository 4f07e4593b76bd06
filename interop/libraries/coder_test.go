package libraries_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"sync/atomic"

	"example.com/wsproxy/internal/testkit"
	"github.com/coder/websocket"
)

// coder is github.com/coder/websocket.
type coder struct{}

func (coder) String() string    { return "coder" }
func (coder) hangsUp() bool     { return false }
func (coder) pingsWithin() bool { return true }

func (coder) sends(code int) bool {
	switch code {
	case noCode:
		return true
	case 1004, 1005, 1006, 1015:
		return false
	}
	return 1000 <= code && code < 1015 || 3000 <= code && code < 5000
}

func (l coder) refusal(code int) string {
	if l.sends(code) {
		return ""
	}
	return "invalid status code " + websocket.StatusCode(code).String()
}

func (coder) dial(url string, trust *tls.Config, o options, in *inbox) (conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
	defer cancel()
	c, res, err := websocket.Dial(ctx, url, &websocket.DialOptions{
		HTTPClient:           &http.Client{Transport: &http.Transport{TLSClientConfig: trust}},
		Subprotocols:         o.subprotocols,
		CompressionMode:      coderMode(o),
		CompressionThreshold: 1,
		OnPingReceived:       func(_ context.Context, payload []byte) bool { in.pinged(payload); return true },
		OnPongReceived:       func(_ context.Context, payload []byte) { in.ponged(payload) },
	})
	if err != nil {
		return nil, err
	}
	c.SetReadLimit(-1)
	return &coderConn{c: c, in: in, negotiated: res.Header.Get("Sec-WebSocket-Extensions"), reply: make(chan closing, 1)}, nil
}

func (coder) accept(w http.ResponseWriter, r *http.Request, o options, in *inbox) (conn, error) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols:         o.subprotocols,
		CompressionMode:      coderMode(o),
		CompressionThreshold: 1,
		OnPingReceived:       func(_ context.Context, payload []byte) bool { in.pinged(payload); return true },
		OnPongReceived:       func(_ context.Context, payload []byte) { in.ponged(payload) },
	})
	if err != nil {
		return nil, err
	}
	c.SetReadLimit(-1)
	return &coderConn{c: c, in: in, reply: make(chan closing, 1)}, nil
}

func coderMode(o options) websocket.CompressionMode {
	if o.deflate {
		return websocket.CompressionContextTakeover
	}
	return websocket.CompressionDisabled
}

type coderConn struct {
	c          *websocket.Conn
	in         *inbox
	negotiated string
	leaves     atomic.Bool
	reply      chan closing // the reply to the Close frame that close sends
}

func (c *coderConn) subprotocol() string { return c.c.Subprotocol() }
func (c *coderConn) extensions() string  { return c.negotiated }
func (c *coderConn) cut()                { c.c.CloseNow() }

func coderType(text bool) websocket.MessageType {
	if text {
		return websocket.MessageText
	}
	return websocket.MessageBinary
}

func (c *coderConn) send(m message) error {
	return c.c.Write(context.Background(), coderType(m.text), m.payload)
}

func (c *coderConn) sendInPieces(text bool, pieces [][]byte, between func()) error {
	w, err := c.c.Writer(context.Background(), coderType(text))
	if err != nil {
		return err
	}
	for i, piece := range pieces {
		if i > 0 {
			between()
		}
		if _, err := w.Write(piece); err != nil {
			return err
		}
	}
	return w.Close()
}

func (c *coderConn) ping() error {
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
	defer cancel()
	return c.c.Ping(ctx)
}

func (c *coderConn) close(code int, reason string) error {
	if code == noCode {
		code = int(websocket.StatusNoStatusRcvd)
	}
	c.leaves.Store(true)
	err := c.c.Close(websocket.StatusCode(code), reason)
	closed := websocket.CloseError{Code: websocket.StatusCode(code)}
	if err == nil || errors.As(err, &closed) { // the reply has another code
		c.reply <- closing{code: int(closed.Code)}
		return nil
	}
	c.reply <- closing{err: err}
	return err
}

func (c *coderConn) read() {
	defer c.cut()
	for {
		kind, payload, err := c.c.Read(context.Background())
		closed := websocket.CloseError{}
		switch {
		case err == nil:
			c.in.message(message{kind == websocket.MessageText, payload})
			continue
		case errors.As(err, &closed):
			c.in.closed <- closing{code: int(closed.Code), reason: closed.Reason}
		case c.leaves.Load():
			c.in.closed <- <-c.reply // close has read it instead
		default:
			c.in.closed <- closing{err: err}
		}
		return
	}
}
