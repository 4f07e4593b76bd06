package wsproxy

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"example.com/wsproxy/internal/syntax"
	"example.com/wsproxy/internal/xconnect"
)

// An extended CONNECT asks for an upgrade of one stream of an HTTP/2 or HTTP/3
// connection (RFC 8441, RFC 9220). Toward the upstream it becomes a GET of
// HTTP/1.1 with an Upgrade field, and a 101 becomes a 200.

// isStream reports whether an upgrade with r takes over a stream, and not the
// client's connection.
func isStream(r *http.Request) bool { return r.ProtoMajor >= 2 }

// requestedProtocol returns the protocol that r asks to switch to, as allowed
// spells it. It returns "" for a plain request.
func requestedProtocol(r *http.Request, allowed []string) string {
	if !isStream(r) {
		return upgradeToken(r.Header, allowed)
	}
	protocol, extended := connectProtocol(r)
	if !extended || r.Method != http.MethodConnect {
		return ""
	}
	for _, name := range allowed {
		if syntax.EqualFold(protocol, name) {
			return name
		}
	}
	return ""
}

// connectProtocol returns the :protocol of an extended CONNECT and reports
// whether r has one. net/http keeps it in the header, quic-go in Proto.
func connectProtocol(r *http.Request) (string, bool) {
	if protocol, ok := r.Header[":protocol"]; ok {
		return strings.Join(protocol, ", "), true
	}
	return r.Proto, r.ProtoMajor == 3 && !strings.HasPrefix(r.Proto, "HTTP/")
}

// checkStreamRequest is the part of checkRequest for an extended CONNECT, which
// has neither the method GET nor a key. net/http lets any :path pass.
func checkStreamRequest(r *http.Request, protocol string) error {
	if len(r.Header["Content-Length"]) > 0 || r.ContentLength > 0 {
		return badHandshake(http.StatusBadRequest, "the request has a Content-Length, want none")
	}
	if !strings.HasPrefix(r.RequestURI, "/") || strings.HasPrefix(r.RequestURI, "//") {
		path, _, _ := strings.Cut(r.RequestURI, "?")
		return badHandshake(http.StatusBadRequest, "path %s, want one that begins with one /", syntax.Quote(path))
	}
	if err := requestLineError(r); err != nil {
		return badHandshake(http.StatusBadRequest, "%w", err)
	}
	if err := checkTarget(r); err != nil {
		return badHandshake(http.StatusBadRequest, "%w", err)
	}
	if protocol != "websocket" {
		return nil
	}
	return checkVersion(r)
}

// clientKey returns the client's Sec-WebSocket-Key, or "" if it has not sent
// one that is well-formed. An extended CONNECT needs none.
func clientKey(r *http.Request) string {
	key := r.Header["Sec-Websocket-Key"]
	if len(key) != 1 || !isKey(key[0]) {
		return ""
	}
	return key[0]
}

func isKey(key string) bool {
	if len(key) != 24 {
		return false
	}
	var nonce [18]byte
	n, err := base64.StdEncoding.Decode(nonce[:], []byte(key))
	return err == nil && n == 16
}

// newKey returns a fresh Sec-WebSocket-Key.
func newKey() string {
	var nonce [16]byte
	rand.Read(nonce[:]) // never fails
	return base64.StdEncoding.EncodeToString(nonce[:])
}

// takeClient takes what the client has asked on: its connection, or one stream
// of it.
func (h *handshake) takeClient() (clientEnd, error) {
	if isStream(h.in) {
		return h.acceptStream(), nil
	}
	return h.hijack()
}

