package wsproxy

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"time"
)

// checkRequest checks what RFC 6455, section 4.2.1, asks of a client's
// handshake, and for other protocols what an upgrade asks of any request.
func checkRequest(r *http.Request, protocol string) error {
	if !r.ProtoAtLeast(1, 1) {
		return badHandshake(http.StatusBadRequest, "%s, want HTTP/1.1", quote(r.Proto))
	}
	if !isHostField(r.Host) {
		return badHandshake(http.StatusBadRequest, "Host %s, want a host with an optional port", quote(r.Host))
	}
	if r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
		return badHandshake(http.StatusBadRequest, "the request has a body, want none")
	}
	if err := checkTarget(r); err != nil {
		return badHandshake(http.StatusBadRequest, "%w", err)
	}
	if r.Method == http.MethodConnect && protocol != "websocket" {
		refused := refusedConnect(r)
		refused.kind = ErrBadHandshake
		return refused
	}
	if protocol != "websocket" {
		return nil
	}
	if r.Method != http.MethodGet {
		refused := badHandshake(http.StatusMethodNotAllowed, "method %s, want GET", quote(r.Method))
		refused.header = http.Header{"Allow": {http.MethodGet}}
		return refused
	}
	if version := r.Header["Sec-Websocket-Version"]; len(version) != 1 || version[0] != "13" {
		refused := badHandshake(http.StatusUpgradeRequired, "Sec-WebSocket-Version %s, want 13", quote(strings.Join(version, ", ")))
		refused.header = http.Header{"Sec-Websocket-Version": {"13"},
			"Upgrade": {"websocket"}, "Connection": {"close", "Upgrade"}} // RFC 9110, section 15.5.22
		return refused
	}
	key := r.Header["Sec-Websocket-Key"]
	if len(key) != 1 {
		return badHandshake(http.StatusBadRequest, "%d Sec-WebSocket-Key fields, want 1", len(key))
	}
	if nonce, err := base64.StdEncoding.DecodeString(key[0]); err != nil || len(nonce) != 16 || len(key[0]) != 24 {
		return badHandshake(http.StatusBadRequest, "Sec-WebSocket-Key %s, want 16 bytes in base64", quote(key[0]))
	}
	return nil
}

// checkHijackable refuses a ResponseWriter that could not hand over its
// connection, before anything is asked of the upstream.
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

// innermost sees through all wrappers.
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

// outgoingRequest is the client's request as the upstream gets it.
func (p *Proxy) outgoingRequest(ctx context.Context, in *http.Request, protocol string) *http.Request {
	out := in.Clone(ctx)
	out.Body, out.ContentLength, out.Close = nil, 0, false
	removeHopByHop(out.Header)
	pr := &httputil.ProxyRequest{In: in, Out: out}
	p.Rewrite(pr)
	out = pr.Out
	if out.Host == "" { // means the URL's, as to net/http
		out.Host = p.target.url.Host
	}
	removeHopByHop(out.Header)
	delete(out.Header, "Host")
	delete(out.Header, "Content-Length")
	out.Header["Connection"] = []string{ConnectionUpgrade(protocol)}
	out.Header["Upgrade"] = []string{protocol}
	if protocol == "websocket" {
		out.Header["Sec-Websocket-Key"] = in.Header["Sec-Websocket-Key"]
		out.Header["Sec-Websocket-Version"] = in.Header["Sec-Websocket-Version"]
	}
	return out
}

// appendRequest appends the request's wire form, which has no body.
func appendRequest(b []byte, r *http.Request) ([]byte, error) {
	if err := checkRequestLine(r); err != nil {
		return nil, err
	}
	if !isHostField(r.Host) {
		return nil, badGateway("cannot send Host %s", quote(r.Host))
	}
	b = append(b, cmp.Or(r.Method, http.MethodGet)+" "+r.URL.RequestURI()+" HTTP/1.1\r\nHost: "+r.Host+"\r\n"...)
	if err := checkFields(r.Header); err != nil {
		return nil, err
	}
	if r.Method != "" && r.Method != http.MethodGet && r.Method != http.MethodHead {
		r.Header["Content-Length"] = []string{"0"}
	}
	return append(appendHeader(b, r.Header), "\r\n"...), nil
}

// checkFields refuses a header that cannot be sent. The value, which may be a
// secret, stays out of the error.
func checkFields(h http.Header) error {
	for name, values := range h {
		if !isToken(name) {
			return badGateway("cannot send a field named %s", quote(name))
		}
		if slices.ContainsFunc(values, func(value string) bool { return !isFieldValue(value) }) {
			return badGateway("cannot send field %s: a control character in its value", name)
		}
	}
	return nil
}

