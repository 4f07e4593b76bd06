package wsproxy

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
)

// WithUpgrades replaces the list of protocols that a client may switch to. The
// default is "websocket" alone. The proxy requests the first of the client's
// protocols that is listed. A request for other protocols is forwarded as a
// plain request, without Upgrade. Protocols other than websocket, such as
// "spdy/3.1" or "tcp", are relayed byte for byte. Their requests may have any
// method but no body, and the checks of RFC 6455 do not apply.
//
// After the switch the proxy no longer sees requests, so every protocol listed
// here bypasses rules in front of the upstream. New returns an error for an
// empty list, for a name that is not a token, and for "h2c", which carries
// requests itself and is a known way to bypass such rules.
func WithUpgrades(protocols ...string) Option {
	protocols = slices.Clone(protocols)
	for i, name := range protocols {
		if strings.EqualFold(name, "websocket") {
			protocols[i] = "websocket"
		}
	}
	return optionFunc(func(c *config) { c.upgrades = protocols })
}

// WithOrigins refuses upgrades whose Origin matches no pattern, with 403 and
// [ErrForbiddenOrigin]. Without this option, and unless the upstream checks
// Origin, a page of any site can open a WebSocket with the cookies of its
// visitor (cross-site WebSocket hijacking). A request without Origin does not
// come from a browser and is accepted.
//
// A pattern is a host with an optional scheme and port, such as
// "https://example.com", "*.example.com" or "http://localhost:*". A leading *
// label matches one or more labels, and the port * matches any port. Without a
// scheme a pattern matches http and https. Without a port it matches the
// scheme's default port. The pattern "null" matches opaque origins (sandboxed
// frames, files). The proxy's own origin is not implied; list it too. New
// returns an error for an empty list and for malformed patterns.
func WithOrigins(patterns ...string) Option {
	patterns = slices.Clone(patterns)
	return optionFunc(func(c *config) {
		c.origins = patterns
		if len(patterns) == 0 {
			c.origins = []string{""}
		}
	})
}

// WithHost sends name as the Host of every request. The default is the
// client's Host, including the port. If both WithHost and [WithTargetHost] are
// given, the last one wins. New returns an error if name is not a host with an
// optional port.
//
// nginx: proxy_set_header Host name.
func WithHost(name string) Option {
	return optionFunc(func(c *config) { c.host = hostPolicy{set: true, name: name} })
}

// WithTargetHost sends the target's host as the Host of every request, with
// the target's port if it has one. An upstream with name-based virtual hosts
// needs this. A target that compares Origin with Host then refuses the upgrades of
// browsers. For a unix target the Host is "localhost". If both WithTargetHost
// and [WithHost] are given, the last one wins.
//
// nginx: proxy_set_header Host $proxy_host, which is also nginx's default.
func WithTargetHost() Option {
	return optionFunc(func(c *config) { c.host = hostPolicy{set: true, target: true} })
}

// A hostPolicy is the Host sent upstream. The zero value is the client's Host.
type hostPolicy struct {
	set    bool
	target bool
	name   string
}

// WithHeader sets a header field of every request to the upstream, replacing
// the client's. If value is "", it removes the field. It is applied after the
// forwarding fields and can replace them. For values that depend on the
// request, use [WithRewrite]. New returns an error for an invalid name or
// value, for Host (see [WithHost]), and for the fields of the handshake and of
// the message framing, which only the proxy sets.
//
// nginx: proxy_set_header.
func WithHeader(name, value string) Option {
	return optionFunc(func(c *config) {
		c.headers = append(c.headers, headerEdit{name, value})
	})
}

// WithTrustedProxies sets the peers whose forwarding fields are trusted: your
// own proxies in front of this one. A prefix is an address, a CIDR prefix, or
// "unix:" for peers on a unix socket. With no prefixes no peer is trusted. New
// returns an error for a malformed prefix.
//
// If a trusted peer sends forwarding fields, the proxy extends X-Forwarded-For
// and keeps the other X-Forwarded fields. X-Real-IP is the right-most address
// of X-Forwarded-For that is not in the prefixes. If X-Forwarded-Proto or
// X-Forwarded-Host has several lines or elements, the last one is used. The
// proxy removes all forwarding fields of other peers before it sets its own.
//
// Without this option X-Forwarded-For is extended for every peer, as in the
// nginx recipe, so only its last address is reliable. The client's other
// forwarding fields are not forwarded.
//
// The forwarding fields are Forwarded, X-Real-IP and every field that begins
// with X-Forwarded-, with any punctuation in place of the hyphens. Other
// fields, such as True-Client-IP, X-Client-IP and X-Original-URL, are
// forwarded unchanged. If the upstream trusts one of them, remove it with
// [WithHeader].
//
// If a prefix contains clients, they can choose the address that the upstream
// sees.
//
// nginx: set_real_ip_from, with real_ip_recursive on.
func WithTrustedProxies(prefixes ...string) Option {
	prefixes = slices.Clone(prefixes)
	return optionFunc(func(c *config) { c.trustedProxies, c.trustSet = prefixes, true })
}

// WithForwarded adds the Forwarded field of RFC 7239, with for, host and
// proto, by the rules of X-Forwarded-For. Without it a Forwarded field is
// forwarded only from a trusted proxy.
func WithForwarded() Option {
	return optionFunc(func(c *config) { c.forwarded = true })
}

