//go:build linux

package faults_test

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/url"
	"syscall"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"github.com/gobwas/ws"
	"github.com/stretchr/testify/require"
)

// A client is a WebSocket client that gives access to its frames and its
// socket.
type client struct {
	net.Conn
	tcp *net.TCPConn
	r   io.Reader
}

// raw connects to the proxy, with TLS if the proxy has it. Patience bounds
// every read and write.
func (p *process) raw() (*client, error) {
	conn, err := p.dial("tcp", p.addr)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(patience))
	c := &client{Conn: conn, tcp: conn.(*net.TCPConn), r: conn}
	if p.tls == nil {
		return c, nil
	}
	secure := tls.Client(conn, p.tls)
	if err := secure.Handshake(); err != nil {
		conn.Close()
		return nil, err
	}
	c.Conn, c.r = secure, secure
	return c, nil
}

// open opens a WebSocket. A response other than 101 is a ws.StatusError.
func (p *process) open(path string) (*client, error) {
	c, err := p.raw()
	if err != nil {
		return nil, err
	}
	if err := c.upgrade(path); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func (c *client) upgrade(path string) error {
	br, _, err := ws.Dialer{ReadBufferSize: 512, WriteBufferSize: 512}.Upgrade(c.Conn, &url.URL{Scheme: "ws", Host: "example.com", Path: path})
	if err == nil && br != nil {
		c.r = br
	}
	return err
}

// client is open, for the test's goroutine. The client is closed when the test
// ends.
func (p *process) client(t testing.TB, path string) *client {
	t.Helper()
	c, err := p.open(path)
	require.NoError(t, err, "no WebSocket")
	t.Cleanup(func() { c.tcp.Close() })
	return c
}

func masked(f ws.Frame) []byte { return ws.MustCompileFrame(ws.MaskFrameInPlace(f)) }

func (c *client) sendText(t testing.TB, text string) {
	t.Helper()
	_, err := c.Write(masked(ws.NewTextFrame([]byte(text))))
	require.NoError(t, err)
}

func (c *client) expectText(t testing.TB, text string) {
	t.Helper()
	f, err := c.message()
	require.NoError(t, err, "instead of %.20q", text)
	require.EqualValues(t, testkit.Text, f.First)
	require.True(t, text == f.Payload, "a message of %d bytes came back as other %d bytes", len(text), len(f.Payload))
}

// message reads the next frame that is neither Ping nor Pong, and replies to
// Pings.
func (c *client) message() (testkit.Frame, error) {
	for {
		f, err := testkit.ReadFrame(c.r)
		switch {
		case err == nil && f.First == testkit.Ping:
			c.Write(masked(ws.NewPongFrame([]byte(f.Payload))))
		case err != nil || f.First != testkit.Pong:
			return f, err
		}
	}
}

// expectClose reads a Close frame and replies to it.
func (c *client) expectClose(t testing.TB, code ws.StatusCode) {
	t.Helper()
	f, err := c.message()
	require.NoError(t, err, "instead of a Close frame")
	require.EqualValues(t, testkit.Close, f.First)
	got, _ := ws.ParseCloseFrameData([]byte(f.Payload))
	require.Equal(t, code, got)
	c.Write(masked(ws.NewCloseFrame(ws.NewCloseFrameBody(code, ""))))
}

// expectEnd reads exactly want and then a reset or an EOF, without a Close
// frame.
func (c *client) expectEnd(t testing.TB, want []byte, reset bool) {
	t.Helper()
	got, err := io.ReadAll(c.r)
	require.True(t, bytes.Equal(want, got), "want %d bytes, got %d", len(want), len(got))
	if reset {
		require.ErrorIs(t, err, syscall.ECONNRESET)
	} else {
		require.NoError(t, err)
	}
}

// leave closes the connection with a Close frame.
func (c *client) leave(t testing.TB) {
	t.Helper()
	_, err := c.Write(masked(ws.NewCloseFrame(ws.NewCloseFrameBody(ws.StatusNormalClosure, ""))))
	require.NoError(t, err)
	f, err := c.message()
	require.NoError(t, err, "no reply to the Close frame")
	require.EqualValues(t, testkit.Close, f.First)
	c.Close()
}

// reset closes the connection with a RST.
func (c *client) reset() {
	c.tcp.SetLinger(0)
	c.tcp.Close()
}

// timedOut reports whether a read or write ended at its deadline.
func timedOut(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}
