package wsproxy

import (
	"bufio"
	"cmp"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"sync"
	"time"

	"example.com/wsproxy/internal/syntax"
)

// maxResponseHeader limits the header of a response, including those of the
// informational responses before it. It is net/http's limit for requests.
const maxResponseHeader = http.DefaultMaxHeaderBytes

var errHeaderTooLarge = fmt.Errorf("response header is larger than %d bytes", maxResponseHeader)

// receive reads the final response to out. It forwards informational responses
// to w.
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
			err = fmt.Errorf("reading the response: %w", syntax.Bounded(err))
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
			informational(ctx, w, x.in, res, p.sendTimeout)
			// Do not count the time of the write to the client.
			x.waitForHeader(x.headerBy.Add(time.Since(began) - x.read))
			continue
		}
		x.inBody = true
		res.Body = &responseBody{res.Body, x}
		x.res = res
		return nil
	}
}

// Read implements io.Reader for br. The header must be complete within the read
// timeout and the budget. For the body the read timeout applies between two
// reads. Read keeps returning the first error, because bufio reads on after an
// error that follows part of a line.
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

// waitForHeader sets the deadline of the header, one read timeout after from.
func (x *exchange) waitForHeader(from time.Time) {
	if x.read > 0 {
		x.headerBy = from.Add(x.read)
		x.conn.SetReadDeadline(x.headerBy)
	}
}

// acceptSwitch prepares the 101 for the client and the server's connection for
// the tunnel.
func (h *handshake) acceptSwitch() error {
	if err := h.p.modifySwitch(h.x.res); err != nil {
		return err
	}
	if h.p.tunnels.refusing() {
		return unavailable(ErrShutdown, nil)
	}
	if !h.x.unwatch() {
		return upstreamError(h.ctx, context.Cause(h.ctx))
	}
	return nil
}

// modifySwitch calls the function of WithModifyResponse with the 101.
func (p *Proxy) modifySwitch(res *http.Response) error {
	removeHopByHop(res.Header)
	delete(res.Header, "Content-Length") // RFC 9110, section 8.6: not allowed in a 101
	if p.modifyResponse == nil {
		return nil
	}
	res.Body = http.NoBody
	if err := p.modifyResponse(res); err != nil {
		return &refusal{kind: ErrUpstream, status: http.StatusBadGateway, cause: err}
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		return badGateway("WithModifyResponse changed a 101 to %d", res.StatusCode)
	}
	removeHopByHop(res.Header)
	return nil
}

