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
	"example.com/wsproxy/internal/rate"
)

// A Tunnel is one upgraded pair of connections. It is the Proxy's; its methods
// may be called from any goroutine, also after it ended.
//
// Its size is that of a size class of the allocator, and either flow begins a
// cache line (TestATunnelIsSmall).
type Tunnel struct {
	fromClient flow
	p          *Proxy
	relay      relay
	outcome    atomic.Pointer[outcome] // nil: nothing has begun to end the tunnel

	fromUpstream flow
	opened       time.Time
	handshake    time.Duration
	clientIP     netip.Addr
	server       *Candidate // the one that switched
	names        *names
	onClose      *onClose // the first
	id           uint64
	index        int32 // in registry.live
	frames       bool  // a WebSocket, whose frames are followed
}

// An outcome is how a tunnel ends. A tunnel has one as soon as something begins to
// end it.
type outcome struct {
	closing atomicStamp            // when the first side ended or was told to
	goodbye atomic.Pointer[[]byte] // payload of the proxy's Close frames; nil: goAway was not called

	mu     sync.Mutex // guards these
	reason Reason
	err    error
}

// ending returns the outcome, which the first call makes.
func (t *Tunnel) ending() *outcome {
	if t.outcome.Load() == nil {
		t.outcome.CompareAndSwap(nil, new(outcome))
	}
	return t.outcome.Load()
}

// An onClose is a function that an OnOpen returned.
type onClose struct {
	call func(Ending)
	next *onClose
}

// names are the strings of a tunnel. Tunnels that open one after the other with
// the same names share them.
type names struct{ host, path, protocol, subprotocol string }

// A client can make each of its tunnels hold this much of what it sends.
const (
	maxPath = 4 << 10
	maxName = 256 // of a host or a subprotocol
)

// namesOf returns the names of a tunnel. It copies the strings, so that they do
// not keep the whole request line in memory.
func (p *Proxy) namesOf(h *handshake) *names {
	short := func(s string, n int) string { return s[:min(len(s), n)] }
	n := names{short(h.in.Host, maxName), short(h.in.URL.Path, maxPath), h.protocol,
		short(h.x.res.Header.Get("Sec-Websocket-Protocol"), maxName)}
	if last := p.lastNames.Load(); last != nil && *last == n {
		return last
	}
	own := &names{strings.Clone(n.host), strings.Clone(n.path), n.protocol, strings.Clone(n.subprotocol)}
	p.lastNames.Store(own)
	return own
}

func (p *Proxy) newTunnel(h *handshake, client clientEnd, upstream net.Conn) *Tunnel {
	now := time.Now()
	t := &Tunnel{
		p:         p,
		clientIP:  h.clientIP,
		opened:    now,
		handshake: now.Sub(h.start),
		frames:    h.protocol == "websocket",
		server:    h.x.server.Candidate,
		names:     p.namesOf(h),
	}
	t.fromClient.init(t, ReasonClientClosed, ReasonUpstreamClosed)
	t.fromUpstream.init(t, ReasonUpstreamClosed, ReasonClientClosed)
	if r := p.messageRate; r.perSecond > 0 {
		t.fromClient.limitRate(rate.NewBucket(r.perSecond, r.burst))
	}
	t.relay = newRelay(t, client, upstream)
	return t
}

// ID returns the tunnel's number, unique within its Proxy and counted from 1.
func (t *Tunnel) ID() uint64 { return t.id }

// ClientIP returns the client's address by the rule of [WithTrustedProxies]. It
// is the zero Addr if there is none, as on a unix socket.
func (t *Tunnel) ClientIP() netip.Addr { return t.clientIP }

// Host returns the Host that the client asked for, its first 256 bytes.
func (t *Tunnel) Host() string { return t.names.host }

// Path returns the path that the client asked for, without the query. It returns
// the first 4 KiB of a longer path.
func (t *Tunnel) Path() string { return t.names.path }

// Protocol returns what the connections switched to: "websocket", or another
// protocol of [WithUpgrades].
func (t *Tunnel) Protocol() string { return t.names.protocol }

// Subprotocol returns the WebSocket subprotocol that the upstream chose, its
// first 256 bytes. It is empty if there is none.
func (t *Tunnel) Subprotocol() string { return t.names.subprotocol }

// Server returns the address of the upstream's server as [Server.Addr] has it:
// host:port or unix:/path.
func (t *Tunnel) Server() string { return t.server.Addr() }

// OpenedAt returns when the upstream switched.
func (t *Tunnel) OpenedAt() time.Time { return t.opened }

// Handshake returns the time from the request to the upstream's 101.
func (t *Tunnel) Handshake() time.Duration { return t.handshake }