// appendHeader appends the wire form of h in a fixed order, WebSocket's fields
// in the case of RFC 6455 for peers that compare them to the letter. A line
// break within a value, as net/http does it, becomes a space.
func appendHeader(b []byte, h http.Header) []byte {
	names := make([]string, 0, 32)
	for name := range h {
		if isToken(name) { // http.ReadResponse lets others pass
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		wire := name
		if rest, ok := strings.CutPrefix(name, "Sec-Websocket-"); ok {
			wire = "Sec-WebSocket-" + rest
		}
		for _, value := range h[name] {
			b = append(append(b, wire...), ": "...)
			b = append(append(b, lineBreaks.Replace(value)...), "\r\n"...)
		}
	}
	return b
}

var lineBreaks = strings.NewReplacer("\r", " ", "\n", " ")

// checkSwitch checks a 101 against what was asked (RFC 6455, section 4.1).
func checkSwitch(res *http.Response, out *http.Request) error {
	protocol := out.Header.Get("Upgrade")
	if res.ProtoMajor != 1 || res.ProtoMinor < 1 {
		return badGateway("answered 101 in %s, want HTTP/1.1", quote(res.Proto))
	}
	if got := res.Header["Upgrade"]; len(got) != 1 || !equalFold(got[0], protocol) {
		return badGateway("switched to %s, want %q", quote(strings.Join(got, ", ")), protocol)
	}
	if res.Close { // and net/http has removed the field
		return badGateway("answered 101 with Connection %q, want %q", "close", "Upgrade")
	}
	if got := res.Header["Connection"]; !hasToken(got, "upgrade") {
		return badGateway("answered 101 with Connection %s, want %q", quote(strings.Join(got, ", ")), "Upgrade")
	}
	if protocol != "websocket" {
		return nil
	}
	want := acceptKey(out.Header.Get("Sec-Websocket-Key"))
	if got := res.Header["Sec-Websocket-Accept"]; len(got) != 1 || got[0] != want {
		return badGateway("Sec-WebSocket-Accept %s, want %q", quote(strings.Join(got, ", ")), want)
	}
	return nil
}

// acceptKey is the Sec-WebSocket-Accept for a key (RFC 6455, section 4.2.2).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// appendSwitch appends the 101 for the client, with the fields of h.
func appendSwitch(b []byte, h http.Header, protocol string) []byte {
	b = append(b, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: "+protocol+"\r\nConnection: Upgrade\r\n"...)
	return append(appendHeader(b, h), "\r\n"...)
}

// relayResponse gives the client a response that is no 101 as httputil gives any:
// streamed, with its trailers, and cut if the upstream cuts it. Like a plain
// response it holds no place for a tunnel, and Close does not cut it.
func (h *handshake) relayResponse() {
	h.release()
	h.unlink()
	keepUpgrade(h.x.res)
	w := newPlainWriter(h.w, h.p.sendTimeout)
	defer w.end(h.in.Context(), false)
	(&httputil.ReverseProxy{
		Rewrite:        func(*httputil.ProxyRequest) {},
		Transport:      roundTripFunc(func(*http.Request) (*http.Response, error) { return h.x.res, nil }),
		ModifyResponse: h.p.modifyResponse,
		FlushInterval:  -1,
		BufferPool:     bodyBuffers{},
		ErrorLog:       h.p.errorLog,
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) {
			h.p.fail(h.w, h.in, upstreamError(h.in.Context(), err))
		},
	}).ServeHTTP(w, (&http.Request{Method: h.in.Method, URL: h.in.URL, Header: http.Header{}}).WithContext(h.in.Context()))
}

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A clientEnd is the client's connection after the hijack.
type clientEnd struct {
	conn  net.Conn
	early []byte // what the client sent before the 101
	head  []byte // the 101, which the tunnel sends first
}

// hijack takes the client's connection. While a wrapper's Hijack runs, w's
// header is that of the 101; if it fails, the header is what it was.
func (h *handshake) hijack() (clientEnd, error) {
	header := h.w.Header()
	kept := maps.Clone(header)
	hijacked := false
	defer func() {
		if !hijacked { // an error, or a panic in a wrapper's Hijack
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
	head := appendSwitch(nil, header, h.protocol)
	conn, early, err := hijack(h.w)
	if err != nil {
		return clientEnd{}, err
	}
	hijacked = true
	return clientEnd{conn, early, head}, nil
}

// hijack takes the client's connection over, with the bytes it sent early.
func hijack(w http.ResponseWriter) (net.Conn, []byte, error) {
	conn, brw, err := http.NewResponseController(w).Hijack()
	if errors.Is(err, http.ErrNotSupported) {
		// A router's wrapper implements both methods, whatever it wraps.
		if inner := innermost(w); checkHijackable(inner) != nil {
			return nil, nil, notHijackable(inner)
		}
	}
	if err != nil {
		return nil, nil, &refusal{status: http.StatusInternalServerError, cause: fmt.Errorf("cannot upgrade: hijacking %T: %w", w, err)}
	}
	// net/http clears its deadlines; a wrapper's Hijack may not.
	conn.SetDeadline(time.Time{})
	early, _ := brw.Reader.Peek(brw.Reader.Buffered())
	early = slices.Clone(early)
	brw.Reader.Discard(len(early)) // a wrapper's conn may read through the reader
	switch conn.(type) {
	case *net.TCPConn, *net.UnixConn, *tls.Conn:
		// net/http keeps the reader as long as the handler runs, 4 KiB a tunnel.
		*brw.Reader = *bufio.NewReaderSize(conn, 16)
	}
	return conn, early, nil
}
