package wsproxy

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxAnswerHeader bounds the header of an upstream's answer, informational
// answers before it included. It is net/http's limit for a client's.
const maxAnswerHeader = http.DefaultMaxHeaderBytes

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
		refused.header = http.Header{"Sec-WebSocket-Version": {"13"},
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
	uri := r.URL.RequestURI()
	if !isToken(r.Method) || !isFieldValue(uri) || strings.ContainsAny(uri, " \t") {
		return nil, badAnswer("cannot send request line %s", quote(r.Method+" "+uri))
	}
	if !isHostField(r.Host) {
		return nil, badAnswer("cannot send Host %s", quote(r.Host))
	}
	b = append(b, r.Method+" "+uri+" HTTP/1.1\r\nHost: "+r.Host+"\r\n"...)
	if err := checkFields(r.Header); err != nil {
		return nil, err
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		r.Header["Content-Length"] = []string{"0"}
	}
	return append(appendHeader(b, r.Header), "\r\n"...), nil
}

// checkFields refuses a header that cannot be sent.
func checkFields(h http.Header) error {
	for name, values := range h {
		for _, value := range values {
			if !isToken(name) || !isFieldValue(value) {
				return badAnswer("cannot send field %s with value %s", quote(name), quote(value))
			}
		}
	}
	return nil
}

