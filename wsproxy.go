// Package wsproxy provides a WebSocket reverse proxy as an [http.Handler].
//
// A [Proxy] does what nginx does with the recipe whose map sets
// $connection_upgrade. It validates upgrades, forwards them, and relays both
// ways. It proxies every other request as [httputil.ReverseProxy] does.
//
//	proxy, err := wsproxy.New("http://localhost:3000")
//	if err != nil {
//		log.Fatal(err)
//	}
//	http.Handle("/websocket", proxy)
//
// # Lifecycle
//
// A Proxy has no goroutines before its first upgrade. On Linux it keeps one for
// each processor for up to two seconds after its last tunnel or handshake. After
// [Proxy.Shutdown] or [Proxy.Close] they end with the last tunnel.
//
// [http.Server.Shutdown] ignores hijacked connections, so call
// [Proxy.Shutdown] as well. Call it directly or from a function registered
// with [http.Server.RegisterOnShutdown]. Neither waits for the other, so main
// must wait for both.
//
// The ReadHeaderTimeout and IdleTimeout of the [http.Server] limit clients
// that are slow to send a request. An upgrade clears them. From then on the
// options of this package apply.
//
// # Bytes
//
// A tunnel forwards every byte unchanged. Subprotocols, extensions such as
// permessage-deflate, pings and close frames are between the client and the
// upstream. Half-closes and resets are propagated. The proxy only tracks where
// frames end, so that it can send a Close or a Ping between two frames.
//
// # Limitations
//
// Upgrades with a request body are refused. Requests to upstreams use HTTP/1.1.
package wsproxy

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"

	"example.com/wsproxy/internal/frame"
	"example.com/wsproxy/internal/origin"
)

// A Proxy is an [http.Handler] that proxies WebSockets and plain requests to
// one target, or to the servers given with [WithUpstream]. Create one with
// [New]. Its methods are safe for concurrent use. It must not be copied.
type Proxy struct {
	config
	target    *target
	policy    headerPolicy
	allowed   []origin.Pattern
	plain     http.Handler
	transport *http.Transport // nil with WithPlainHandler
	errorLog  *log.Logger     // for httputil, at debug level
	tunnels   registry
	lastNames atomic.Pointer[names] // of the tunnel opened last
	failures  failureLog
}

// New returns a Proxy to target, which is an http, https, ws or wss URL, or a
// unix socket in nginx's form, http://unix:/run/app.sock:/base. The schemes ws
// and wss mean http and https. The target's path and query are prepended to
// those of each request, as [httputil.ProxyRequest.SetURL] does.
//
// The host of target is looked up in DNS and connected to. With [WithUpstream]
// it is not: in New("http://chat", WithUpstream(u)) it is only a name, which
// [WithTargetHost] sends and which the certificates of an https target are for.
//
// New reports every mistake in target and opts, in one joined error.
func New(target string, opts ...Option) (*Proxy, error) {
	p := &Proxy{config: defaultConfig()}
	var errs []error
	for i, opt := range opts {
		if opt == nil {
			errs = append(errs, fmt.Errorf("wsproxy: option %d is nil", i+1))
			continue
		}
		opt.apply(&p.config)
	}
	var err error
	p.target, err = p.parseTarget(target)
	if err := errors.Join(append(errs, err, p.validate())...); err != nil {
		return nil, err
	}
	p.warnOfNoAnnouncement()
	p.target.useTLS(p.tls)
	if p.upstream == nil {
		p.upstream = singleServer(p.target)
	}
	p.policy = p.headerPolicy()
	for _, pattern := range p.origins {
		allowed, _ := origin.Parse(pattern)
		p.allowed = append(p.allowed, allowed)
	}
	p.errorLog = log.New(boundedLog{p.logger}, "", 0)
	p.tunnels.init(&p.config)
	p.plain = p.plainHandler
	if p.plain == nil {
		p.plain = p.newPlainHandler()
	}
	return p, nil
}

// ServeHTTP proxies one request. For an upgrade it returns when the tunnel has
// ended. With [WithDetached] it returns as soon as the tunnel is open, except for
// a tunnel over HTTP/2 or HTTP/3.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	protocol := requestedProtocol(r, p.upgrades)
	if protocol == "" {
		p.plain.ServeHTTP(w, withoutUpgrade(r))
		return
	}
	if !isStream(r) { // bytes after a failed handshake must not be parsed as a request
		w.Header().Set("Connection", "close")
	}
	t, err := p.open(w, r, protocol)
	switch {
	case err != nil:
		if isStream(r) {
			restoreDeadline(w, r)
		}
		p.limitDrain(w, r)
		p.refuse(w, r, err)
	case t == nil: // the upstream responded without switching
	case p.detached && !isStream(r):
		t.start(r)
	default:
		t.run(r)
		if s, ok := t.relay.(*streamRelay); ok && s.aborts() {
			panic(http.ErrAbortHandler)
		}
	}
}

// open forwards an upgrade request and opens the tunnel. It returns no tunnel
// if the upstream responded without switching and that response was relayed.
func (p *Proxy) open(w http.ResponseWriter, r *http.Request, protocol string) (*Tunnel, error) {
	if err := p.check(w, r, protocol); err != nil {
		return nil, err
	}
	h, err := p.newHandshake(w, r, protocol)
	if err != nil {
		return nil, err
	}
	defer h.close()
	if isStream(r) {
		clearDeadlines(w)
	}
	if err := h.ask(); err != nil {
		return nil, err
	}
	if h.x.res.StatusCode != http.StatusSwitchingProtocols {
		h.relayResponse()
		return nil, nil
	}
	if err := h.acceptSwitch(); err != nil {
		return nil, err
	}
	client, err := h.takeClient()
	if err != nil {
		return nil, err
	}
	return h.tunnel(client), nil
}