// A streamWriter is the ResponseWriter of an HTTP/2 or HTTP/3 server. Only
// FlushError tells that a stream is gone, and only deadlines end a blocked one.
type streamWriter interface {
	http.ResponseWriter
	FlushError() error
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// checkStreamable refuses a ResponseWriter that cannot carry a tunnel. Wrappers
// do not count: those that compress or buffer would spoil the tunnel's bytes.
func checkStreamable(w http.ResponseWriter) error {
	inner := innermost(w)
	if _, ok := inner.(streamWriter); ok {
		return nil
	}
	return &refusal{status: http.StatusInternalServerError, cause: fmt.Errorf(
		"cannot upgrade: %T has neither FlushError, SetReadDeadline and SetWriteDeadline nor Unwrap() http.ResponseWriter: %w",
		inner, http.ErrNotSupported)}
}

// clearDeadlines removes the deadlines by the ReadTimeout and WriteTimeout of the
// http.Server. On HTTP/2 they end a stream even if nothing reads or writes.
func clearDeadlines(w http.ResponseWriter) {
	rc := http.NewResponseController(innermost(w))
	rc.SetReadDeadline(time.Time{})
	rc.SetWriteDeadline(time.Time{})
}

// restoreDeadline limits the write of a refusal as the server's WriteTimeout does.
func restoreDeadline(w http.ResponseWriter, r *http.Request) {
	http.NewResponseController(innermost(w)).SetWriteDeadline(serverWriteDeadline(r.Context()))
}

// A clientStream is the client's stream of an HTTP/2 or HTTP/3 connection.
type clientStream struct {
	w    streamWriter
	body io.Reader
	h3   bool
}

// acceptStream makes w's header that of the response to an extended CONNECT. The
// tunnel sends it.
func (h *handshake) acceptStream() clientEnd {
	w := innermost(h.w).(streamWriter)
	header := w.Header()
	maps.Copy(header, h.w.Header()) // a wrapper may have a map of its own
	for name, values := range h.x.res.Header {
		header[name] = slices.Concat(header[name], values)
	}
	for _, name := range []string{"Connection", "Content-Encoding", "Content-Length",
		"Sec-Websocket-Accept", // for the proxy's key
		"Trailer", "Transfer-Encoding", "Upgrade"} {
		delete(header, name)
	}
	removeMalformed(header)
	if key := clientKey(h.in); key != "" && h.protocol == "websocket" {
		header["Sec-Websocket-Accept"] = []string{acceptKey(key)} // nodejs/undici#5681
	}
	header["Content-Type"] = nil // or the server makes one up
	body := io.Reader(http.NoBody)
	if h.in.Body != nil { // as after a middleware that takes it away
		body = h.in.Body
	}
	return clientEnd{stream: &clientStream{w, body, h.in.ProtoMajor == 3}}
}

// removeMalformed removes the fields of h that http.ReadResponse accepts and no
// client does. quic-go sends them, and a client of HTTP/3 then drops the response.
func removeMalformed(h http.Header) {
	maps.DeleteFunc(h, func(name string, values []string) bool {
		return !syntax.IsToken(name) || slices.ContainsFunc(values, func(value string) bool { return !syntax.IsFieldValue(value) })
	})
}

// HTTP2Config returns settings for an [http.Server] that accepts WebSockets over
// HTTP/2, for its field HTTP2. They differ from net/http's defaults in this:
//
//   - A connection carries 250 streams. Each has a receive buffer of 64 KiB, and
//     the connection one for 63 such streams. By default one stream's buffer is as
//     large as that of the whole connection, so that a single tunnel whose
//     upstream does not read stops all others on the connection, and uploads
//     (golang/go#54330). Now 63 such tunnels do not. The price is that a single
//     upload gets no faster than 64 KiB in a round trip time.
//   - A connection that takes no byte for 30 seconds is closed, and so is one that
//     does not answer a ping, sent after 30 seconds of silence, within 15. By
//     default a handler waits for a client that does not read for as long as the
//     connection is open, and no timeout of the proxy's can end that.
//
// Each call returns a new value, which the caller may change.
func HTTP2Config() *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams: 250,
		// No less: a client may send 65,535 bytes before it has read this (RFC 9113,
		// section 6.9.2).
		MaxReceiveBufferPerStream: 64 << 10,
		// http.HTTP2Config allows less than 4 MiB.
		MaxReceiveBufferPerConnection: 4<<20 - 1,
		SendPingTimeout:               30 * time.Second,
		PingTimeout:                   15 * time.Second,
		WriteByteTimeout:              30 * time.Second,
	}
}

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

func (l *oneConn) Close() error { return nil }

func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }
