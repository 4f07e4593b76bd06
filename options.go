package wsproxy

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
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
// [ReasonReadTimeout]. The default is 60 seconds; zero disables it; New returns an
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
// a tunnel ends with [ReasonSendTimeout]. So a client that has stopped reading holds
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
// with [ReasonMaxLifetime]: long enough for its users, short enough for credentials
// to be checked again or load to be spread anew. The default, zero, is no
// limit; New returns an error if it is negative.
func WithMaxLifetime(d time.Duration) Option {
	return optionFunc(func(c *config) { c.maxLifetime = d })
}

// WithPing finds ends that are gone without a word. An end that has sent
// nothing for interval gets a Ping between two frames; if it stays silent for
// timeout more, its connection is cut, the other end gets a Close frame with
// code 1001, and the tunnel ends with [ReasonPingTimeout]. The Pong passes on to the
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

// WithMaxClientMessageSize limits the messages of the client, in bytes of
// payload over all frames of a message, as they are on the wire: with
// permessage-deflate that is the compressed size. The frame that exceeds the
// limit is not forwarded. Both ends get a Close frame with code 1009, and the
// tunnel ends with [ReasonLimit].
//
// With a limit the client must send well-formed frames, in which lengths have
// the fewest bytes and any reserved bit may be set, or the limit would not hold
// for a receiver that takes others. A malformed frame is not forwarded: both
// ends get a Close frame with code 1002, and the tunnel ends with
// [ReasonProtocolError]. Nothing is forwarded that follows the client's Close
// frame. Tunnels of other protocols than WebSocket are not limited. The default,
// zero, is no limit; New returns an error if it is negative.
//
// nginx has no such directive.
func WithMaxClientMessageSize(n int64) Option {
	return optionFunc(func(c *config) { c.maxFromClient = n })
}

// WithMaxUpstreamMessageSize limits the messages of the upstream, as
// [WithMaxClientMessageSize] does the client's.
func WithMaxUpstreamMessageSize(n int64) Option {
	return optionFunc(func(c *config) { c.maxFromUpstream = n })
}
