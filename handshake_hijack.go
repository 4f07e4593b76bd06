package wsproxy

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
)

// A clientEnd is the client's connection after the hijack.
type clientEnd struct {
	conn  net.Conn
	early []byte // the bytes that the client sent before the 101
	head  []byte // the 101, which the tunnel sends first

	stream *clientStream // in place of all that, on HTTP/2 and HTTP/3
}

// hijack takes over the client's connection. During the Hijack of a wrapper the
// header of w is that of the 101. If Hijack fails, the header is restored.
func (h *handshake) hijack() (clientEnd, error) {
	header := h.w.Header()
	kept := maps.Clone(header)
	hijacked := false
	defer func() {
		if !hijacked { // an error or a panic in the Hijack of a wrapper
			clear(header)
			maps.Copy(header, kept)
		}
	}()
	for _, name := range []string{"Connection", "Content-Length", "Transfer-Encoding", "Upgrade"} {
		delete(header, name)
	}
	for name, values := range h.x.res.Header {
		header[name] = append(header[name][:len(header[name]):len(header[name])], values...)
	}
	head := appendSwitch(make([]byte, 0, 256), header, h.protocol)
	conn, early, err := hijack(h.w)
	if err != nil {
		return clientEnd{}, err
	}
	hijacked = true
	return clientEnd{conn: conn, early: early, head: head}, nil
}

// appendSwitch appends the 101 for the client, with the fields of h.
func appendSwitch(b []byte, h http.Header, protocol string) []byte {
	b = append(b, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: "+protocol+"\r\nConnection: Upgrade\r\n"...)
	return append(appendHeader(b, h), "\r\n"...)
}

// hijack takes over the client's connection. It also returns the bytes that the
// server has already read from it.
func hijack(w http.ResponseWriter) (net.Conn, []byte, error) {
	conn, brw, err := http.NewResponseController(w).Hijack()
	if errors.Is(err, http.ErrNotSupported) {
		// A router's wrapper may implement Hijacker and Unwrap although the writer
		// that it wraps cannot be hijacked.
		if inner := innermost(w); checkHijackable(inner) != nil {
			return nil, nil, notHijackable(inner)
		}
	}
	if err != nil {
		return nil, nil, &refusal{status: http.StatusInternalServerError, cause: fmt.Errorf("cannot upgrade: hijacking %T: %w", w, err)}
	}
	early, _ := brw.Reader.Peek(brw.Reader.Buffered())
	early = slices.Clone(early)
	brw.Reader.Discard(len(early)) // the conn of a wrapper may read from the reader
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn, *tls.Conn:
		// net/http keeps the reader while the handler runs: 4 KiB for each tunnel.
		*brw.Reader = *bufio.NewReaderSize(conn, 16)
	}
	return conn, early, nil
}

// checkHijackable refuses a ResponseWriter that cannot be hijacked, before the
// request is sent to the upstream.
func checkHijackable(w http.ResponseWriter) error {
	for {
		switch wrapper := w.(type) {
		case http.Hijacker:
			return nil
		case interface{ Unwrap() http.ResponseWriter }:
			w = wrapper.Unwrap()
		default:
			return notHijackable(w)
		}
	}
}

// innermost unwraps all wrappers of w.
func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = wrapper.Unwrap()
	}
}

func notHijackable(w http.ResponseWriter) error {
	return &refusal{status: http.StatusInternalServerError, cause: fmt.Errorf(
		"cannot upgrade: %T implements neither http.Hijacker nor Unwrap() http.ResponseWriter: %w", w, http.ErrNotSupported)}
}
