package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// streamConns is the number of HTTP/2 connections that share the tunnels.
const streamConns = 10

// A streamConn is a connection of HTTP/2. Each of its streams is a tunnel. One
// goroutine drives it: it reads frames, and act writes what follows from them.
//
// Its windows are too large to be used up. The other side's are not used up
// either: a stream has one small message under way.
type streamConn struct {
	*http2.Framer
	conn    net.Conn
	out     bytes.Buffer // frames to write
	encoder *hpack.Encoder
	block   bytes.Buffer // from encoder
	decoder *hpack.Decoder
	status  string // from decoder
	addr    string
	last    uint32
	streams map[uint32]*stream
}

// A stream is one tunnel.
type stream struct {
	id   uint32
	left int // bytes to come of the message
	sent time.Time
}

func dialStreams(addr string, config *tls.Config) (*streamConn, error) {
	config = config.Clone()
	config.NextProtos = []string{"h2"}
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: openTimeout}, "tcp", addr, config)
	if err != nil {
		return nil, err
	}
	c := &streamConn{conn: conn, addr: addr, streams: map[uint32]*stream{}}
	c.Framer = http2.NewFramer(&c.out, conn)
	c.SetReuseFrames()
	c.encoder = hpack.NewEncoder(&c.block)
	c.decoder = hpack.NewDecoder(4096, func(field hpack.HeaderField) {
		if field.Name == ":status" {
			c.status = field.Value
		}
	})
	c.out.WriteString(http2.ClientPreface)
	const window = 1<<31 - 1
	c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window})
	c.WriteWindowUpdate(0, window-1<<16)
	conn.SetDeadline(time.Now().Add(openTimeout))
	for { // extended CONNECT must be announced first
		f, err := c.flushAndRead()
		if err != nil {
			conn.Close()
			return nil, err
		}
		if settings, ok := f.(*http2.SettingsFrame); ok && !settings.IsAck() {
			if on, _ := settings.Value(http2.SettingEnableConnectProtocol); on != 1 {
				conn.Close()
				return nil, errors.New("the proxy does not announce extended CONNECT")
			}
			return c, c.WriteSettingsAck()
		}
	}
}

// flushAndRead writes the frames that are waiting and reads one.
func (c *streamConn) flushAndRead() (http2.Frame, error) {
	if c.out.Len() > 0 {
		if _, err := c.out.WriteTo(c.conn); err != nil {
			return nil, err
		}
	}
	return c.ReadFrame()
}

// connect asks for one more tunnel.
func (c *streamConn) connect(path string) error {
	c.last += 2
	if c.last == 2 {
		c.last = 1
	}
	c.block.Reset()
	for _, field := range [...][2]string{{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "https"},
		{":path", path}, {":authority", c.addr}, {"sec-websocket-version", "13"}} {
		c.encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	c.streams[c.last] = &stream{id: c.last}
	return c.WriteHeaders(http2.HeadersFrameParam{StreamID: c.last, BlockFragment: c.block.Bytes(), EndHeaders: true})
}

// What has happened to a stream.
const (
	opened   = iota // it has its 200
	received        // it has its message
	ended           // both directions have ended, or it was reset
)

// drive reads frames and calls act with what they mean, until act or a read fails.
func (c *streamConn) drive(act func(s *stream, what int) error) error {
	for {
		f, err := c.flushAndRead()
		if err == nil {
			err = c.handle(f, act)
		}
		if err != nil {
			return err
		}
	}
}

func (c *streamConn) handle(f http2.Frame, act func(s *stream, what int) error) (err error) {
	s := c.streams[f.Header().StreamID]
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			return c.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			return c.WritePing(true, f.Data)
		}
	case *http2.GoAwayFrame:
		return fmt.Errorf("GOAWAY: %v", f.ErrCode)
	case *http2.HeadersFrame:
		if _, err := c.decoder.Write(f.HeaderBlockFragment()); err != nil {
			return err
		}
		if s == nil || c.status != "200" {
			return fmt.Errorf("a tunnel is refused with status %s", c.status)
		}
		if err = act(s, opened); err == nil && f.StreamEnded() {
			err = c.end(s, act)
		}
	case *http2.DataFrame:
		if s == nil {
			return errors.New("data for no stream")
		}
		if n := len(f.Data()); n > 0 {
			if s.left -= n; s.left < 0 {
				return fmt.Errorf("%d bytes too many came back", -s.left)
			}
			if s.left == 0 {
				err = act(s, received)
			}
		}
		if err == nil && f.StreamEnded() {
			err = c.end(s, act)
		}
	case *http2.RSTStreamFrame:
		if s != nil {
			err = c.end(s, act)
		}
	}
	return err
}

func (c *streamConn) end(s *stream, act func(s *stream, what int) error) error {
	delete(c.streams, s.id)
	return act(s, ended)
}

// say sends a message on s, whose echo has size bytes.
func (c *streamConn) say(s *stream, message []byte, size int, last bool) error {
	s.left, s.sent = size, time.Now()
	return c.WriteData(s.id, last, message)
}
