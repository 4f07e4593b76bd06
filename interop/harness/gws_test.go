//go:build !nogws

package harness_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"time"

	"example.com/wsproxy/wsproxytest"
	"github.com/lxzan/gws"
)

// The tag nogws is for module proxies that do not have gws.
func init() {
	libraries = slices.Insert(libraries, 3, library{"gws", func(p *wsproxytest.Proxy) (conn, error) {
		h := newGWSHandler()
		c, _, err := gws.NewClient(h, &gws.ClientOption{Addr: address,
			NewDialer: func() (gws.Dialer, error) { return gwsDialer{p}, nil }})
		if err != nil {
			return nil, err
		}
		go c.ReadLoop()
		return &gwsConn{c, h}, nil
	}, func(w http.ResponseWriter, r *http.Request) (conn, error) {
		h := newGWSHandler()
		c, err := gws.NewUpgrader(h, nil).Upgrade(w, r)
		if err != nil {
			return nil, err
		}
		go c.ReadLoop()
		return &gwsConn{c, h}, nil
	}, func(err error) int {
		var closed *gws.CloseError
		if errors.As(err, &closed) {
			return int(closed.Code)
		}
		return 0
	}})
}

type gwsDialer struct{ p *wsproxytest.Proxy }

func (d gwsDialer) Dial(network, addr string) (net.Conn, error) {
	return d.p.Dial(context.Background(), network, addr)
}

// A gwsHandler makes reads of gws's events.
type gwsHandler struct {
	gws.BuiltinEventHandler
	messages chan string
	closed   chan error
}

func newGWSHandler() *gwsHandler {
	return &gwsHandler{messages: make(chan string, 100), closed: make(chan error, 1)}
}

func (h *gwsHandler) OnClose(_ *gws.Conn, err error) { h.closed <- err }
func (h *gwsHandler) OnPong(c *gws.Conn, _ []byte)   { c.SetDeadline(time.Now().Add(pingEvery + pongIn)) }
func (h *gwsHandler) OnMessage(_ *gws.Conn, m *gws.Message) {
	h.messages <- m.Data.String()
	m.Close()
}

type gwsConn struct {
	*gws.Conn
	h *gwsHandler
}

func (c *gwsConn) read() (string, error) {
	select {
	case m := <-c.h.messages:
		return m, nil
	case err := <-c.h.closed:
		select {
		case m := <-c.h.messages: // came before
			c.h.closed <- err
			return m, nil
		default:
			return "", err
		}
	}
}

func (c *gwsConn) write(b []byte, timeout time.Duration) error {
	c.SetWriteDeadline(time.Now().Add(timeout))
	return c.WriteMessage(gws.OpcodeBinary, b)
}

func (c *gwsConn) keepAlive() {
	c.SetDeadline(time.Now().Add(pingEvery + pongIn))
	every(func() error { return c.WritePing(nil) })
}

func (c *gwsConn) close() { c.NetConn().Close() }
