// Package wsproxy is a WebSocket reverse proxy as an [http.Handler].
//
// New returns a [Proxy] that does what the well-known nginx recipe does with
// its map of $http_upgrade to $connection_upgrade: upgrades are checked, asked
// of the upstream and then relayed both ways; every other request is proxied
// as [httputil.ReverseProxy] does.
//
//	proxy, err := wsproxy.New("http://localhost:3000")
//	if err != nil {
//		log.Fatal(err)
//	}
//	http.Handle("/websocket", proxy)
//
// # Lifecycle
//
// A Proxy starts nothing until its first tunnel and leaves nothing running
// after its last. [http.Server.Shutdown] does not know of hijacked
// connections: call [Proxy.Shutdown] as well, from a function registered with
// [http.Server.RegisterOnShutdown] or beside it, and let main wait for both:
// neither waits for the other. That server's ReadHeaderTimeout and
// IdleTimeout bound clients that are slow to ask; an upgrade clears them, and
// the options of this package bound the rest.
//
// # Bytes
//
// A tunnel passes every byte on unchanged: subprotocols, extensions such as
// permessage-deflate, pings and close frames are the peers' own business.
// Half-close passes as half-close and a reset as a reset. The proxy only
// watches where frames end, so that a Close or Ping of its own comes between
// two of them.
//
// # Limitations
//
// WebSockets over HTTP/2 and HTTP/3 (RFC 8441, RFC 9220) are not supported, and
// upgrades with a request body are refused.
package wsproxy

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log"
	"net/http"
)

// A Proxy is an [http.Handler] that proxies WebSockets, and the plain requests
// beside them, to one target, or to the servers that [WithUpstream] puts behind
// its name. Make one with [New]. Its methods may be called from any goroutine;
// it must not be copied.
type Proxy struct {
	config
	target    *target
	policy    headerPolicy
	allowed   []origin
	plain     http.Handler
	transport *http.Transport // nil with a plain handler of the user's
	errorLog  *log.Logger     // httputil's, at debug level
	tunnels   registry

	closing context.Context // ends when tunnels and handshakes are cut
	cut     context.CancelCauseFunc
}

// New returns a Proxy to target: an http, https, ws or wss URL, or nginx's
// form for a unix socket, http://unix:/run/app.sock:/base. ws and wss mean
// http and https. The path of the target is put before the path of each
// request, and its query before the query, as
// [httputil.ProxyRequest.SetURL] does.
//
// The error joins one for each mistake in target and opts.
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
	p.target, err = parseTarget(target)
	if err := errors.Join(append(errs, err, p.validate(), p.checkTarget(p.target))...); err != nil {
		return nil, err
	}
	p.target.useTLS(p.tls)
	if p.upstream == nil {
		p.upstream = singleServer(p.target)
	}
	p.policy = p.headerPolicy()
	for _, pattern := range p.origins {
		allowed, _ := parseOrigin(pattern)
		p.allowed = append(p.allowed, allowed)
	}
	p.errorLog = log.New(boundedLog{p.logger}, "", 0)
	p.closing, p.cut = context.WithCancelCause(context.Background())
	p.tunnels.init(&p.config)
	p.plain = p.plainHandler
	if p.plain == nil {
		p.plain = p.newPlainHandler()
	}
	return p, nil
}

// ServeHTTP proxies one request. For an upgrade it returns when the tunnel has
// ended, or, with [WithDetached], as soon as the tunnel is open.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	protocol := upgradeToken(r.Header, p.upgrades)
	if protocol == "" {
		p.plain.ServeHTTP(w, withoutUpgrade(r))
		return
	}
	// Bytes after a failed handshake must not be parsed as a request.
	w.Header().Set("Connection", "close")
	t, err := p.open(w, r, protocol)
	switch {
	case err != nil:
		p.limitDrain(w, r)
		p.fail(w, r, err)
	case t == nil: // the upstream responded without switching
	case p.detached:
		t.start(r)
	default:
		t.run(r)
	}
}

// open takes an upgrade request to a tunnel. It returns no tunnel if the
// upstream responded without switching and that response was relayed.
func (p *Proxy) open(w http.ResponseWriter, r *http.Request, protocol string) (*Tunnel, error) {
	if err := p.check(w, r, protocol); err != nil {
		return nil, err
	}
	h, err := p.newHandshake(w, r, protocol)
	if err != nil {
		return nil, err
	}
	defer h.close()
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
	client, err := h.hijack()
	if err != nil {
		return nil, err
	}
	return h.tunnel(client), nil
}

// check refuses an upgrade that must not reach the upstream.
func (p *Proxy) check(w http.ResponseWriter, r *http.Request, protocol string) error {
	if err := checkRequest(r, protocol); err != nil {
		return err
	}
	if err := checkOrigin(r, p.allowed); err != nil {
		return err
	}
	return checkHijackable(w)
}

// Shutdown refuses new tunnels from now on, with 503 and [ErrShutdown], sends
// both ends of those there are a Close frame with code 1001, and waits for them
// to end. A WebSocket tunnel that has not closed within [WithCloseTimeout] is
// cut, which is no error of Shutdown's; one of another protocol cannot be told
// and may go on. When ctx ends first, Shutdown cuts what is left, and returns
// ctx's error once that is gone. The [Ending] of a tunnel that was cut has
// [ErrCut]. Plain requests are not concerned; [http.Server.Shutdown] waits for
// those.
//
// Shutdown may be called more than once and with an ended context, but not
// from a hook, whose tunnel it would wait for.
func (p *Proxy) Shutdown(ctx context.Context) error {
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
	case <-empty: // both were ready: prefer success
		return nil
	default:
	}
	p.end(ReasonShutdown)
	<-empty
	return ctx.Err()
}

// Close refuses new tunnels and cuts those there are, which end with [ReasonKilled].
// It does not wait until they are gone. It always returns nil.
func (p *Proxy) Close() error {
	p.tunnels.drain()
	if p.transport != nil {
		p.transport.CloseIdleConnections()
	}
	p.end(ReasonKilled)
	return nil
}

// end cuts every tunnel and every handshake.
func (p *Proxy) end(reason Reason) {
	p.cut(ErrShutdown)
	for _, t := range p.tunnels.markCut(reason) {
		t.cutShort(reason)
	}
}

// Tunnels returns the tunnels that are open now, in no order. A tunnel may end
// while the loop runs, and is among them until its OnClose has returned.
func (p *Proxy) Tunnels() iter.Seq[*Tunnel] {
	return func(yield func(*Tunnel) bool) {
		for _, t := range p.tunnels.snapshot() {
			if !yield(t) {
				return
			}
		}
	}
}

// Stats returns the proxy's counts as of one moment.
func (p *Proxy) Stats() Stats { return p.tunnels.stats() }
