package wsproxy

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"strings"
	"time"
)

// An Option configures a Proxy in [New]. Setting an option never fails; New
// checks them all and reports every mistake at once. Of two equal options the
// last one wins, except that [WithHeader] is remembered for each name apart.
type Option interface{ apply(*config) }

type optionFunc func(*config)

func (f optionFunc) apply(c *config) { f(c) }

// config is what the options set. It is not written after New.
type config struct {
	connectTimeout time.Duration
	readTimeout    time.Duration
	sendTimeout    time.Duration
	bodyTimeout    time.Duration
	closeTimeout   time.Duration
	maxLifetime    time.Duration
	pingInterval   time.Duration
	pingTimeout    time.Duration

	maxTunnels      int
	maxTunnelsPerIP int
	maxFromClient   int64
	maxFromUpstream int64

	keepAlive bool
	upgrades  []string
	origins   []string
	host      hostPolicy

	headers        []headerEdit
	trustedProxies []string
	trustSet       bool
	forwarded      bool
	rewrite        func(*httputil.ProxyRequest)
	modifyResponse func(*http.Response) error

	upstream    *Upstream
	retryStatus []int
	maxTries    int
	tls         *tls.Config
	dialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	plainHandler http.Handler
	errorHandler func(http.ResponseWriter, *http.Request, error)
	logger       *slog.Logger
	hooks        Hooks
	detached     bool

	missing []string // options that were given nil
}

// A hostPolicy is the Host sent upstream: the client's unless said otherwise.
type hostPolicy struct {
	set    bool
	target bool
	name   string
}

func defaultConfig() config {
	return config{
		connectTimeout: 60 * time.Second,
		readTimeout:    60 * time.Second,
		sendTimeout:    60 * time.Second,
		bodyTimeout:    60 * time.Second,
		closeTimeout:   defaultCloseTimeout,
		maxTries:       3,
		upgrades:       []string{"websocket"},
		dialContext:    (&net.Dialer{}).DialContext,
		errorHandler:   defaultErrorHandler,
		logger:         slog.Default(),
	}
}

// WithConnectTimeout sets how long the connection to the upstream may take,
// TLS handshake included; where there are several servers, each one's. The
// default is 60 seconds; zero means no limit of the proxy's own; New returns an
// error if it is negative. The client gets 504 with [ErrUpstreamTimeout].
//
// It is nginx's proxy_connect_timeout.
func WithConnectTimeout(d time.Duration) Option {
	return optionFunc(func(c *config) { c.connectTimeout = d })
}

// WithReadTimeout sets the idle timeout. Before the upgrade it limits the time
// from the end of the request to the end of the response's header, and then the
// time between two reads of the body. The client gets 504 with
// [ErrUpstreamTimeout], or a body that is cut. On a tunnel it limits the time in
// which no byte crosses in either direction. The tunnel then ends with
// [ReadTimeout]. The default is 60 seconds; zero disables it; New returns an
// error if it is negative.
//
// It is nginx's proxy_read_timeout, which nginx too re-arms on every event of
// an upgraded connection, whatever its manual says. Peers that send pings more
// often than this keep their tunnel.
func WithReadTimeout(d time.Duration) Option {
	return optionFunc(func(c *config) { c.readTimeout = d })
}

// WithSendTimeout sets how long a write may make no progress, to the upstream
// or to the client, of a plain request, its response, or on a tunnel. A request
// that the upstream does not take gets 504 with [ErrUpstreamTimeout]; a response
// that the client does not take is cut, and the connections of both are closed;
// a tunnel ends with [SendTimeout]. So a client that has stopped reading holds
// nothing for longer. The default is 60 seconds; zero disables it; New returns
// an error if it is negative.
//
// Progress is seen in steps of 16 KiB, but on tunnels between plain sockets byte
// by byte: a client that takes 16 KiB of a plain response within each timeout,
// after what the system's buffers hold, is never cut. The system may report room
// in its buffers only when a third of them is free.
//
// It is nginx's proxy_send_timeout and, toward the client, send_timeout. Where
// http.Server's WriteTimeout ends earlier, that holds. Middleware whose
// ResponseWriter has neither SetWriteDeadline nor Unwrap (see
// [http.ResponseController]) takes the bound off plain responses.
func WithSendTimeout(d time.Duration) Option {
	return optionFunc(func(c *config) { c.sendTimeout = d })
}

