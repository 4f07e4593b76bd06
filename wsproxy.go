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
	"log/slog"
	"maps"
	"net/http"
	"sync"
	"time"
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
	if err := errors.Join(append(errs, err, p.validate())...); err != nil {
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
	p.errorLog = slog.NewLogLogger(p.logger.Handler(), slog.LevelDebug)
	p.closing, p.cut = context.WithCancelCause(context.Background())
	p.tunnels.init(&p.config)
	p.plain = p.plainHandler
	if p.plain == nil {
		p.plain = p.newPlainHandler()
	}
	return p, nil
}

// ServeHTTP proxies one request. For an upgrade it returns when the tunnel has
// ended, or, with [WithDetached], as soon as it stands.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	protocol := upgradeToken(r.Header, p.upgrades)
	if protocol == "" {
		p.plain.ServeHTTP(w, withoutUpgrade(r))
		return
	}
	// Whatever the client has sent after a handshake that fails is not to be
	// taken for its next request.
	w.Header().Set("Connection", "close")
	t, err := p.open(w, r, protocol)
	if err != nil {
		p.fail(w, r, err)
		return
	}
	switch {
	case t == nil: // there was a response, without an upgrade
	case p.detached:
		t.start()
	default:
		t.run(r.Context())
	}
}

// open takes an upgrade request up to a tunnel. It returns no tunnel where the
// upstream responded without switching, and that response was relayed.
func (p *Proxy) open(w http.ResponseWriter, r *http.Request, protocol string) (_ *Tunnel, err error) {
	start := time.Now()
	if err := checkRequest(r, protocol); err != nil {
		return nil, err
	}
	if err := checkOrigin(r, p.allowed); err != nil {
		return nil, err
	}
	if err := checkHijackable(w); err != nil {
		return nil, err
	}
	clientIP := p.policy.client(r)
	if err := p.tunnels.reserve(clientIP); err != nil {
		return nil, err
	}
	var t *Tunnel
	release := sync.OnceFunc(func() { p.tunnels.release(clientIP) })
	defer func() {
		if t == nil {
			release()
		}
	}()

	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	defer context.AfterFunc(p.closing, func() { cancel(context.Cause(p.closing)) })()

	x, err := p.handshake(ctx, r, p.outgoingRequest(ctx, r, protocol), clientIP, w)
	if err != nil {
		return nil, err
	}
	defer func() {
		if t == nil {
			x.close()
		}
	}()
	res := x.res
	if res.StatusCode != http.StatusSwitchingProtocols {
		release() // from here on it is a plain response, which Shutdown does not wait for
		p.relayResponse(w, r, x)
		return nil, nil
	}
	answered := x.early()
	x.conn.SetDeadline(time.Time{}) // from here on the sweeper keeps time
	if err := p.modifySwitch(res); err != nil {
		return nil, err
	}
	if p.tunnels.refusing() {
		return nil, unavailable(ErrShutdown, nil)
	}
	if !x.unwatch() {
		return nil, upstreamError(ctx, context.Cause(ctx))
	}
	h := w.Header()
	kept := maps.Clone(h)
	for _, name := range []string{"Connection", "Content-Length", "Transfer-Encoding", "Upgrade"} {
		delete(h, name)
	}
	for name, values := range res.Header {
		h[name] = append(h[name][:len(h[name]):len(h[name])], values...)
	}
	head := appendSwitch(nil, h, protocol)
	defer func() {
		if t == nil { // an error, or a panic in a wrapper's Hijack
			clear(h)
			maps.Copy(h, kept)
		}
	}()
	client, sent, err := hijack(w)
	if err != nil {
		return nil, err
	}
	t = p.newTunnel(r, clientIP, protocol, start, client, x.conn)
	t.server = x.server
	t.fromClient.early = sent
	t.fromUpstream.head, t.fromUpstream.early = head, answered
	if draining, cutFor := p.tunnels.add(t); cutFor != 0 {
		t.cutShort(cutFor)
	} else if draining {
		t.drain()
	}
	t.log(slog.LevelDebug, "tunnel opened", slog.Duration("handshake", t.handshake))
	if p.hooks.OnOpen != nil {
		t.hook("OnOpen", func() { p.hooks.OnOpen(t, r) })
	}
	return t, nil
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
	p.end(Shutdown)
	<-empty
	return ctx.Err()
}

// Close refuses new tunnels and cuts those there are, which end with [Killed].
// It does not wait until they are gone. It always returns nil.
func (p *Proxy) Close() error {
	p.tunnels.drain()
	if p.transport != nil {
		p.transport.CloseIdleConnections()
	}
	p.end(Killed)
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