// WithRewrite calls f on every request after the proxy has set all fields of
// pr.Out; see [httputil.ReverseProxy.Rewrite]. f may change the path, the
// query, Host and header fields, or replace pr.Out with a request from
// [http.NewRequest]. The proxy then restores the scheme and host of the URL
// and the fields of the handshake. A trailer field of the client is not
// forwarded if pr.Out.Header has the same name when f returns, or if f deletes
// it from pr.Out.Trailer. f cannot refuse a request; use middleware for that.
//
// Set fields that the upstream trusts, such as a user name, in f and not in
// middleware. A client can name any field in Connection, and the Proxy removes
// the named fields before it calls f.
func WithRewrite(f func(*httputil.ProxyRequest)) Option {
	return optionFunc(func(c *config) {
		c.rewrite = f
		c.require("WithRewrite", f != nil)
	})
}

// WithModifyResponse calls f on every response of the upstream, including the
// 101, after hop-by-hop fields are removed and before anything is sent to the
// client; see [httputil.ReverseProxy.ModifyResponse]. In a 101 f may only
// change header fields. If f returns an error, the client gets 502, and the
// error given to the error handler wraps [ErrUpstream] and f's error.
func WithModifyResponse(f func(*http.Response) error) Option {
	return optionFunc(func(c *config) {
		c.modifyResponse = f
		c.require("WithModifyResponse", f != nil)
	})
}

// WithKeepAlive lets plain requests reuse connections to the upstream. By
// default they are sent with "Connection: close". Tunnels are unaffected.
//
// nginx: keepalive, with an empty string in place of close in the recipe's map.
func WithKeepAlive() Option {
	return optionFunc(func(c *config) { c.keepAlive = true })
}

// WithUpstream sends requests to the servers of u. The default is the target
// as the only server. With WithUpstream the target is not dialed; it supplies
// the host that [WithTargetHost] sends, the name in the certificates of an
// https target, and the path and query to prepend. If every server is marked
// Down or, for an upgrade, full, the client gets 503 with [ErrNoServer].
//
// If no connection to a server can be made, the request is sent to the next
// server. If the connection breaks before the response, or the response is
// malformed, it is sent to the next server only if it is replayable. A
// replayable request has no body, and is a GET (as every WebSocket handshake
// is), HEAD, OPTIONS or TRACE, or has an Idempotency-Key. [WithMaxTries] limits
// the servers tried for one request. [Server.MaxFails] defines what counts as a
// failure.
//
// A response is sent to the client whatever its status (see
// [WithRetryStatus]). If the header of a response does not arrive within the
// read timeout, the client gets 504 and no other server is tried. Nothing is
// retried after a 101.
//
// New returns an error for an Upstream that [NewUpstream] did not return. It
// also returns one if the target is a unix socket, because its address would
// not be used. Give the socket as a [Server] instead.
//
// nginx: proxy_pass to an upstream, with "proxy_next_upstream error timeout
// invalid_header", except that only the connect timeout counts as timeout.
func WithUpstream(u *Upstream) Option {
	return optionFunc(func(c *config) {
		c.upstream = u
		c.require("WithUpstream", u != nil && u.policy != nil)
	})
}

// WithRetryStatus sends a request to the next server if one responds with one
// of the statuses, for example with 503 while it is starting. Only replayable
// requests are sent again (see [WithUpstream]). The response does not count as
// a failure of the server. If no other server is up or may be tried, the
// client gets the last response. The default is no status. New returns an
// error for a status below 400 or above 599.
//
// nginx: the statuses of proxy_next_upstream, such as http_503.
func WithRetryStatus(statuses ...int) Option {
	statuses = slices.Clone(statuses)
	return optionFunc(func(c *config) { c.retryStatus = statuses })
}

// WithMaxTries limits the number of servers tried for one request, including
// the first. The default is 3. One means that only one server is tried. Zero
// means no limit.
//
// nginx: proxy_next_upstream_tries, whose default is no limit.
func WithMaxTries(n int) Option {
	return optionFunc(func(c *config) { c.maxTries = n })
}

// WithTLSConfig sets the TLS configuration for connections to an https or wss
// target. Other targets do not use it. New clones cfg. ALPN is always
// HTTP/1.1, which an upgrade needs. ServerName defaults to the target's host.
//
// nginx: the proxy_ssl directives, except that server certificates are
// verified by default.
func WithTLSConfig(cfg *tls.Config) Option {
	return optionFunc(func(c *config) {
		c.tls = cfg
		c.dialsWithUserCode = true
		c.require("WithTLSConfig", cfg != nil)
	})
}

// WithDialContext sets the function that connects to a server. It is called
// with "tcp" and host:port, or with "unix" and a path. By default the proxy dials
// as a zero [net.Dialer] does. In both cases the proxy adds TLS itself. ctx is done
// when the connect timeout expires or the request ends. Canceling during a DNS
// lookup by Go's resolver may hold a socket for five more seconds.
//
// If dial panics or calls [runtime.Goexit], the proxy logs the stack at error
// level and treats it as a failed connection. Each call has a goroutine of its
// own. The same applies to the callbacks of [WithTLSConfig].
//
// dial may set socket options, also through the connection's File. It must not
// use the connection after it has returned. A tunnel may take the socket out
// of the [net.Conn] that dial returned; Close and deadlines of that Conn then
// have no effect. Use [Tunnel.Close] to end the tunnel. If the tunnel did not
// take the socket, a read deadline set by others ends the tunnel with
// [os.ErrDeadlineExceeded]. A connection with SetLinger above 0 occupies a
// thread while its close waits. After that the hooks for the end are called, and
// [Proxy.Shutdown] returns, also if its context is done.
func WithDialContext(dial func(ctx context.Context, network, addr string) (net.Conn, error)) Option {
	return optionFunc(func(c *config) {
		c.dialContext = dial
		c.dialsWithUserCode = true
		c.require("WithDialContext", dial != nil)
	})
}
