package wsproxy

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"example.com/wsproxy/internal/frame"
)

// A Tunnel is one upgraded pair of connections. It is the Proxy's; its methods
// may be called from any goroutine, also after it ended.
type Tunnel struct {
	p         *Proxy
	id        uint64
	clientIP  netip.Addr
	path      string
	opened    time.Time
	handshake time.Duration
	frames    bool // a WebSocket, whose frames are followed

	server                   lease // the one that switched
	relay                    relay
	fromClient, fromUpstream flow

	leaving atomic.Bool // goAway was called
	closing atomicStamp // when the first side ended or was told to
	index   int         // in registry.live

	mu      sync.Mutex
	reason  Reason
	err     error
	goodbye []byte // payload of the proxy's Close frames, fixed once leaving
}

// maxPath is how much of a path a tunnel keeps: what a client can make each of
// its tunnels hold.
const maxPath = 4 << 10

func (p *Proxy) newTunnel(r *http.Request, clientIP netip.Addr, protocol string, start time.Time, client clientEnd, upstream net.Conn) *Tunnel {
	now := time.Now()
	t := &Tunnel{
		p:         p,
		clientIP:  clientIP,
		path:      strings.Clone(r.URL.Path[:min(len(r.URL.Path), maxPath)]), // not to hold the whole request line
		opened:    now,
		handshake: now.Sub(start),
		frames:    protocol == "websocket",
	}
	t.fromClient.init(t, ReasonClientClosed, ReasonUpstreamClosed)
	t.fromUpstream.init(t, ReasonUpstreamClosed, ReasonClientClosed)
	t.fromClient.limit(p.maxFromClient)
	t.fromUpstream.limit(p.maxFromUpstream)
	t.relay = newRelay(t, client, upstream)
	return t
}

// ID returns the tunnel's number, unique within its Proxy and counted from 1.
func (t *Tunnel) ID() uint64 { return t.id }

// ClientIP returns the client's address by the rule of [WithTrustedProxies],
// or the zero Addr where there is none, as on a unix socket.
func (t *Tunnel) ClientIP() netip.Addr { return t.clientIP }

// Path returns the path that the client asked for, without the query. Of a path
// longer than 4 KiB it returns the first 4 KiB.
func (t *Tunnel) Path() string { return t.path }

// Server returns the address of the upstream's server as [Server.Addr] has it:
// host:port or unix:/path.
func (t *Tunnel) Server() string { return t.server.Addr() }

// OpenedAt returns when the upstream switched.
func (t *Tunnel) OpenedAt() time.Time { return t.opened }

// FromClient counts what the client has sent so far.
func (t *Tunnel) FromClient() FlowStats { return t.fromClient.stats() }

// FromUpstream counts what the upstream has sent so far.
func (t *Tunnel) FromUpstream() FlowStats { return t.fromUpstream.stats() }

// LastActivity returns when a byte last crossed the tunnel.
func (t *Tunnel) LastActivity() time.Time {
	return t.p.tunnels.time(t.lastActivity())
}

func (t *Tunnel) lastActivity() stamp {
	last := t.p.tunnels.stamp(t.opened)
	for _, f := range t.flows() {
		last = max(last, f.heard.Load(), f.moved.Load(), f.stalled.Load())
	}
	return last
}

// closedAt returns when a Close frame last passed, or, if that is later, when
// the end that has not closed last sent something, or a waiting write of the
// flow behind the Close frame last moved. The stamp is not set if no Close frame
// has passed.
func (t *Tunnel) closedAt() (at stamp) {
	for _, f := range t.flows() {
		if passed := f.passed.Load(); passed.isSet() {
			at = max(at, passed, f.moved.Load(), f.stalled.Load())
			if back := f.back(); !back.passed.Load().isSet() {
				at = max(at, back.heard.Load())
			}
		}
	}
	return at
}

func (t *Tunnel) flows() [2]*flow { return [2]*flow{&t.fromClient, &t.fromUpstream} }

