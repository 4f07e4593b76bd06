package wsproxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A Reason is why a tunnel ended. What happened first decides.
type Reason uint8

// The reasons for which tunnels end.
const (
	ClientClosed   Reason = iota + 1 // the client closed or reset its connection
	UpstreamClosed                   // the upstream closed or reset its connection
	ReadTimeout                      // no byte crossed for the read timeout
	SendTimeout                      // a write made no progress for the send timeout
	MaxLifetime                      // the tunnel reached the maximal lifetime
	Shutdown                         // cut at the end of the context given to Proxy.Shutdown
	Killed                           // cut by Proxy.Close
	ContextDone                      // the request's context ended
	Failed                           // something of the proxy's own failed, such as a hook
)

var reasonNames = [...]string{
	ClientClosed:   "client closed",
	UpstreamClosed: "upstream closed",
	ReadTimeout:    "read timeout",
	SendTimeout:    "send timeout",
	MaxLifetime:    "max lifetime",
	Shutdown:       "shutdown",
	Killed:         "killed",
	ContextDone:    "context done",
	Failed:         "failed",
}

// String returns the reason in words: "client closed", "read timeout".
func (r Reason) String() string {
	if int(r) < len(reasonNames) && r != 0 {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// FlowStats counts what crossed a tunnel in one direction.
type FlowStats struct {
	Bytes int64 // after the handshake, framing included
}

// An Ending is how a tunnel ended.
type Ending struct {
	Reason Reason

	// Err is what failed, if anything did: a reset, the panic of a hook. It is
	// nil for a tunnel that its peers closed in order or that ran into a
	// timeout.
	Err error

	// Handshake is the time from the request to the upstream's 101, and
	// Lifetime the time from there to the end. Only the first belongs in a
	// histogram of latencies.
	Handshake, Lifetime time.Duration

	FromClient, FromUpstream FlowStats
}

// Hooks are called as tunnels open and close, each exactly once for a tunnel
// and OnOpen first. Any may be nil. They may be called concurrently for
// different tunnels and hold their tunnel up, so they should be quick. A panic
// in one is logged and ends its tunnel with [Failed].
type Hooks struct {
	// OnOpen is called when the upstream has switched, before the client is
	// told. r must not be kept.
	OnOpen func(t *Tunnel, r *http.Request)

	// OnClose is called when both connections are closed, before ServeHTTP
	// returns where that waits.
	OnClose func(t *Tunnel, e Ending)
}

// A Tunnel is one upgraded pair of connections. It is the Proxy's; its methods
// may be called from any goroutine, also after it ended.
type Tunnel struct {
	p         *Proxy
	id        uint64
	clientIP  netip.Addr
	path      string
	opened    time.Time
	handshake time.Duration

	client, upstream         net.Conn
	fromClient, fromUpstream flow

	closing atomic.Int64 // when the first side ended, 0 before
	index   int          // in registry.live

	mu     sync.Mutex
	reason Reason
	err    error
}

func (p *Proxy) newTunnel(r *http.Request, start time.Time, client, upstream net.Conn) *Tunnel {
	now := time.Now()
	t := &Tunnel{
		p:         p,
		clientIP:  p.policy.client(r),
		path:      strings.Clone(r.URL.Path), // not to hold the whole request line
		opened:    now,
		handshake: now.Sub(start),
		client:    client,
		upstream:  upstream,
	}
	t.fromClient.init(t, client, upstream, ClientClosed, UpstreamClosed)
	t.fromUpstream.init(t, upstream, client, UpstreamClosed, ClientClosed)
	return t
}

// ID returns the tunnel's number, unique within its Proxy and counted from 1.
func (t *Tunnel) ID() uint64 { return t.id }

// ClientIP returns the client's address by the rule of [WithTrustedProxies],
// or the zero Addr where there is none, as on a unix socket.
func (t *Tunnel) ClientIP() netip.Addr { return t.clientIP }

// Path returns the path that the client asked for, without the query.
func (t *Tunnel) Path() string { return t.path }

// Server returns the address of the upstream: host:port or a socket's path.
func (t *Tunnel) Server() string { return t.p.target.addr }

// Opened returns when the upstream switched.
func (t *Tunnel) Opened() time.Time { return t.opened }

// FromClient counts what the client has sent so far.
func (t *Tunnel) FromClient() FlowStats { return t.fromClient.stats() }

// FromUpstream counts what the upstream has sent so far.
func (t *Tunnel) FromUpstream() FlowStats { return t.fromUpstream.stats() }

// run relays until the tunnel has ended and everything is released.
func (t *Tunnel) run(ctx context.Context) {
	unwatch := context.AfterFunc(ctx, func() { t.end(ContextDone, context.Cause(ctx)) })
	done := make(chan struct{})
	go func() {
		defer close(done)
		t.fromClient.run()
	}()
	t.fromUpstream.run()
	<-done
	unwatch()
	t.finish()
}

// settle fixes why the tunnel ends; the first call decides.
func (t *Tunnel) settle(reason Reason, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.reason == 0 {
		t.reason, t.err = reason, err
	}
}

// startClosing starts the close timeout, once.
func (t *Tunnel) startClosing() {
	t.closing.CompareAndSwap(0, t.p.tunnels.now())
}

// end cuts both connections, which ends both flows. It does not wait.
func (t *Tunnel) end(reason Reason, err error) {
	t.settle(reason, err)
	t.cut()
}

func (t *Tunnel) cut() {
	cutConn(t.client)
	cutConn(t.upstream)
}

// finish releases everything; both flows have returned.
func (t *Tunnel) finish() {
	t.client.Close()
	t.upstream.Close()
	e := Ending{
		Reason:       t.reason,
		Err:          t.err,
		Handshake:    t.handshake,
		Lifetime:     time.Since(t.opened),
		FromClient:   t.FromClient(),
		FromUpstream: t.FromUpstream(),
	}
	t.log("tunnel closed", slog.String("reason", e.Reason.String()), slog.Any("error", e.Err),
		slog.Duration("handshake", e.Handshake), slog.Duration("lifetime", e.Lifetime),
		slog.Int64("from_client", e.FromClient.Bytes), slog.Int64("from_upstream", e.FromUpstream.Bytes))
	t.hook("OnClose", func() {
		if t.p.hooks.OnClose != nil {
			t.p.hooks.OnClose(t, e)
		}
	})
	t.p.tunnels.remove(t)
}

func (t *Tunnel) log(message string, attrs ...slog.Attr) {
	if ctx := context.Background(); t.p.logger.Enabled(ctx, slog.LevelDebug) {
		t.p.logger.LogAttrs(ctx, slog.LevelDebug, message, append([]slog.Attr{
			slog.Uint64("tunnel", t.id), slog.String("client", t.clientIP.String()), slog.String("path", t.path)}, attrs...)...)
	}
}

// hook calls a function of the user's, whose panic ends this tunnel alone.
func (t *Tunnel) hook(name string, call func()) {
	defer func() {
		if v := recover(); v != nil {
			t.p.logger.Error("hook panicked", "hook", name, "tunnel", t.id, "panic", v, "stack", string(debug.Stack()))
			t.end(Failed, fmt.Errorf("wsproxy: %s panicked: %v", name, v))
		}
	}()
	call()
}

// cutConn closes a connection at once; a tls.Conn would first wait for the
// peer to take its close_notify.
func cutConn(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	conn.Close()
}

// resetConn closes a connection so that its peer sees a reset, where the
// network knows one.
func resetConn(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	conn.Close()
}

// closeWrite passes an end of stream on. It reports false where the
// connection cannot be half-closed.
func closeWrite(conn net.Conn) bool {
	half, ok := conn.(interface{ CloseWrite() error })
	if ok {
		half.CloseWrite() // a failure shows in the other flow
	}
	return ok
}
