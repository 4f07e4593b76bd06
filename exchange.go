package wsproxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// maxResponseHeader bounds the header of an upstream's response, informational
// ones before it included. It is net/http's limit for a client's.
const maxResponseHeader = http.DefaultMaxHeaderBytes

// An exchange is the one request on a connection to a server and its
// response.
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

var errHeaderTooLarge = fmt.Errorf("response header is larger than %d bytes", maxResponseHeader)

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
	answered := false
	defer func() {
		if !answered && x != nil { // a policy panicked over the next server
			x.close()
		}
	}()
	r := route{upstream: p.upstream, request: in, client: clientIP, tunnel: true}
	_, err = p.tryServers(ctx, &r, replayable(out), func(s lease) (_ *http.Response, err error) {
		x, err = p.ask(ctx, s, wire, out, w)
		if err != nil {
			return nil, err
		}
		return x.res, nil
	})
	if err != nil {
		return nil, err
	}
	answered = true
	return x, nil
}

// ask sends the upgrade request to one server and reads its final response,
// passing informational ones on to w.
func (p *Proxy) ask(ctx context.Context, s lease, wire []byte, out *http.Request, w http.ResponseWriter) (_ *exchange, err error) {
	x := &exchange{server: s, read: p.readTimeout, budget: maxResponseHeader}
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
			return nil, fmt.Errorf("reading the response: %w", err)
		}
		switch {
		case res.StatusCode == http.StatusSwitchingProtocols:
			if err := checkSwitch(res, out); err != nil {
				return nil, err
			}
		case res.StatusCode < 200:
			removeHopByHop(res.Header)
			informational(ctx, w, res, p.sendTimeout)
			continue
		}
		x.budget = -1
		res.Body = &responseBody{res.Body, x}
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

// informational passes a 1xx on, leaving w's header as middleware made it. A
// client that does not take it is waited for no longer than the send timeout or
// ctx last; net/http then ends the request.
func informational(ctx context.Context, w http.ResponseWriter, res *http.Response, timeout time.Duration) {
	rc := http.NewResponseController(w)
	if timeout > 0 {
		rc.SetWriteDeadline(time.Now().Add(timeout))
	}
	unwatch := context.AfterFunc(ctx, func() { rc.SetWriteDeadline(longAgo) })
	defer func() {
		if unwatch() {
			rc.SetWriteDeadline(serverWriteDeadline(ctx))
		}
	}()
	h := w.Header()
	kept := maps.Clone(h)
	clear(h)
	maps.Copy(h, res.Header)
	w.WriteHeader(res.StatusCode)
	clear(h)
	maps.Copy(h, kept)
}

// responseBody closes the connection it comes from, which is never used again,
// rather than reading the rest of the body first.
type responseBody struct {
	io.Reader
	x *exchange
}

func (b *responseBody) Close() error {
	b.x.close()
	return nil
}

// serverWriteDeadline is what http.Server's WriteTimeout means from now on.
func serverWriteDeadline(ctx context.Context) time.Time {
	server, ok := ctx.Value(http.ServerContextKey).(*http.Server)
	if !ok || server.WriteTimeout <= 0 {
		return time.Time{}
	}
	return time.Now().Add(server.WriteTimeout)
}