// FromClient counts what the client has sent so far.
func (t *Tunnel) FromClient() FlowStats { return t.fromClient.stats() }

// FromUpstream counts what the upstream has sent so far.
func (t *Tunnel) FromUpstream() FlowStats { return t.fromUpstream.stats() }

// LogValue implements [slog.LogValuer] with a group: id, client, host, path,
// protocol, subprotocol, server, opened_at, from_client and from_upstream. A
// client or subprotocol that the tunnel does not have is left out.
func (t *Tunnel) LogValue() slog.Value {
	attrs := []slog.Attr{slog.Uint64("id", t.id)}
	if t.clientIP.IsValid() {
		attrs = append(attrs, slog.String("client", t.clientIP.String()))
	}
	attrs = append(attrs, slog.String("host", t.Host()), slog.String("path", t.Path()), slog.String("protocol", t.Protocol()))
	if t.Subprotocol() != "" {
		attrs = append(attrs, slog.String("subprotocol", t.Subprotocol()))
	}
	return slog.GroupValue(append(attrs, slog.String("server", t.Server()), slog.Time("opened_at", t.opened),
		slog.Any("from_client", t.FromClient()), slog.Any("from_upstream", t.FromUpstream()))...)
}

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

// Close ends the tunnel with [ReasonKilled]. Both ends get a Close frame with
// code and reason at the next frame boundary, and have the close timeout to
// answer. Close does not wait for that. A tunnel of another protocol than
// WebSocket is cut. If either side has begun to close, that handshake continues.
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

// Cut closes both connections at once, without a Close frame. A tunnel that had
// not begun to close ends with [ReasonKilled]. The [Ending] has [ErrCut]. Cut
// does not wait for the end.
func (t *Tunnel) Cut() { t.cutShort(ReasonKilled) }

// leaving reports whether goAway was called.
func (t *Tunnel) leaving() bool {
	o := t.outcome.Load()
	return o != nil && o.goodbye.Load() != nil
}

// closing returns when the first side ended or was told to, if either has.
func (t *Tunnel) closing() stamp {
	if o := t.outcome.Load(); o != nil {
		return o.closing.Load()
	}
	return 0
}

// goAway ends the tunnel in good order: with a Close frame to both ends, and
// the close timeout for their answers. Where frames are not followed it cuts.
func (t *Tunnel) goAway(reason Reason, code int, text string) {
	if !t.frames {
		t.cutShort(reason)
		return
	}
	o := t.ending()
	o.mu.Lock()
	if o.goodbye.Load() == nil {
		payload, _ := frame.ClosePayload(code, text)
		if o.reason == 0 {
			o.reason = reason
		}
		o.closing.Store(t.p.tunnels.now()) // anew, where one side had ended
		o.goodbye.Store(&payload)
	}
	o.mu.Unlock()
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
	defer t.relay.start()
	t.announce(r)
}

// settle fixes why the tunnel ends; the first call decides.
func (t *Tunnel) settle(reason Reason, err error) {
	o := t.ending()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.reason == 0 {
		o.reason, o.err = reason, err
	}
}

// settled returns why the tunnel ends.
func (t *Tunnel) settled() (Reason, error) {
	o := t.ending()
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.reason, o.err
}

// startClosing starts the close timeout, once.
func (t *Tunnel) startClosing() {
	t.ending().closing.storeFirst(t.p.tunnels.now())
}

// end cuts both connections, which ends both flows. It does not wait.
func (t *Tunnel) end(reason Reason, err error) {
	t.settle(reason, err)
	t.relay.cut()
}

// cutShort cuts a tunnel that may have begun to close in order: its reason, if
// it has one, stays, and ErrCut is its error unless it has one.
func (t *Tunnel) cutShort(reason Reason) {
	o := t.ending()
	o.mu.Lock()
	if o.reason == 0 {
		o.reason = reason
	}
	if o.err == nil {
		o.err = ErrCut
	}
	o.mu.Unlock()
	t.relay.cut()
}

// finish makes the ending known; the relay is done.
func (t *Tunnel) finish() {
	defer t.p.tunnels.remove(t)
	defer t.server.tunnels.Add(-1)
	reason, err := t.settled()
	e := Ending{
		Reason:        reason,
		Err:           err,
		ClientClose:   t.fromClient.closeFrame(),
		UpstreamClose: t.fromUpstream.closeFrame(),
		Handshake:     t.handshake,
		Lifetime:      time.Since(t.opened),
		FromClient:    t.FromClient(),
		FromUpstream:  t.FromUpstream(),
	}
	defer t.callOnClose(t.onClose, e)
	t.logIf(slog.LevelDebug, "tunnel closed", func() []slog.Attr { return []slog.Attr{slog.Any("", e)} })
}