// appendHeader appends the wire form of h in a fixed order, WebSocket's fields
// in the case of RFC 6455 for peers that compare them to the letter. A line
// break within a value, as net/http does it, becomes a space.
func appendHeader(b []byte, h http.Header) []byte {
	for _, name := range slices.Sorted(maps.Keys(h)) {
		if !isToken(name) { // http.ReadResponse lets some pass
			continue
		}
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

// An exchange is the one request on a connection to a server and the answer to
// it.
type exchange struct {
	server  lease
	conn    net.Conn
	unwatch func() bool   // stops closing conn when the request's context ends
	read    time.Duration // the read timeout
	budget  int64         // bytes of header still accepted; negative: no limit
	err     error         // of the last read
	br      *bufio.Reader
	res     *http.Response
}

var errHeaderTooLarge = fmt.Errorf("answer's header is larger than %d bytes", maxAnswerHeader)

// Read implements io.Reader for br, keeping to the read timeout between any
// two reads and to the budget. An error stays: bufio takes what came before one
// for a line and reads on.
func (x *exchange) Read(b []byte) (int, error) {
	if x.budget == 0 && x.err == nil {
		x.err = errHeaderTooLarge
	}
	if x.err != nil {
		return 0, x.err
	}
	if x.budget > 0 && int64(len(b)) > x.budget {
		b = b[:x.budget]
	}
	if x.read > 0 {
		x.conn.SetReadDeadline(time.Now().Add(x.read))
	}
	var n int
	n, x.err = x.conn.Read(b)
	if x.budget > 0 {
		x.budget -= int64(n)
	}
	return n, x.err
}

var readers = sync.Pool{New: func() any { return bufio.NewReader(nil) }}

// handshake sends the upgrade request out to the servers for in until one
// answers, and returns that exchange, to be closed unless a tunnel takes it
// over.
func (p *Proxy) handshake(ctx context.Context, in, out *http.Request, clientIP netip.Addr, w http.ResponseWriter) (*exchange, error) {
	wire, err := appendRequest(make([]byte, 0, 1024), out)
	if err != nil {
		return nil, err
	}
	var x *exchange
	r := route{upstream: p.upstream, request: in, client: clientIP, tunnel: true}
	_, err = p.send(ctx, &r, true, func(s lease) (_ *http.Response, err error) {
		x, err = p.ask(ctx, s, wire, out, w)
		if err != nil {
			return nil, err
		}
		return x.res, nil
	})
	if err != nil {
		return nil, err
	}
	return x, nil
}

// ask sends the upgrade request to one server and reads its final answer,
// passing informational ones on to w.
func (p *Proxy) ask(ctx context.Context, s lease, wire []byte, out *http.Request, w http.ResponseWriter) (_ *exchange, err error) {
	x := &exchange{server: s, read: p.readTimeout, budget: maxAnswerHeader}
	defer func() {
		if x.res == nil {
			x.close()
		}
	}()
	if x.conn, err = p.dial(ctx, s.Candidate); err != nil {
		return nil, err
	}
	x.unwatch = context.AfterFunc(ctx, func() { cutConn(x.conn) })
	if p.sendTimeout > 0 {
		x.conn.SetWriteDeadline(time.Now().Add(p.sendTimeout))
	}
	if _, err := x.conn.Write(wire); err != nil {
		return nil, fmt.Errorf("sending the request: %w", err)
	}
	x.br = readers.Get().(*bufio.Reader)
	x.br.Reset(x)
	for {
		res, err := http.ReadResponse(x.br, out)
		if err == nil && res.StatusCode < 100 {
			err = fmt.Errorf("status %d", res.StatusCode)
		}
		if err != nil {
			if x.err == io.EOF {
				err = io.ErrUnexpectedEOF
			} else if x.err != nil {
				err = x.err
			}
			return nil, fmt.Errorf("reading the answer: %w", err)
		}
		switch {
		case res.StatusCode == http.StatusSwitchingProtocols:
			if err := checkSwitch(res, out); err != nil {
				return nil, err
			}
		case res.StatusCode < 200:
			removeHopByHop(res.Header)
			informational(w, res)
			continue
		}
		x.budget = -1
		res.Body = &answerBody{res.Body, x}
		x.res = res
		return x, nil
	}
}

// close ends the exchange. It may be called more than once.
func (x *exchange) close() {
	if x.unwatch != nil {
		x.unwatch()
	}
	if x.conn != nil {
		x.conn.Close()
	}
	x.release()
	x.server.release()
	x.server.tunnel = false
}

// release gives back the reader, which nothing may use any longer.
func (x *exchange) release() {
	if x.br != nil {
		x.br.Reset(nil)
		readers.Put(x.br)
		x.br = nil
	}
}

// early returns the bytes that came glued to a 101, and releases the reader.
func (x *exchange) early() []byte {
	early, _ := x.br.Peek(x.br.Buffered())
	early = slices.Clone(early)
	x.release()
	return early
}

// informational passes a 1xx on, leaving w's header as middleware made it.
func informational(w http.ResponseWriter, res *http.Response) {
	h := w.Header()
	kept := maps.Clone(h)
	clear(h)
	maps.Copy(h, res.Header)
	w.WriteHeader(res.StatusCode)
	clear(h)
	maps.Copy(h, kept)
}

// checkSwitch checks a 101 against what was asked (RFC 6455, section 4.1).
func checkSwitch(res *http.Response, out *http.Request) error {
	protocol := out.Header.Get("Upgrade")
	if res.ProtoMajor != 1 || res.ProtoMinor < 1 {
		return badAnswer("answered 101 in %s, want HTTP/1.1", quote(res.Proto))
	}
	if got := res.Header["Upgrade"]; len(got) != 1 || !strings.EqualFold(got[0], protocol) {
		return badAnswer("switched to %s, want %q", quote(strings.Join(got, ", ")), protocol)
	}
	if protocol != "websocket" {
		return nil
	}
	want := acceptKey(out.Header.Get("Sec-Websocket-Key"))
	if got := res.Header["Sec-Websocket-Accept"]; len(got) != 1 || got[0] != want {
		return badAnswer("Sec-WebSocket-Accept %s, want %q", quote(strings.Join(got, ", ")), want)
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

// relayAnswer gives the client an answer that is no 101 as httputil gives any:
// streamed, with its trailers, and cut where the upstream cuts it.
func (p *Proxy) relayAnswer(w http.ResponseWriter, r *http.Request, x *exchange) {
	(&httputil.ReverseProxy{
		Rewrite:        func(*httputil.ProxyRequest) {},
		Transport:      roundTripFunc(func(*http.Request) (*http.Response, error) { return x.res, nil }),
		ModifyResponse: p.modifyResponse,
		FlushInterval:  -1,
		BufferPool:     bodyBuffers{},
		ErrorLog:       p.errorLog,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			p.fail(w, r, upstreamError(r.Context(), err))
		},
	}).ServeHTTP(w, (&http.Request{Method: r.Method, URL: r.URL, Header: http.Header{}}).WithContext(r.Context()))
}

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// answerBody closes the connection it comes from, which is never used again,
// rather than reading the rest of the body first.
type answerBody struct {
	io.Reader
	x *exchange
}

func (b *answerBody) Close() error {
	b.x.close()
	return nil
}

// hijack takes the client's connection over, with the bytes it sent early.
func hijack(w http.ResponseWriter) (net.Conn, []byte, error) {
	conn, brw, err := http.NewResponseController(w).Hijack()
	if errors.Is(err, http.ErrNotSupported) {
		return nil, nil, notHijackable(w)
	}
	if err != nil {
		return nil, nil, &refusal{status: http.StatusInternalServerError, cause: fmt.Errorf("cannot upgrade: hijacking %T: %w", w, err)}
	}
	early, _ := brw.Reader.Peek(brw.Reader.Buffered())
	// net/http clears its deadlines; a wrapper's Hijack may not.
	conn.SetDeadline(time.Time{})
	return conn, slices.Clone(early), nil
}
