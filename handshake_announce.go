package wsproxy

import (
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"example.com/wsproxy/internal/xconnect"
)

// warnOfNoAnnouncement logs if the program imports wsproxy/http2 and net/http
// does not announce extended CONNECT nevertheless.
func (c *config) warnOfNoAnnouncement() {
	if xconnect.Wanted && !announced() {
		c.logger.Warn("importing wsproxy/http2 has no effect: net/http does not announce extended CONNECT. " +
			"Set GODEBUG=http2xconnect=1 in the environment.")
	}
}

// announced reports whether net/http announces extended CONNECT in the SETTINGS
// of an HTTP/2 connection. Nothing but such a frame tells.
var announced = sync.OnceValue(func() bool {
	client, server := net.Pipe()
	defer client.Close()
	client.SetDeadline(time.Now().Add(5 * time.Second))
	s := &http.Server{Protocols: new(http.Protocols), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	s.Protocols.SetUnencryptedHTTP2(true)
	go s.Serve(&oneConn{conn: server})
	defer s.Close()
	emptySettings := "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	if _, err := io.WriteString(client, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+emptySettings); err != nil {
		return false
	}
	var header [9]byte // of the server's SETTINGS
	if _, err := io.ReadFull(client, header[:]); err != nil {
		return false
	}
	settings := make([]byte, int(header[1])<<8|int(header[2]))
	if _, err := io.ReadFull(client, settings); err != nil {
		return false
	}
	const enableConnectProtocol = 8 // RFC 8441, section 3
	for ; len(settings) >= 6; settings = settings[6:] {
		if binary.BigEndian.Uint16(settings) == enableConnectProtocol {
			return binary.BigEndian.Uint32(settings[2:]) == 1
		}
	}
	return false
})

// A oneConn is a listener with one connection.
type oneConn struct {
	conn net.Conn
	once sync.Once
}

func (l *oneConn) Accept() (conn net.Conn, err error) {
	err = net.ErrClosed
	l.once.Do(func() { conn, err = l.conn, nil })
	return conn, err
}

func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }
