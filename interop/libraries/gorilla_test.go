package libraries_test

import (
	"crypto/tls"
	"errors"
	"net/http"
	"strconv"
	"time"

	"example.com/wsproxy/internal/testkit"
	"github.com/gorilla/websocket"
)

// gorilla is github.com/gorilla/websocket.
type gorilla struct{}

func (gorilla) String() string    { return "gorilla" }
func (gorilla) hangsUp() bool     { return false }
func (gorilla) pingsWithin() bool { return true }

func (gorilla) sends(code int) bool {
	return code != websocket.CloseNoStatusReceived // it means noCode
}

func (gorilla) refusal(code int) string {
	switch code {
	case noCode:
		return ""
	case 1004, 1005, 1006, 1014, 1015:
		return "bad close code " + strconv.Itoa(code)
	}
	if 1000 <= code && code < 1014 || 3000 <= code && code < 5000 {
		return ""
	}
	return "bad close code " + strconv.Itoa(code)
}

func (gorilla) dial(url string, trust *tls.Config, o options, in *inbox) (conn, error) {
	d := websocket.Dialer{
		TLSClientConfig:   trust,
		Subprotocols:      o.subprotocols,
		EnableCompression: o.deflate,
		HandshakeTimeout:  testkit.Patience,
	}
	c, res, err := d.Dial(url, nil)
	if err != nil {
		return nil, err
	}
	return newGorillaConn(c, in, res.Header.Get("Sec-WebSocket-Extensions")), nil
}

func (gorilla) accept(w http.ResponseWriter, r *http.Request, o options, in *inbox) (conn, error) {
	u := websocket.Upgrader{Subprotocols: o.subprotocols, EnableCompression: o.deflate}
	c, err := u.Upgrade(w, r, nil)
	if err != nil {
		return nil, err
	}
	return newGorillaConn(c, in, ""), nil
}

type gorillaConn struct {
	c          *websocket.Conn
	in         *inbox
	negotiated string
}

func newGorillaConn(c *websocket.Conn, in *inbox, negotiated string) *gorillaConn {
	reply := c.PingHandler()
	c.SetPingHandler(func(payload string) error {
		in.pinged([]byte(payload))
		return reply(payload)
	})
	c.SetPongHandler(func(payload string) error {
		in.ponged([]byte(payload))
		return nil
	})
	return &gorillaConn{c, in, negotiated}
}

func (c *gorillaConn) subprotocol() string { return c.c.Subprotocol() }
func (c *gorillaConn) extensions() string  { return c.negotiated }
func (c *gorillaConn) cut()                { c.c.Close() }

func gorillaType(text bool) int {
	if text {
		return websocket.TextMessage
	}
	return websocket.BinaryMessage
}

func (c *gorillaConn) send(m message) error {
	return c.c.WriteMessage(gorillaType(m.text), m.payload)
}

// sendInPieces makes a fragment of each 4 KiB or so, whatever the pieces.
func (c *gorillaConn) sendInPieces(text bool, pieces [][]byte, between func()) error {
	w, err := c.c.NextWriter(gorillaType(text))
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

func (c *gorillaConn) control(kind int, payload []byte) error {
	return c.c.WriteControl(kind, payload, time.Now().Add(testkit.Patience))
}

func (c *gorillaConn) ping() error {
	if err := c.control(websocket.PingMessage, []byte("gorilla's")); err != nil {
		return err
	}
	return c.in.awaitPong("gorilla's")
}

func (c *gorillaConn) close(code int, reason string) error {
	if code == noCode {
		code = websocket.CloseNoStatusReceived
	}
	return c.control(websocket.CloseMessage, websocket.FormatCloseMessage(code, reason))
}

func (c *gorillaConn) read() {
	defer c.cut()
	for {
		kind, payload, err := c.c.ReadMessage()
		if closed := (*websocket.CloseError)(nil); errors.As(err, &closed) && closed.Code != websocket.CloseAbnormalClosure {
			c.in.closed <- closing{code: closed.Code, reason: closed.Text}
			return
		}
		if err != nil {
			c.in.closed <- closing{err: err}
			return
		}
		c.in.message(message{kind == websocket.TextMessage, payload})
	}
}