// WithBodyTimeout sets how long a client may be silent between two reads of the
// body of a plain request, until the response begins. The client gets 408, and
// its connection is closed; the exchange with the upstream ends, which does not
// count as a failure of the server. The default is 60 seconds; zero disables it;
// New returns an error if it is negative.
//
// It is nginx's client_body_timeout. Where http.Server's ReadTimeout ends
// earlier, that holds. With [WithPlainHandler] bodies are that handler's
// business. Middleware whose ResponseWriter has neither SetReadDeadline nor
// Unwrap (see [http.ResponseController]) takes the bound off, and so does a body
// put in place of the client's that does not read from it.
func WithBodyTimeout(d time.Duration) Option {
	return optionFunc(func(c *config) { c.bodyTimeout = d })
}

// WithCloseTimeout sets how long a tunnel may last once one side has ended it:
// the other side may send what it has left and must then end too, or is cut.
// On a WebSocket tunnel it also limits the time after a Close frame of either
// side's, counted anew for each byte that the side without one still sends. If
// the first side no longer reads, what the second sends is discarded, for
// otherwise a reset could destroy the last bytes on their way to it. It is also
// how long both have to answer a Close frame of the proxy's. The default is 10
// seconds; zero disables it, which leaves tunnels that one side has closed to
// the read timeout, and the answers to the proxy's Close frames to the default;
// New returns an error if it is negative.
//
// nginx has no such directive: it closes both sides at the first end, and the
// bytes still under way are lost.
func WithCloseTimeout(d time.Duration) Option {
	return optionFunc(func(c *config) { c.closeTimeout = d })
}

// WithMaxLifetime sets how long a tunnel may last, busy or not, before it ends
// with [MaxLifetime]: long enough for its users, short enough for credentials
// to be checked again or load to be spread anew. The default, zero, is no
// limit; New returns an error if it is negative.
func WithMaxLifetime(d time.Duration) Option {
	return optionFunc(func(c *config) { c.maxLifetime = d })
}

// WithPing finds ends that are gone without a word. An end that has sent
// nothing for interval gets a Ping between two frames; if it stays silent for
// timeout more, its connection is cut, the other end gets a Close frame with
// code 1001, and the tunnel ends with [PingTimeout]. The Pong passes on to the
// other end, which RFC 6455, section 5.5.3, lets it ignore, and counts for the
// read timeout like any byte: a live but silent pair is kept. The default is no
// Ping; an interval of zero disables it; New returns an error for negative
// durations, and for a timeout of zero with an interval.
//
// It applies to WebSocket tunnels alone, and waits for traffic where a
// connection's SetReadDeadline does not end a Read. nginx has no such directive.
func WithPing(interval, timeout time.Duration) Option {
	return optionFunc(func(c *config) { c.pingInterval, c.pingTimeout = interval, timeout })
}

// WithMaxTunnels limits the tunnels open at once, handshakes under way
// included: one more gets 503 with [ErrTooManyTunnels] and Retry-After. The
// default, zero, is no limit; New returns an error if it is negative. It is
// nginx's limit_conn over a whole server.
func WithMaxTunnels(n int) Option {
	return optionFunc(func(c *config) { c.maxTunnels = n })
}

