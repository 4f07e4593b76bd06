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

// WithUpgrades replaces the list of protocols that a client may switch to;
// the default is "websocket" alone. The first of the client's that is listed
// is asked of the upstream. A request for others goes on as a plain one, with
// Upgrade removed. Protocols other than websocket, such as "spdy/3.1" or
// "tcp", are relayed byte for byte with any method and without the checks of
// RFC 6455, but not with a request body.
//
// Once switched, a proxy no longer sees requests: every protocol listed here
// passes whatever rules stand in front of the upstream. New returns an error
// for an empty list, for names that are not tokens, and for "h2c", which
// carries requests itself and is the known way round exactly such rules.
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
// [ErrForbiddenOrigin]: without it a page of any site can open a WebSocket
// with its visitor's cookies (cross-site WebSocket hijacking), unless the
// upstream checks Origin itself. A request without Origin comes from no
// browser and passes.
//
// A pattern is a host, with or without scheme and port, in which a first
// label * stands for one or more labels and a port * for any:
// "https://example.com", "*.example.com", "http://localhost:*". Without a
// scheme it matches http and https, without a port the scheme's own. "null"
// allows opaque origins (sandboxed frames, files). The proxy's own origin is
// not implied: list it too. New returns an error for an empty list and for
// malformed patterns.
func WithOrigins(patterns ...string) Option {
	patterns = slices.Clone(patterns)
	return optionFunc(func(c *config) {
		c.origins = patterns
		if len(patterns) == 0 {
			c.origins = []string{""}
		}
	})
}

// WithHost sends name as the Host of every request; the default is the
// client's Host, port included. It is nginx's "proxy_set_header Host name".
// Of WithHost and [WithTargetHost] the last one given wins. New returns an
// error for what is not a host with an optional port.
func WithHost(name string) Option {
	return optionFunc(func(c *config) { c.host = hostPolicy{set: true, name: name} })
}

// WithTargetHost sends the target's host, with its port where the target names
// one, as the Host of every request: what an upstream behind a name-based
// virtual host needs, and what nginx does where the recipe sets no Host. On a
// unix target it is "localhost", as in nginx. Of WithTargetHost and [WithHost]
// the last one given wins.
func WithTargetHost() Option {
	return optionFunc(func(c *config) { c.host = hostPolicy{set: true, target: true} })
}

// A hostPolicy is the Host sent upstream: the client's unless said otherwise.
type hostPolicy struct {
	set    bool
	target bool
	name   string
}

// WithHeader sets a header field of every request upstream, in place of the
// client's, or removes it where value is "". It is nginx's proxy_set_header,
// without variables: for those see [WithRewrite]. It is applied after the
// forwarding fields and can replace them. New returns an error for names and
// values that are not legal, for Host (see [WithHost]), and for the fields of
// the handshake and of the message framing, which are the proxy's own.
func WithHeader(name, value string) Option {
	return optionFunc(func(c *config) {
		c.headers = append(c.headers, headerEdit{name, value})
	})
}

// WithTrustedProxies says which peers are proxies of yours. From them the
// forwarding fields are believed: X-Forwarded-For is extended, X-Forwarded-*
// kept, and X-Real-IP is the right-most address of X-Forwarded-For that is not
// one of the prefixes. If X-Forwarded-Proto or X-Forwarded-Host has several
// lines or elements, the last one is used. From every other peer all forwarding fields are dropped
// before the proxy sets its own. Without this option X-Forwarded-For is
// extended whoever sent it, as the nginx recipe does, its left part being only
// a claim; of the client's other forwarding fields none passes.
//
// A prefix is an address, a CIDR prefix, or "unix:" for peers on a unix
// socket. No prefix at all means that no peer is believed. New returns an error
// for a malformed one. It is nginx's set_real_ip_from with real_ip_recursive on.
//
// The forwarding fields are Forwarded, X-Real-IP and all that begin with
// X-Forwarded-, whatever punctuation is in their names. Others, such as
// True-Client-IP, X-Client-IP and X-Original-URL, pass as the client sent them:
// if the upstream believes one, remove it with [WithHeader].
//
// Naming a prefix in which clients live lets them choose the address that the
// upstream sees.
func WithTrustedProxies(prefixes ...string) Option {
	prefixes = slices.Clone(prefixes)
	return optionFunc(func(c *config) { c.trustedProxies, c.trustSet = prefixes, true })
}

// WithForwarded also sends the Forwarded field of RFC 7239, with for, host and
// proto, by the same rules as X-Forwarded-For. Without it a Forwarded field
// passes only from a trusted proxy.
func WithForwarded() Option {
	return optionFunc(func(c *config) { c.forwarded = true })
}

// WithRewrite calls f last on every request, when the outgoing copy has all
// its fields; see [httputil.ReverseProxy.Rewrite], which f follows. f may
// change the path, the query, Host and header fields, or put another request
// of [http.NewRequest]'s in Out's place. The scheme and host of the URL and the
// fields of the handshake are restored after it. A trailer field of the client's
// does not pass if Out.Header has its name when f returns, or if f deletes it
// from Out.Trailer. f cannot refuse a request: that is for a middleware in front
// of the Proxy. New returns an error if f is nil.
//
// A field that the upstream trusts, such as a user name, is set here and not in
// middleware: a client can name any field in Connection, and the Proxy removes
// it before f is called.
func WithRewrite(f func(*httputil.ProxyRequest)) Option {
	return optionFunc(func(c *config) {
		c.rewrite = f
		c.require("WithRewrite", f != nil)
	})
}