// Shutdown closes all tunnels gracefully. It refuses new ones with 503 and
// [ErrShutdown], sends a Close frame with code 1001 to both ends of every open
// tunnel, and waits for the tunnels to end.
//
// A WebSocket tunnel that has not ended within [WithCloseTimeout] is cut: both
// of its connections are closed immediately. Shutdown does not report that as
// an error. Tunnels of other protocols have no Close frame; Shutdown waits for
// them to end by themselves. If ctx is done first, Shutdown cuts the remaining
// tunnels, waits until they are gone, and returns ctx's error. The [Ending] of
// a tunnel that was cut has [ErrCut]. Plain requests are unaffected;
// [http.Server.Shutdown] waits for them.
//
// The tunnels of an HTTP/2 connection that takes no byte end only when the
// server closes the connection, see [HTTP2Config].
//
// Shutdown may be called more than once and with a context that is done. A
// hook must not call it: Shutdown waits for the hook's tunnel.
func (p *Proxy) Shutdown(ctx context.Context) error {
	defer p.reportRepeats(true)
	empty := p.tunnels.drain()
	if p.transport != nil {
		p.transport.CloseIdleConnections()
	}
	for _, t := range p.tunnels.snapshot() {
		t.drain()
	}
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
	}
	select {
	case <-empty: // both channels were ready; prefer success
		return nil
	default:
	}
	p.end(ReasonShutdown)
	<-empty
	return ctx.Err()
}

// Close refuses new tunnels and closes open tunnels immediately. They end with
// [ReasonKilled]. Close does not wait for them. It always returns nil.
func (p *Proxy) Close() error {
	p.tunnels.drain()
	if p.transport != nil {
		p.transport.CloseIdleConnections()
	}
	p.end(ReasonKilled)
	p.reportRepeats(true)
	return nil
}

// Drain closes the tunnels that are open now and for which match is true, or all
// if match is nil. It does so in random order and evenly over d, so that the
// clients do not reconnect all at once. Both ends of a tunnel get a Close frame
// with code 1012 (service restart), and have [WithCloseTimeout] to answer. A
// tunnel of another protocol than WebSocket is cut. The tunnels end with
// [ReasonShutdown]. New upgrades are not refused: for that see [Proxy.Shutdown].
//
// Drain returns nil when the tunnels have ended. If ctx ends first, Drain returns
// ctx's error, and tunnels that have not got a Close frame yet stay open. A d of
// zero or less closes all at once.
//
// match is called once for each tunnel, before the first is closed. Drain must
// not be called from a hook, whose tunnel it would wait for.
//
// nginx has no such directive. It is HAProxy's close-spread-time.
func (p *Proxy) Drain(ctx context.Context, d time.Duration, match func(*Tunnel) bool) error {
	var tunnels []*Tunnel
	for t := range p.Tunnels() {
		if match == nil || match(t) {
			tunnels = append(tunnels, t)
		}
	}
	rand.Shuffle(len(tunnels), func(i, j int) { tunnels[i], tunnels[j] = tunnels[j], tunnels[i] })
	a := p.tunnels.await(tunnels)
	defer p.tunnels.leaveOff(a)

	start := time.Now()
	turn := time.NewTimer(0)
	defer turn.Stop()
	for told := 0; ; {
		select {
		case <-a.ended:
			return nil
		case <-ctx.Done():
			select {
			case <-a.ended: // both were ready: prefer success
				return nil
			default:
				return ctx.Err()
			}
		case <-turn.C:
		}
		for ; told < len(tunnels) && ctx.Err() == nil; told++ {
			at := time.Duration(float64(d) * (float64(told) / float64(len(tunnels))))
			if wait := at - time.Since(start); wait > 0 {
				turn.Reset(wait)
				break
			}
			tunnels[told].goAway(ReasonShutdown, frame.CodeServiceRestart, "service restart")
			tunnels[told] = nil
		}
	}
}

// end cuts every tunnel and every handshake.
func (p *Proxy) end(reason Reason) {
	tunnels, handshakes := p.tunnels.markCut(reason)
	for _, h := range handshakes {
		h.cancel(ErrShutdown)
	}
	for _, t := range tunnels {
		t.cutShort(reason)
	}
}

// Tunnels returns the open tunnels in no particular order. A tunnel may end
// during the iteration. It counts as open until the hooks for its end have returned.
func (p *Proxy) Tunnels() iter.Seq[*Tunnel] {
	return func(yield func(*Tunnel) bool) {
		for _, t := range p.tunnels.snapshot() {
			if !yield(t) {
				return
			}
		}
	}
}

// Tunnel returns the tunnel with this [Tunnel.ID], if it is open.
func (p *Proxy) Tunnel(id uint64) (*Tunnel, bool) {
	for t := range p.Tunnels() {
		if t.id == id {
			return t, true
		}
	}
	return nil, false
}

// Stats returns the proxy's counts, all taken at the same moment, except that
// the bytes and messages of open tunnels are read shortly after it.
func (p *Proxy) Stats() Stats {
	s := p.tunnels.stats()
	for _, c := range p.upstream.set.Load().all {
		s.live[c.Addr()] += 0
	}
	return s
}
