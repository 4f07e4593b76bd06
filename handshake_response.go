package wsproxy

import (
	"context"
	"crypto/sha1"
	"encoding/base64"
	"io"
	"maps"
	"net/http"
	"net/http/httputil"
	"strings"
	"time"
)

// acceptSwitch readies a 101 for the client, and the server's connection for a
// tunnel.
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
	h.x.conn.SetDeadline(time.Time{}) // the sweeper keeps time from here on
	return nil
}

// modifySwitch gives the user's function a 101 to see and change.
func (p *Proxy) modifySwitch(res *http.Response) error {
	removeHopByHop(res.Header)
	delete(res.Header, "Content-Length") // RFC 9110, section 8.6: never in a 101
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
