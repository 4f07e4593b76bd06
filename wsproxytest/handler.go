package wsproxytest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"example.com/wsproxy/internal/memconn"
)

// A Handler is to frames what an http.Handler is to requests. It is called for
// each frame of a tunnel, in order, on one goroutine for each direction, and for
// different directions and tunnels concurrently. A frame that it does not send is
// lost. While it blocks, its direction stalls.
//
// A nil Handler forwards everything. A Handler that panics fails the test and
// cuts the tunnel. A Handler may call t.Errorf. It must not call t.FailNow, which
// would only cut the tunnel, because the Handler is not on the test's goroutine.
//
// If another goroutine sends a frame after its Handler has returned, the
// transcript lists the frame as dropped and then as injected.
type Handler func(w *Wire, f Frame)

func (h Handler) handle(w *Wire, f Frame) {
	if h == nil {
		w.Send(f)
	} else {
		h(w, f)
	}
}

// Wrap returns a handler that calls next, and calls h for the frames of the
// WebSockets that next upgrades. next may be any handler that upgrades, such as a
// WebSocket library's, a [wsproxy.Proxy] or an [httputil.ReverseProxy]. It gets
// the requests without Sec-WebSocket-Extensions.
//
// Wrap needs no test. It has no transcript, and its tunnels end only with their
// connections. A panic in h ends the program. To test a server, use [New].
func (h Handler) Wrap(next http.Handler) http.Handler {
	return &interceptor{handler: h, next: next, there: map[string]int{}}
}

// An interceptor is the handler of Wrap.
type interceptor struct {
	handler Handler
	next    http.Handler
	proxy   *Proxy // nil without a test

	mu     sync.Mutex
	opened int
	there  map[string]int // tunnels by target
}

func (i *interceptor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !isWebSocket(r) {
		i.next.ServeHTTP(w, r)
		return
	}
	ctx := r.Context()
	kill := context.CancelFunc(func() {})
	upgraded := new(atomic.Pointer[Tunnel])
	if i.proxy != nil {
		ctx, kill = context.WithCancel(context.WithValue(ctx, upgradedKey{}, upgraded))
		defer kill()
	}
	r = r.WithContext(ctx)
	r.Header = r.Header.Clone()
	r.Header.Del("Sec-Websocket-Extensions")
	i.next.ServeHTTP(&upgradeWriter{ResponseWriter: w, owner: i, r: r, kill: kill, upgraded: upgraded}, r)
}

// isWebSocket reports whether r asks for a WebSocket.
func isWebSocket(r *http.Request) bool {
	return hasToken(r.Header["Connection"], "upgrade") && hasToken(r.Header["Upgrade"], "websocket")
}

func hasToken(values []string, token string) bool {
	for _, value := range values {
		for item := range strings.SplitSeq(value, ",") {
			if strings.EqualFold(strings.TrimSpace(item), token) {
				return true
			}
		}
	}
	return false
}

// An upgradeWriter is a ResponseWriter whose Hijack returns one end of a
// connection in memory in place of the client's connection.
type upgradeWriter struct {
	http.ResponseWriter
	owner  *interceptor
	r      *http.Request
	kill   context.CancelFunc
	status int

	upgraded *atomic.Pointer[Tunnel] // set by Hijack
}

// Unwrap is for an http.ResponseController.
func (w *upgradeWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *upgradeWriter) WriteHeader(status int) {
	if w.status < 200 && w.status != http.StatusSwitchingProtocols {
		w.status = status
		if status >= 200 && w.owner.proxy != nil {
			w.owner.proxy.noteRefusal(status)
		}
	}
	w.ResponseWriter.WriteHeader(status)
}

// Flush is for handlers that assert http.Flusher.
func (w *upgradeWriter) Flush() { http.NewResponseController(w.ResponseWriter).Flush() }

// Hijack implements http.Hijacker.
func (w *upgradeWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, brw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	early, _ := brw.Reader.Peek(brw.Reader.Buffered())
	early = bytes.Clone(early)
	conn.SetDeadline(time.Time{})
	near, far := memconn.PipeBetween(memconn.Size, conn.LocalAddr(), conn.RemoteAddr())
	t := w.owner.newTunnel(w.r, w.kill, newEnd(conn), far, early)
	w.upgraded.Store(t)
	if p := w.owner.proxy; p != nil && !p.track(t) {
		t.stopNow()
	}
	// If the handler has already written a 101, frames follow.
	go t.begin(w.status == http.StatusSwitchingProtocols)
	return near, bufio.NewReadWriter(bufio.NewReader(near), bufio.NewWriter(near)), nil
}

// maxHead bounds the response to a handshake, in bytes.
const maxHead = 1 << 20

// begin opens the tunnel when the handler has switched, and then forwards what
// the server sends.
func (t *Tunnel) begin(switched bool) {
	d := t.to[Client]
	for !switched {
		head, status, err := d.in.head()
		if switched = status == http.StatusSwitchingProtocols; switched {
			t.owner.open(t) // before the client can open another one
		}
		d.write(head)
		if err != nil || status >= 200 { // no tunnel; the handler decides what follows
			if p := t.owner.proxy; p != nil {
				p.noteRefusal(status)
			}
			go t.to[Server].pass()
			d.pass()
			return
		}
	}
	if t.N == 0 {
		t.owner.open(t)
	}
	close(t.ready)
	go t.to[Server].run()
	d.run()
}

// pass forwards bytes that belong to no tunnel.
func (d *direction) pass() {
	defer d.finish()
	rest := d.in.unread()
	d.sourceEndedAfter(d.copyRaw(rest))
}

// head reads the header of a response, and returns its bytes and status.
func (p *parser) head() (head []byte, status int, err error) {
	for {
		if at := bytes.Index(p.buf[p.r:p.w], []byte("\r\n\r\n")); at >= 0 {
			head = bytes.Clone(p.buf[p.r : p.r+at+4])
			p.r += at + 4
			_, err = fmt.Sscanf(string(head), "HTTP/1.1 %d", &status)
			return head, status, err
		}
		if p.w-p.r > maxHead {
			return nil, 0, errMalformed
		}
		if err := p.fill(); err != nil {
			return nil, 0, err
		}
	}
}

// open numbers the tunnel.
func (i *interceptor) open(t *Tunnel) {
	i.mu.Lock()
	i.opened++
	i.there[t.target]++
	t.N, t.nth = i.opened, i.there[t.target]
	i.mu.Unlock()
	if i.proxy != nil {
		i.proxy.noteOpened(t)
	}
}