// WithModifyResponse calls f on every response of the upstream, the 101
// included, after hop-by-hop fields are removed and before anything is sent
// to the client; see [httputil.ReverseProxy.ModifyResponse]. Of a 101 f may
// change header fields alone. If f fails the client gets 502 with
// [ErrUpstream] wrapping f's error. New returns an error if f is nil.
func WithModifyResponse(f func(*http.Response) error) Option {
	return optionFunc(func(c *config) {
		c.modifyResponse = f
		c.require("WithModifyResponse", f != nil)
	})
}

// WithKeepAlive lets plain requests reuse connections to the upstream. By
// default they are sent with "Connection: close", as the map of the nginx
// recipe has it; this is the variant of that map with an empty string in
// place of close. Tunnels are not concerned.
func WithKeepAlive() Option {
	return optionFunc(func(c *config) { c.keepAlive = true })
}

// WithUpstream sends requests to the servers of u. The target then only names
// them: its address is not connected to, its host is what [WithTargetHost]
// sends and what the certificates of an https target are for, its path and
// query are put before each request's. The client gets 503 with [ErrNoServer]
// if every server is marked Down or, for an upgrade, full.
//
// A request without a body that is GET (as every WebSocket handshake is), HEAD,
// OPTIONS or TRACE, or that has an Idempotency-Key, goes to the next server if
// the connection to one breaks before its response, or if that is malformed.
// Other requests do so only if no connection could be made. [WithMaxTries]
// limits the servers for one request. A response goes to the client whatever
// its status (see [WithRetryStatus]). A response whose header does not come
// within the read timeout is a 504, and no other server is asked. Nothing is
// retried after a 101. [Server.MaxFails] says what counts as a failure.
//
// The default is the target itself as the only server. New returns an error for
// nil, for an Upstream that [NewUpstream] did not make, and for a target that is
// a unix socket, whose address would not be used: make the socket a [Server]. It
// is nginx's proxy_pass to an upstream, with "proxy_next_upstream error timeout
// invalid_header", except that timeout is the connect timeout alone.
func WithUpstream(u *Upstream) Option {
	return optionFunc(func(c *config) {
		c.upstream = u
		c.require("WithUpstream", u != nil && u.policy != nil)
	})
}

// WithRetryStatus sends a request on to the next server if one responds with
// one of these statuses: 503, for example, from a server that is starting. It
// applies to the requests that [WithUpstream] may send twice. It does not count
// as a failure of the server. The last server's response goes to the client,
// and so does the response at hand if all the other servers are down. The
// default is none: a status is the application's answer. New returns an error
// for a status below 400 or above 599. It is the statuses of nginx's
// proxy_next_upstream, such as http_503.
func WithRetryStatus(statuses ...int) Option {
	statuses = slices.Clone(statuses)
	return optionFunc(func(c *config) { c.retryStatus = statuses })
}

// WithMaxTries limits the servers that one request is sent to, the first
// included. The default is 3; 1 means that no request goes to a second server,
// and zero that each may go to all; New returns an error if it is negative. It
// is nginx's proxy_next_upstream_tries, whose default is all.
func WithMaxTries(n int) Option {
	return optionFunc(func(c *config) { c.maxTries = n })
}

// WithTLSConfig sets the TLS configuration toward an https or wss target; for
// other targets it is not used. It is cloned. ALPN is always HTTP/1.1, which
// an upgrade needs, and ServerName defaults to the target's host. New returns
// an error for nil. It stands for nginx's proxy_ssl_* directives, except that
// names are verified unless the configuration says otherwise.
func WithTLSConfig(cfg *tls.Config) Option {
	return optionFunc(func(c *config) {
		c.tls = cfg
		c.require("WithTLSConfig", cfg != nil)
	})
}

// WithDialContext sets the function that connects to the upstream, called
// with "tcp" and host:port or with "unix" and a path; the default is that of a
// zero [net.Dialer]. ctx ends with the connect timeout and with the request; a
// lookup of net's own resolver that it ends holds a socket for up to five
// seconds more. TLS is the proxy's to add. New returns an error if dial is nil.
//
// dial may set socket options, also through the connection's File, and must not
// use the connection after it has returned. A tunnel may take the socket out of
// the [net.Conn] that dial has returned. On a conn that is kept, Close and the
// deadlines then have no effect; use [Tunnel.Close] to end the tunnel. Otherwise
// a read deadline that somebody sets ends the tunnel with
// [os.ErrDeadlineExceeded]. A connection with SetLinger above 0 holds a thread
// for as long as its close waits, and OnClose is called after that.
func WithDialContext(dial func(ctx context.Context, network, addr string) (net.Conn, error)) Option {
	return optionFunc(func(c *config) {
		c.dialContext = dial
		c.require("WithDialContext", dial != nil)
	})
}