// WithMaxTunnelsPerIP limits the tunnels open at once from one client address,
// as [WithMaxTunnels] does for all. IPv6 clients are counted by the /64 of their
// address, as each can use all addresses in it. The address is that of X-Real-IP: behind
// proxies of your own give [WithTrustedProxies], or all their clients count as
// one. Clients on a unix socket are not counted. The default, zero, is no
// limit; New returns an error if it is negative. It is nginx's limit_conn by
// $binary_remote_addr.
func WithMaxTunnelsPerIP(n int) Option {
	return optionFunc(func(c *config) { c.maxTunnelsPerIP = n })
}

// WithMaxMessageSize limits the messages that each side may send, in bytes of
// payload over all frames of a message, as they are on the wire: where
// permessage-deflate is in use that is the compressed size. Of a larger message
// the frame that exceeds the limit does not pass; both ends get a Close frame
// with code 1009 and the tunnel ends with [Limit].
//
// A side with a limit must send well-formed frames, in which lengths have the
// fewest bytes and any reserved bit may be set, or the limit would not hold for
// a receiver that takes others. Before anything else both ends get a Close frame
// with code 1002 and the tunnel ends with [ProtocolError]. What such a side
// sends behind its Close frame does not pass. Tunnels of other protocols than
// WebSocket are not limited. The default, zero, is no limit; New returns an error if it is negative.
func WithMaxMessageSize(client, upstream int64) Option {
	return optionFunc(func(c *config) { c.maxFromClient, c.maxFromUpstream = client, upstream })
}

// WithKeepAlive lets plain requests reuse connections to the upstream. By
// default they are sent with "Connection: close", as the map of the nginx
// recipe has it; this is the variant of that map with an empty string in
// place of close. Tunnels are not concerned.
func WithKeepAlive() Option {
	return optionFunc(func(c *config) { c.keepAlive = true })
}

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

// WithPlainHandler hands requests that are not upgrades to h, for instance an
// [httputil.ReverseProxy] of your own, which can use [Proxy.Rewrite]. The
// default proxies them to the target, and refuses CONNECT and paths with a segment
// that decodes to "." or "..". h gets these too. h sees the request as it came, less an
// Upgrade that is not to be forwarded. New returns an error if h is nil.
func WithPlainHandler(h http.Handler) Option {
	return optionFunc(func(c *config) {
		c.plainHandler = h
		c.require("WithPlainHandler", h != nil)
	})
}

// WithErrorHandler sets the function that responds to a request that failed
// before the upgrade. [StatusCode] tells the status for err, which wraps one of
// the package's errors, or is about the client's body or departure, or about
// middleware, for which there are none. Fields that belong to
// the response (Retry-After, Allow, Sec-WebSocket-Version, Connection) are set
// on w already. The default writes the status with a short text that names no
// upstream. New returns an error if f is nil.
func WithErrorHandler(f func(w http.ResponseWriter, r *http.Request, err error)) Option {
	return optionFunc(func(c *config) {
		c.errorHandler = f
		c.require("WithErrorHandler", f != nil)
	})
}

// WithLogger sets where the proxy logs; the default is [slog.Default] at the
// time of New. Failures of the upstream and of hooks are warnings or errors;
// clients' mistakes and the opening and closing of tunnels are for debugging.
// Queries are never logged, and of header fields only what was refused: up to
// 64 bytes of a Host, an Origin or a field of the handshake, and an upstream's
// line that is no field. New returns an error for nil; for silence use
// [slog.DiscardHandler].
func WithLogger(l *slog.Logger) Option {
	return optionFunc(func(c *config) {
		c.logger = l
		c.require("WithLogger", l != nil)
	})
}

// WithHooks sets the functions called as tunnels open and close.
func WithHooks(h Hooks) Option {
	return optionFunc(func(c *config) { c.hooks = h })
}

// WithDetached makes ServeHTTP return as soon as a tunnel stands, which frees
// the server's goroutine, its buffers and the request: the setting for very
// many idle tunnels. By default ServeHTTP returns when the tunnel has ended,
// so that middleware round it sees the whole life, and the request's context
// ends the tunnel; a detached tunnel outlives both.
func WithDetached() Option {
	return optionFunc(func(c *config) { c.detached = true })
}
