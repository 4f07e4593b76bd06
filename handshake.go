package wsproxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// A handshake is an upgrade request until its tunnel opens. It owns a
// reservation in the Proxy's registry and the exchange with a server. Either a
// tunnel takes both or close releases them, whichever comes first.
type handshake struct {
	p        *Proxy
	w        http.ResponseWriter
	in       *http.Request
	protocol string
	clientIP netip.Addr
	start    time.Time

	ctx      context.Context // canceled with the request and, until unlink, by Proxy.end
	cancel   context.CancelCauseFunc
	index    int       // in registry.asking
	released bool      // the reservation was released
	x        *exchange // with the server tried last; nil before the first
	ended    sync.Once // a tunnel has taken everything, or close was called
}

// newHandshake reserves a tunnel. The caller must close the handshake.
func (p *Proxy) newHandshake(w http.ResponseWriter, r *http.Request, protocol string) (*handshake, error) {
	h := &handshake{p: p, w: w, in: r, protocol: protocol, clientIP: p.policy.client(r), start: time.Now()}
	if err := p.tunnels.reserve(h.clientIP); err != nil {
		return nil, err
	}
	h.ctx, h.cancel = context.WithCancelCause(r.Context())
	if !p.tunnels.link(h) {
		h.cancel(ErrShutdown)
	}
	return h, nil
}

// release releases the reservation. It may be called more than once.
func (h *handshake) release() {
	if !h.released {
		h.released = true
		h.p.tunnels.release(h.clientIP)
	}
}

// close releases everything, unless a tunnel has taken it. It may be called
// more than once.
func (h *handshake) close() {
	h.ended.Do(func() {
		h.release()
		if h.x != nil {
			h.x.close()
		}
	})
	h.p.tunnels.unlink(h)
	h.cancel(nil)
}

// link makes markCut return h, for its caller to cancel, until unlink. It returns
// false if tunnels have been cut already. A context of the Proxy could do the same,
// but its child would cost each handshake more.
func (r *registry) link(h *handshake) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	h.index = len(r.asking)
	r.asking = append(r.asking, h)
	return r.cutFor == 0
}

// unlink undoes link. It may be called more than once.
func (r *registry) unlink(h *handshake) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if h.index < 0 {
		return
	}
	last := len(r.asking) - 1
	r.asking[h.index] = r.asking[last]
	r.asking[h.index].index = h.index
	r.asking[last] = nil
	r.asking = r.asking[:last]
	h.index = -1
}

// ask sends the request to one server after another until one responds.
func (h *handshake) ask() error {
	out := h.p.outgoingRequest(h.ctx, h.in, h.protocol)
	buf := requests.Get().(*[]byte)
	defer requests.Put(buf)
	wire, err := appendRequest((*buf)[:0], out)
	if err != nil {
		return err
	}
	if cap(wire) <= maxKeptRequest {
		*buf = wire
	}
	r := route{upstream: h.p.upstream, request: h.in, client: h.clientIP, tunnel: true}
	_, err = h.p.tryServers(h.ctx, &r, out, func(s lease) (*http.Response, error) {
		h.x = &exchange{server: s, in: h.in}
		err := h.x.send(h.ctx, h.p, wire)
		if err == nil {
			err = h.x.receive(h.ctx, h.p, out, h.w)
		} else if h.x.broke(err) && h.x.receive(h.ctx, h.p, out, h.w) == nil && h.x.res.StatusCode != http.StatusSwitchingProtocols {
			err = nil // the server responded before it had read the request
		}
		if err != nil {
			h.x.close()
			return nil, err
		}
		return h.x.res, nil
	})
	return err
}

// requests holds buffers for requests as they are sent, of at most
// maxKeptRequest bytes each.
var requests = sync.Pool{New: func() any { b := make([]byte, 0, 1<<10); return &b }}

const maxKeptRequest = 8 << 10

// tunnel returns the tunnel, which takes everything that h owns.
func (h *handshake) tunnel(client clientEnd) (t *Tunnel) {
	h.ended.Do(func() {
		t = h.p.newTunnel(h, client, h.x.conn)
		t.server.opened.Add(1)
		if len(client.early) > 0 {
			t.fromClient.opening = &opening{early: client.early}
		}
		t.fromUpstream.opening = &opening{client.head, h.x.early()}
		if draining, cutFor := h.p.tunnels.add(t); cutFor != 0 {
			t.cutShort(cutFor)
		} else if draining {
			t.drain()
		}
	})
	return t
}

// An exchange is a connection to a server for one request and its response.
type exchange struct {
	in      *http.Request
	server  lease
	conn    net.Conn
	unwatch func() bool // stops closing conn when the request's context is done
	closed  sync.Once
	left    sync.Once // the server's place is returned

	read     time.Duration // the read timeout
	headerBy time.Time     // the deadline of the response's header
	budget   int64         // bytes of header still accepted
	inBody   bool          // the header is complete
	heard    bool          // part of a final response may have been read
	err      error         // the first error of a read
	br       *bufio.Reader
	res      *http.Response
}

// send connects to the server and writes the request.
func (x *exchange) send(ctx context.Context, p *Proxy, wire []byte) (err error) {
	if x.conn, err = p.dialTunnel(ctx, x.in, x.server.Candidate); err != nil {
		return err
	}
	x.unwatch = context.AfterFunc(ctx, func() { cutConn(x.conn) })
	if p.sendTimeout > 0 {
		x.conn.SetWriteDeadline(time.Now().Add(p.sendTimeout))
	}
	if _, err := x.conn.Write(wire); err != nil {
		return unanswered{fmt.Errorf("sending the request: %w", err), false}
	}
	return nil
}

// broke reports whether err, of send, means that the server has closed the
// connection.
func (x *exchange) broke(err error) bool {
	var sending unanswered
	return errors.As(err, &sending) && peerClosed(err)
}

// close ends the exchange. It may be called more than once. It does not return
// br to the pool, because a reader of the body may still use it.
func (x *exchange) close() {
	x.closed.Do(func() {
		if x.unwatch != nil {
			x.unwatch()
		}
		if x.conn != nil {
			x.conn.Close()
		}
		x.leave()
	})
}

// leave returns the place among the server's tunnels. It may be called more than
// once.
func (x *exchange) leave() { x.left.Do(x.server.release) }

// early returns the bytes read after the 101. A 101 has no body, so nothing else
// uses br, which goes back to the pool.
func (x *exchange) early() []byte {
	early, _ := x.br.Peek(x.br.Buffered())
	early = slices.Clone(early)
	x.br.Reset(nil)
	readers.Put(x.br)
	x.br = nil
	return early
}

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
	type field struct {
		name   string
		values []string
	}
	kept := make([]field, 0, 8) // on the stack; a map would be on the heap
	for name, values := range header {
		kept = append(kept, field{name, values})
	}
	hijacked := false
	defer func() {
		if !hijacked { // an error or a panic in the Hijack of a wrapper
			clear(header)
			for _, f := range kept {
				header[f.name] = f.values
			}
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
	b = append(append(b, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: "...), protocol...)
	b = append(b, "\r\nConnection: Upgrade\r\n"...)
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
		// net/http keeps both buffers while the handler runs: 8 KiB for each tunnel.
		*brw.Reader = *bufio.NewReaderSize(conn, 16)
		if brw.Writer != nil && brw.Writer.Buffered() == 0 {
			*brw.Writer = *bufio.NewWriterSize(conn, 16)
		}
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