// Close ends the tunnel with [ReasonKilled]: both ends get a Close frame with code
// and reason as soon as a frame of theirs allows, and have the close timeout to
// answer. It does not wait for that. A tunnel of another protocol than
// WebSocket is cut. Where either side has begun to close, that goes on instead.
//
// Close fails for a code that no endpoint may send (RFC 6455, section 7.4: 1000
// to 1003, 1007 to 1014 and 3000 to 4999 may be sent) and for a reason that is
// not UTF-8 or longer than 123 bytes.
func (t *Tunnel) Close(code int, reason string) error {
	if _, err := frame.ClosePayload(code, reason); err != nil {
		return fmt.Errorf("wsproxy: %w", err)
	}
	t.goAway(ReasonKilled, code, reason)
	return nil
}

// goAway ends the tunnel in good order: with a Close frame to both ends, and
// the close timeout for their answers. Where frames are not followed it cuts.
func (t *Tunnel) goAway(reason Reason, code int, text string) {
	if !t.frames {
		t.end(reason, nil)
		return
	}
	t.mu.Lock()
	if t.goodbye == nil {
		t.goodbye, _ = frame.ClosePayload(code, text)
		if t.reason == 0 {
			t.reason = reason
		}
		t.closing.Store(t.p.tunnels.now()) // anew, where one side had ended
	}
	t.mu.Unlock()
	t.leaving.Store(true)
	t.p.tunnels.watchAnswers()
	t.askBoth(askClose)
}

// drain is what Shutdown asks of a tunnel. Where there is no frame to ask the
// ends with, they are left to end by themselves.
func (t *Tunnel) drain() {
	if t.frames {
		t.goAway(ReasonShutdown, frame.CodeGoingAway, "shutting down")
	}
}

// run announces the tunnel and relays until it has ended and everything is
// released. It relays even if a function of the user's exits the goroutine
// (runtime.Goexit), which has then ended the tunnel.
func (t *Tunnel) run(r *http.Request) {
	ctx := r.Context()
	unwatch := context.AfterFunc(ctx, func() {
		if s, ok := t.relay.(*streamRelay); ok && s.wasReset() {
			return // which its flow has passed on
		}
		t.end(ReasonContextDone, context.Cause(ctx))
	})
	defer t.finish()
	defer unwatch()
	defer t.relay.run()
	t.announce(r)
}

// start is run in the background, without the request's context.
func (t *Tunnel) start(r *http.Request) {
	defer t.relay.start(t.finish)
	t.announce(r)
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
	t.closing.storeFirst(t.p.tunnels.now())
}

// end cuts both connections, which ends both flows. It does not wait.
func (t *Tunnel) end(reason Reason, err error) {
	t.settle(reason, err)
	t.relay.cut()
}

// cutShort cuts a tunnel that may have begun to close in order: its reason, if
// it has one, stays, and ErrCut is its error unless it has one.
func (t *Tunnel) cutShort(reason Reason) {
	t.mu.Lock()
	if t.reason == 0 {
		t.reason = reason
	}
	if t.err == nil {
		t.err = ErrCut
	}
	t.mu.Unlock()
	t.relay.cut()
}

// finish makes the ending known; the relay is done.
func (t *Tunnel) finish() {
	defer t.p.tunnels.remove(t)
	defer t.server.release()
	t.mu.Lock()
	reason, err := t.reason, t.err
	t.mu.Unlock()
	e := Ending{
		Reason:       reason,
		Err:          err,
		Handshake:    t.handshake,
		Lifetime:     time.Since(t.opened),
		FromClient:   t.FromClient(),
		FromUpstream: t.FromUpstream(),
	}
	if t.p.hooks.OnClose != nil {
		defer t.hook("OnClose", func() { t.p.hooks.OnClose(t, e) })
	}
	t.log(slog.LevelDebug, "tunnel closed", slog.String("reason", e.Reason.String()), slog.Any("error", e.Err),
		slog.Duration("handshake", e.Handshake), slog.Duration("lifetime", e.Lifetime),
		slog.Any("from_client", e.FromClient), slog.Any("from_upstream", e.FromUpstream))
}
