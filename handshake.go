package wsproxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// A handshake is an upgrade request on its way to a tunnel. It owns what it
// acquires: a place among the Proxy's tunnels, and the exchange with a server.
// Either a tunnel takes them or close gives them back, whichever comes first.
type handshake struct {
	p        *Proxy
	w        http.ResponseWriter
	in       *http.Request
	protocol string
	clientIP netip.Addr
	start    time.Time

	ctx     context.Context // ends with the request, and with Proxy.Close until unlink
	cancel  context.CancelCauseFunc
	unlink  func() bool
	release func()    // gives back the place, once
	x       *exchange // with the server asked last; nil before
	ended   sync.Once // a tunnel has taken all, or close was called
}

// newHandshake reserves a place for a tunnel. The caller must close the
// handshake.
func (p *Proxy) newHandshake(w http.ResponseWriter, r *http.Request, protocol string) (*handshake, error) {
	h := &handshake{p: p, w: w, in: r, protocol: protocol, clientIP: p.policy.client(r), start: time.Now()}
	if err := p.tunnels.reserve(h.clientIP); err != nil {
		return nil, err
	}
	h.release = sync.OnceFunc(func() { p.tunnels.release(h.clientIP) })
	h.ctx, h.cancel = context.WithCancelCause(r.Context())
	h.unlink = context.AfterFunc(p.closing, func() { h.cancel(context.Cause(p.closing)) })
	return h, nil
}

// close gives back what no tunnel has taken. It may be called more than once.
func (h *handshake) close() {
	h.ended.Do(func() {
		h.release()
		if h.x != nil {
			h.x.close()
		}
	})
	h.unlink()
	h.cancel(nil)
}

// ask sends the request to the servers in turn until one responds.
func (h *handshake) ask() error {
	out := h.p.outgoingRequest(h.ctx, h.in, h.protocol)
	wire, err := appendRequest(make([]byte, 0, 1024), out)
	if err != nil {
		return err
	}
	r := route{upstream: h.p.upstream, request: h.in, client: h.clientIP, tunnel: true}
	_, err = h.p.tryServers(h.ctx, &r, out, func(s lease) (*http.Response, error) {
		h.x = &exchange{server: s}
		err := h.x.send(h.ctx, h.p, wire)
		if err == nil {
			err = h.x.receive(h.ctx, h.p, out, h.w)
		} else if h.x.broke(err) && h.x.receive(h.ctx, h.p, out, h.w) == nil && h.x.res.StatusCode != http.StatusSwitchingProtocols {
			err = nil // it has responded before the end of the request
		}
		if err != nil {
			h.x.close()
			return nil, err
		}
		return h.x.res, nil
	})
	return err
}

// tunnel makes the tunnel, which takes all that the handshake owns.
func (h *handshake) tunnel(client clientEnd) (t *Tunnel) {
	h.ended.Do(func() {
		t = h.p.newTunnel(h.in, h.clientIP, h.protocol, h.start, client.conn, h.x.conn)
		t.server = h.x.server
		t.fromClient.early = client.early
		t.fromUpstream.head, t.fromUpstream.early = client.head, h.x.early()
		if draining, cutFor := h.p.tunnels.add(t); cutFor != 0 {
			t.cutShort(cutFor)
		} else if draining {
			t.drain()
		}
	})
	return t
}

// An exchange is the one request on a connection to a server and its response.
type exchange struct {
	server  lease
	conn    net.Conn
	unwatch func() bool // stops closing conn when the request's context ends
	closed  sync.Once

	read     time.Duration // the read timeout
	headerBy time.Time     // when the response's header has to be whole
	budget   int64         // bytes of header still accepted
	inBody   bool          // the header is whole
	heard    bool          // something of a final response may have come
	err      error         // of the last read
	br       *bufio.Reader
	res      *http.Response
}

// maxResponseHeader bounds the header of an upstream's response, informational
// ones before it included. It is net/http's limit for a client's.
const maxResponseHeader = http.DefaultMaxHeaderBytes

var errHeaderTooLarge = fmt.Errorf("response header is larger than %d bytes", maxResponseHeader)

// send connects to the server and writes the request.
func (x *exchange) send(ctx context.Context, p *Proxy, wire []byte) (err error) {
	if x.conn, err = p.dial(ctx, x.server.Candidate); err != nil {
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

// broke reports an error of send's that means that the server has closed.
func (x *exchange) broke(err error) bool {
	var sending unanswered
	return errors.As(err, &sending) && peerClosed(err)
}

// receive reads the final response to out, passing informational ones on to w.
func (x *exchange) receive(ctx context.Context, p *Proxy, out *http.Request, w http.ResponseWriter) error {
	x.read, x.budget = p.readTimeout, maxResponseHeader
	x.waitForHeader(time.Now())
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
			err = fmt.Errorf("reading the response: %w", bounded(err))
			if x.err != nil && !x.heard && !isTimeout(x.err) {
				err = unanswered{err, false}
			}
			return err
		}
		if res.StatusCode == http.StatusSwitchingProtocols {
			if err := checkSwitch(res, out); err != nil {
				return err
			}
		} else if res.StatusCode < 200 {
			x.heard = false
			removeHopByHop(res.Header)
			began := time.Now()
			informational(ctx, w, res, p.sendTimeout)
			// The time that the client takes is not the server's.
			x.waitForHeader(x.headerBy.Add(time.Since(began) - x.read))
			continue
		}
		x.inBody = true
		res.Body = &responseBody{res.Body, x}
		x.res = res
		return nil
	}
}

// Read implements io.Reader for br. The header has to be whole within the read
// timeout and the budget; the body is under the read timeout between two reads.
// An error stays: bufio takes what came before one for a line and reads on.
func (x *exchange) Read(b []byte) (int, error) {
	if x.err != nil {
		return 0, x.err
	}
	if !x.inBody {
		if x.budget == 0 {
			x.err = errHeaderTooLarge
			return 0, x.err
		}
		b = b[:min(int64(len(b)), x.budget)]
	} else if x.read > 0 {
		x.conn.SetReadDeadline(time.Now().Add(x.read))
	}
	var n int
	n, x.err = x.conn.Read(b)
	x.heard = x.heard || n > 0
	if !x.inBody {
		x.budget -= int64(n)
	}
	return n, x.err
}

var readers = sync.Pool{New: func() any { return bufio.NewReader(nil) }}

// waitForHeader gives the header the read timeout from a time on.
func (x *exchange) waitForHeader(from time.Time) {
	if x.read > 0 {
		x.headerBy = from.Add(x.read)
		x.conn.SetReadDeadline(x.headerBy)
	}
}

// close ends the exchange. It may be called more than once. A reader of the
// body may still hold br, which therefore does not go back to the pool.
func (x *exchange) close() {
	x.closed.Do(func() {
		if x.unwatch != nil {
			x.unwatch()
		}
		if x.conn != nil {
			x.conn.Close()
		}
		x.server.release()
	})
}

// early returns the bytes that came glued to a 101, which has no body: nobody
// else holds br.
func (x *exchange) early() []byte {
	early, _ := x.br.Peek(x.br.Buffered())
	early = slices.Clone(early)
	x.br.Reset(nil)
	readers.Put(x.br)
	x.br = nil
	return early
}