// informational forwards a 1xx response to the client. It restores the header
// of w, which middleware may have set. If the client does not read, it waits
// until the send timeout expires or ctx is done; net/http then ends the
// request.
func informational(ctx context.Context, w http.ResponseWriter, in *http.Request, res *http.Response, timeout time.Duration) {
	rc := http.NewResponseController(w)
	if timeout > 0 {
		rc.SetWriteDeadline(time.Now().Add(timeout))
	}
	expired := make(chan struct{})
	unwatch := context.AfterFunc(ctx, func() {
		defer close(expired)
		rc.SetWriteDeadline(longAgo)
	})
	defer func() {
		if unwatch() {
			rc.SetWriteDeadline(handshakeWriteDeadline(in))
		} else {
			<-expired // middleware may reuse w when the handler has returned
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

// A responseBody closes its connection, which is not used again, without
// reading the rest of the body.
type responseBody struct {
	io.Reader
	x *exchange
}

func (b *responseBody) Close() error {
	b.x.close()
	return nil
}

// handshakeWriteDeadline returns the deadline of writes to the client after an
// informational response. A stream has none, see clearDeadlines.
func handshakeWriteDeadline(in *http.Request) time.Time {
	if isStream(in) {
		return time.Time{}
	}
	return serverWriteDeadline(in.Context())
}

// serverWriteDeadline returns the write deadline by the WriteTimeout of the
// http.Server, counted from now. It is zero if there is no WriteTimeout.
func serverWriteDeadline(ctx context.Context) time.Time {
	server, ok := ctx.Value(http.ServerContextKey).(*http.Server)
	if !ok || server.WriteTimeout <= 0 {
		return time.Time{}
	}
	return time.Now().Add(server.WriteTimeout)
}

// checkSwitch checks the 101 to the request out (RFC 6455, section 4.1).
func checkSwitch(res *http.Response, out *http.Request) error {
	protocol := out.Header.Get("Upgrade")
	if res.ProtoMajor != 1 || res.ProtoMinor < 1 {
		return badGateway("answered 101 in %s, want HTTP/1.1", syntax.Quote(res.Proto))
	}
	if got := res.Header["Upgrade"]; len(got) != 1 || !syntax.EqualFold(got[0], protocol) {
		return badGateway("switched to %s, want %q", syntax.Quote(strings.Join(got, ", ")), protocol)
	}
	if res.Close { // net/http has removed the field
		return badGateway("answered 101 with Connection %q, want %q", "close", "Upgrade")
	}
	if got := res.Header["Connection"]; !syntax.HasToken(got, "upgrade") {
		return badGateway("answered 101 with Connection %s, want %q", syntax.Quote(strings.Join(got, ", ")), "Upgrade")
	}
	if protocol != "websocket" {
		return nil
	}
	want := acceptKey(out.Header.Get("Sec-Websocket-Key"))
	if got := res.Header["Sec-Websocket-Accept"]; len(got) != 1 || got[0] != want {
		return badGateway("Sec-WebSocket-Accept %s, want %q", syntax.Quote(strings.Join(got, ", ")), want)
	}
	return nil
}

// acceptKey returns the Sec-WebSocket-Accept for a key (RFC 6455, section
// 4.2.2).
func acceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// relayResponse forwards a response other than a 101 through httputil, which
// streams the body, forwards trailers, and aborts the response if the upstream
// does. Like a plain response it counts as a tunnel of neither the Proxy nor the
// server, and Proxy.Close does not end it.
func (h *handshake) relayResponse() {
	h.release()
	h.x.leave()
	h.p.tunnels.unlink(h)
	method := h.in.Method
	if isStream(h.in) {
		method = http.MethodGet // httputil refuses CONNECT
		restoreDeadline(h.w, h.in)
	} else {
		keepUpgrade(h.x.res)
	}
	w := newPlainWriter(h.w, h.p.sendTimeout)
	failed := false
	defer func() { // also if the upstream or the client cuts the response
		if !failed {
			h.p.refused(h.in, cmp.Or(w.status, h.x.res.StatusCode), nil)
		}
	}()
	defer w.end(h.in.Context(), false)
	(&httputil.ReverseProxy{
		Rewrite:        func(*httputil.ProxyRequest) {},
		Transport:      roundTripFunc(func(*http.Request) (*http.Response, error) { return h.x.res, nil }),
		ModifyResponse: h.modifyRefusal,
		FlushInterval:  -1,
		BufferPool:     bodyBuffers{},
		ErrorLog:       h.p.errorLog,
		ErrorHandler: func(_ http.ResponseWriter, _ *http.Request, err error) {
			failed = true
			h.p.refuse(h.w, h.in, upstreamError(h.in.Context(), err))
		},
	}).ServeHTTP(w, (&http.Request{Method: method, URL: h.in.URL, Header: http.Header{}}).WithContext(h.in.Context()))
}

// refuse responds to an upgrade that failed before its tunnel was open.
func (p *Proxy) refuse(w http.ResponseWriter, r *http.Request, err error) {
	sw := &statusWriter{ResponseWriter: w}
	status := StatusCode(err) // if the error handler panics
	defer func() { p.refused(r, cmp.Or(sw.status, status), err) }()
	p.fail(sw, r, err)
	if !sw.hijacked {
		status = http.StatusOK // which net/http sends for a handler that writes nothing
	}
}

// A statusWriter records the status that an error handler responds with.
type statusWriter struct {
	http.ResponseWriter
	status   int // 0 before it
	hijacked bool
}

func (w *statusWriter) WriteHeader(status int) {
	w.ResponseWriter.WriteHeader(status) // panics if there is no such status
	if w.status == 0 && status >= 200 {
		w.status = status
	}
}

func (w *statusWriter) Write(b []byte) (int, error) {
	w.status = cmp.Or(w.status, http.StatusOK)
	return w.ResponseWriter.Write(b)
}

func (w *statusWriter) Flush() { w.FlushError() }

// FlushError implements the Flush of http.ResponseController.
func (w *statusWriter) FlushError() error {
	err := http.NewResponseController(w.ResponseWriter).Flush()
	if err == nil {
		w.status = cmp.Or(w.status, http.StatusOK)
	}
	return err
}

func (w *statusWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, brw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	w.hijacked = w.hijacked || err == nil
	return conn, brw, err
}

func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// modifyRefusal calls the function of WithModifyResponse with a response other
// than a 101. Any 2xx would open a stream, also one that the function has set.
func (h *handshake) modifyRefusal(res *http.Response) error {
	if h.p.modifyResponse != nil {
		if err := h.p.modifyResponse(res); err != nil {
			return err
		}
	}
	if isStream(h.in) {
		if res.StatusCode < 300 {
			return badGateway("answered an upgrade with status %d", res.StatusCode)
		}
		removeMalformed(res.Header)
	}
	return nil
}

type roundTripFunc func(*http.Request) (*http.Response, error)

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
