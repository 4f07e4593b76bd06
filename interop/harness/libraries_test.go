//lint:file-ignore SA1019 nhooyr.io/websocket is deprecated as a whole in favour of github.com/coder/websocket; it stays as one more implementation to be tested with.

package harness_test

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"net"
	"net/http"
	"time"

	"example.com/wsproxy/wsproxytest"
	coderws "github.com/coder/websocket"
	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	gorillaws "github.com/gorilla/websocket"
	nhooyrws "nhooyr.io/websocket"
)

func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// A conn is one end of a WebSocket in a library's hands.
type conn interface {
	read() (message string, err error)
	write(message []byte, timeout time.Duration) error
	keepAlive() // starts the keepalive that the library's documentation shows: a Ping every 20 s, 5 s for the Pong
	close()
}

// A library is tested as a client and as a server.
type library struct {
	name   string
	dial   func(p *wsproxytest.Proxy) (conn, error)
	accept func(w http.ResponseWriter, r *http.Request) (conn, error)
	code   func(err error) int // the code of the Close frame that err reports, or 0
}

const (
	pingEvery = 20 * time.Second
	pongIn    = 5 * time.Second
	address   = "ws://any.test/"
)

var libraries = []library{
	{"gorilla", func(p *wsproxytest.Proxy) (conn, error) {
		c, _, err := (&gorillaws.Dialer{NetDialContext: p.Dial}).Dial(address, nil)
		return gorillaConn{c}, err
	}, func(w http.ResponseWriter, r *http.Request) (conn, error) {
		c, err := (&gorillaws.Upgrader{}).Upgrade(w, r, nil)
		return gorillaConn{c}, err
	}, func(err error) int {
		var closed *gorillaws.CloseError
		if errors.As(err, &closed) {
			return closed.Code
		}
		return 0
	}},
	{"coder", func(p *wsproxytest.Proxy) (conn, error) {
		c, _, err := coderws.Dial(context.Background(), address, &coderws.DialOptions{HTTPClient: p.Client()})
		return coderConn{c}, err
	}, func(w http.ResponseWriter, r *http.Request) (conn, error) {
		c, err := coderws.Accept(w, r, nil)
		return coderConn{c}, err
	}, func(err error) int { return max(0, int(coderws.CloseStatus(err))) }},
	{"gobwas", func(p *wsproxytest.Proxy) (conn, error) {
		c, _, _, err := ws.Dialer{NetDial: p.Dial}.Dial(context.Background(), address)
		return gobwasConn{c, ws.StateClientSide}, err
	}, func(w http.ResponseWriter, r *http.Request) (conn, error) {
		c, _, _, err := ws.UpgradeHTTP(r, w)
		return gobwasConn{c, ws.StateServerSide}, err
	}, func(err error) int {
		var closed wsutil.ClosedError
		if errors.As(err, &closed) {
			return int(closed.Code)
		}
		return 0
	}},
	{"nhooyr", func(p *wsproxytest.Proxy) (conn, error) {
		c, _, err := nhooyrws.Dial(context.Background(), address, &nhooyrws.DialOptions{HTTPClient: p.Client()})
		return nhooyrConn{c}, err
	}, func(w http.ResponseWriter, r *http.Request) (conn, error) {
		c, err := nhooyrws.Accept(w, r, nil)
		return nhooyrConn{c}, err
	}, func(err error) int { return max(0, int(nhooyrws.CloseStatus(err))) }},
}

// gorilla's chat example: a read deadline that each Pong moves.
type gorillaConn struct{ *gorillaws.Conn }

func (c gorillaConn) read() (string, error) {
	_, b, err := c.ReadMessage()
	return string(b), err
}

func (c gorillaConn) write(b []byte, timeout time.Duration) error {
	c.SetWriteDeadline(time.Now().Add(timeout))
	return c.WriteMessage(gorillaws.BinaryMessage, b)
}

func (c gorillaConn) keepAlive() {
	c.SetReadDeadline(time.Now().Add(pingEvery + pongIn))
	c.SetPongHandler(func(string) error { return c.SetReadDeadline(time.Now().Add(pingEvery + pongIn)) })
	every(func() error { return c.WriteControl(gorillaws.PingMessage, nil, time.Now().Add(pongIn)) })
}

func (c gorillaConn) close() { c.Close() }

// every pings until that fails.
func every(ping func() error) {
	go func() {
		for {
			time.Sleep(pingEvery)
			if ping() != nil {
				return
			}
		}
	}()
}

type coderConn struct{ *coderws.Conn }

func (c coderConn) read() (string, error) {
	_, b, err := c.Read(context.Background())
	return string(b), err
}

func (c coderConn) write(b []byte, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return c.Write(ctx, coderws.MessageBinary, b)
}

func (c coderConn) keepAlive() {
	every(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), pongIn)
		defer cancel()
		err := c.Ping(ctx)
		if err != nil {
			c.CloseNow()
		}
		return err
	})
}

func (c coderConn) close() { c.CloseNow() }

type nhooyrConn struct{ *nhooyrws.Conn }

func (c nhooyrConn) read() (string, error) {
	_, b, err := c.Read(context.Background())
	return string(b), err
}

func (c nhooyrConn) write(b []byte, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return c.Write(ctx, nhooyrws.MessageBinary, b)
}

func (c nhooyrConn) keepAlive() {
	every(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), pongIn)
		defer cancel()
		err := c.Ping(ctx)
		if err != nil {
			c.CloseNow()
		}
		return err
	})
}

func (c nhooyrConn) close() { c.CloseNow() }

type gobwasConn struct {
	net.Conn
	state ws.State
}

func (c gobwasConn) read() (string, error) {
	b, _, err := wsutil.ReadData(c, c.state)
	return string(b), err
}

func (c gobwasConn) write(b []byte, timeout time.Duration) error {
	c.SetWriteDeadline(time.Now().Add(timeout))
	return wsutil.WriteMessage(c, c.state, ws.OpBinary, b)
}

func (c gobwasConn) keepAlive() {
	c.SetReadDeadline(time.Now().Add(pingEvery + pongIn))
	every(func() error { return wsutil.WriteMessage(c, c.state, ws.OpPing, nil) })
}

func (c gobwasConn) close() { c.Close() }
