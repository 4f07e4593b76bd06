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

// An Option configures a Proxy in [New]. If an option is given twice, the last
// one wins. For [WithHeader] this applies to each field name separately, and
// [WithHooks] adds to the hooks given before.
//
// New checks all options and reports every mistake. It returns an error if a
// duration or a number is negative, or if a function, handler or pointer is
// nil.
type Option interface{ apply(*config) }

type optionFunc func(*config)

func (f optionFunc) apply(c *config) { f(c) }

// config holds what the options set. It is not written after New.
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
	messageRate     messageRate

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

	dialsWithUserCode bool // WithDialContext or WithTLSConfig was given

	plainHandler http.Handler
	errorHandler func(http.ResponseWriter, *http.Request, error)
	logger       *slog.Logger
	hooks        []Hooks
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
		errorHandler:   DefaultErrorHandler,
		logger:         slog.Default(),
	}
}

// WithPlainHandler passes requests that are not upgrades to h, for example to
// an [httputil.ReverseProxy] that uses [Proxy.Rewrite]. By default the Proxy
// sends them to the target, and refuses CONNECT and paths with a segment that
// decodes to "." or "..". The Proxy does not refuse these for h. It passes
// each request unchanged, except that it removes an Upgrade that must not be
// forwarded.
func WithPlainHandler(h http.Handler) Option {
	return optionFunc(func(c *config) {
		c.plainHandler = h
		c.require("WithPlainHandler", h != nil)
	})
}

// WithErrorHandler sets the function that responds to a request that failed
// before the upgrade. [StatusCode] returns the status for err. In most cases
// err wraps one of the package's errors. Body errors, client disconnects and
// mistakes of middleware wrap none of these. The header of w already has the
// fields that the response needs (Retry-After, Allow, Sec-WebSocket-Version,
// Connection). For an upgrade w wraps the ResponseWriter that ServeHTTP got: use
// [http.ResponseController], or its Unwrap method, to reach that. The default is
// [DefaultErrorHandler], which f may call. To count refused upgrades use [Hooks],
// which see those refused by the upstream too.
//
// f must not respond to an upgrade over HTTP/2 or HTTP/3 with a 2xx, which
// clients take for success.
func WithErrorHandler(f func(w http.ResponseWriter, r *http.Request, err error)) Option {
	return optionFunc(func(c *config) {
		c.errorHandler = f
		c.require("WithErrorHandler", f != nil)
	})
}

// WithLogger sets the logger of the proxy. The default is [slog.Default] at
// the time of New. To log nothing, use a logger with [slog.DiscardHandler].
//
// Failures of the upstream and of hooks are logged as warnings or errors.
// Mistakes of clients and the opening and closing of tunnels are logged at
// debug level. If a server fails several times in the same way, only the first
// failure in 10 seconds is logged as a warning. The others are logged at debug level.
// Their number is logged after that time, at the next request, Shutdown or Close.
//
// Queries are never logged. Header fields are logged only if they are refused: up to
// 64 bytes of a Host, an Origin, a handshake field or a malformed upstream header
// line. The closing of a tunnel is logged with up to 64 bytes of the reason in each
// Close frame that the ends sent.
func WithLogger(l *slog.Logger) Option {
	return optionFunc(func(c *config) {
		c.logger = l
		c.require("WithLogger", l != nil)
	})
}

// WithHooks adds functions to call when upgrades open a tunnel or are refused. It
// may be given more than once, so metrics, logs and audits do not exclude each
// other. The default is none, which costs nothing.
func WithHooks(h Hooks) Option {
	return optionFunc(func(c *config) { c.hooks = append(c.hooks, h) })
}

// WithDetached makes ServeHTTP return as soon as the tunnel is open. That
// frees the server's goroutine, its buffers and the request, which saves
// memory with many idle tunnels. By default ServeHTTP returns when the tunnel
// has ended, so middleware runs for as long as the tunnel does, and the tunnel
// ends when the request's context is done. A detached tunnel outlives both.
// The option has no effect on a tunnel over HTTP/2 or HTTP/3, whose stream ends
// when ServeHTTP returns.
func WithDetached() Option {
	return optionFunc(func(c *config) { c.detached = true })
}

// WithConnectTimeout limits the time to connect to a server, including the TLS
// handshake. With several servers it applies to each attempt. If the limit is
// exceeded and no other server is left, the client gets 504 with
// [ErrUpstreamTimeout]. The default is 60 seconds. Zero means no limit.
//
// nginx: proxy_connect_timeout.
func WithConnectTimeout(d time.Duration) Option {
	return optionFunc(func(c *config) { c.connectTimeout = d })
}

// WithReadTimeout sets the idle timeout. The default is 60 seconds. Zero
// disables it.
//
// On a tunnel it limits the time without a byte in either direction. The
// tunnel then ends with [ReasonReadTimeout]. A peer that sends pings more often than
// this keeps its tunnel open.
//
// Before the upgrade, and for plain requests, it limits the time from the end
// of the request to the end of the response's header. If it expires, the client
// gets 504 with [ErrUpstreamTimeout]. After the header it limits the time
// between two reads of the body. If it expires then, the response is aborted.
//
// nginx: proxy_read_timeout. Despite its manual, nginx also restarts that
// timeout on every event of an upgraded connection.
func WithReadTimeout(d time.Duration) Option {
	return optionFunc(func(c *config) { c.readTimeout = d })
}

// WithSendTimeout limits the time in which a write to the upstream or to the
// client makes no progress. The default is 60 seconds. Zero disables it.
//
// If the upstream stops reading a request, the client gets 504 with
// [ErrUpstreamTimeout]. If the client stops reading a response, the response
// is aborted and both connections are closed. If either end of a tunnel stops
// reading, the tunnel ends with [ReasonSendTimeout].
//
// On tunnels between plain sockets every byte counts as progress. Elsewhere
// progress is measured in steps of 16 KiB: a client that reads 16 KiB of a
// plain response within each timeout, beyond what the system's buffers hold,
// never exceeds the limit. The system may report room in its buffers only when
// a third of them is free.
//
// If the WriteTimeout of [http.Server] ends earlier, it applies. The limit
// does not apply to plain responses through middleware whose ResponseWriter
// has neither SetWriteDeadline nor Unwrap (see [http.ResponseController]). What
// middleware writes after a plain response has one more timeout in total.
//
// nginx: proxy_send_timeout and, toward the client, send_timeout.
func WithSendTimeout(d time.Duration) Option {
	return optionFunc(func(c *config) { c.sendTimeout = d })
}

// WithBodyTimeout limits the time between two reads of the client's body of a
// plain request, until the response begins. If the limit is exceeded, the
// client gets 408 and its connection is closed. The proxy also closes the
// connection to the server, which does not count as a failure of that server.
// The default is 60 seconds. Zero disables it.
//
// If the ReadTimeout of [http.Server] ends earlier, it applies. The limit does
// not apply with [WithPlainHandler], nor to requests through middleware whose
// ResponseWriter has neither SetReadDeadline nor Unwrap (see
// [http.ResponseController]), nor to a body that replaces the client's and
// does not read from it.
//
// nginx: client_body_timeout.
func WithBodyTimeout(d time.Duration) Option {
	return optionFunc(func(c *config) { c.bodyTimeout = d })
}

// WithCloseTimeout limits the time from the end of one side of a tunnel to the
// end of the other. The other side may send its remaining data in that time.
// Then the tunnel's connections are closed. The default is 10 seconds. Zero
// disables the limit, but not for answers to Close frames from the proxy,
// which then have 10 seconds.
//
// On a WebSocket tunnel the timeout also starts when either side sends a Close
// frame, and starts again with each byte from the side that has not sent one.
// Both sides have this time to answer a Close frame from the proxy. If the
// side that ended first no longer reads, the other's data is discarded;
// otherwise a reset could destroy the last bytes on their way to the first.
//
// nginx has no such directive. It closes both sides when the first ends, and
// data in transit is lost.
func WithCloseTimeout(d time.Duration) Option {
	return optionFunc(func(c *config) { c.closeTimeout = d })
}

// WithMaxLifetime limits the lifetime of a tunnel, busy or idle. The tunnel
// then ends with [ReasonMaxLifetime]. When clients reconnect, their credentials are
// checked again and load is balanced again. Each tunnel ends at a random moment
// between 0.9 d and d, so that clients that connected together do not reconnect
// together. The default is zero, which means no limit.
func WithMaxLifetime(d time.Duration) Option {
	return optionFunc(func(c *config) { c.maxLifetime = d })
}

// WithPing pings idle peers and drops those that do not answer. A peer that
// has sent nothing for interval gets a Ping between two frames. If it then
// sends nothing for timeout, its connection is closed immediately, the other
// peer gets a Close frame with code 1001, and the tunnel ends with
// [ReasonPingTimeout]. The default is an interval of zero, which disables pings.
// New returns an error if timeout is zero and interval is not.
//
// The Pong is forwarded to the other peer, which may ignore it (RFC 6455,
// section 5.5.3). It counts as activity for the read timeout, so live but idle
// tunnels stay open.
//
// Only WebSocket tunnels are pinged. On a connection whose SetReadDeadline
// does not interrupt a Read, the Ping waits for traffic. nginx has no such
// directive.
func WithPing(interval, timeout time.Duration) Option {
	return optionFunc(func(c *config) { c.pingInterval, c.pingTimeout = interval, timeout })
}

// WithMaxTunnels limits the number of tunnels open at once, including
// handshakes in progress. Further upgrades get 503 with [ErrTooManyTunnels]
// and Retry-After. The default is zero, which means no limit.
//
// nginx: limit_conn for a whole server.
func WithMaxTunnels(n int) Option {
	return optionFunc(func(c *config) { c.maxTunnels = n })
}

// WithMaxTunnelsPerIP limits the number of tunnels open at once from one
// client address. Further upgrades get the response of [WithMaxTunnels]. The
// default is zero, which means no limit.
//
// An IPv6 client is counted by the /64 of its address, because it can use
// every address in it. The address is that of X-Real-IP. Behind your own
// proxies, give [WithTrustedProxies], or all their clients count as one.
// Clients on a unix socket are not counted.
//
// nginx: limit_conn by $binary_remote_addr.
func WithMaxTunnelsPerIP(n int) Option {
	return optionFunc(func(c *config) { c.maxTunnelsPerIP = n })
}

// WithMaxClientMessageSize limits the size of the client's messages. The size
// is the payload of all frames of a message, in bytes on the wire; with
// permessage-deflate that is the compressed size. The frame that exceeds the
// limit is not forwarded. Both ends get a Close frame with code 1009, and the
// tunnel ends with [ReasonLimit]. The default is zero, which means no limit.
//
// With a limit the client must send well-formed frames, or it could send larger
// messages to a receiver that accepts malformed ones. Lengths must be encoded
// in the fewest bytes; reserved bits may be set. A malformed frame is not
// forwarded. Both ends get a Close frame with code 1002, and the tunnel ends
// with [ReasonProtocolError]. What the client sends after its Close frame is
// not forwarded. Only WebSocket tunnels are limited.
//
// nginx has no such directive.
func WithMaxClientMessageSize(n int64) Option {
	return optionFunc(func(c *config) { c.maxFromClient = n })
}

// WithMaxUpstreamMessageSize limits the size of the upstream's messages, as
// [WithMaxClientMessageSize] does for the client's. The default is zero, which
// means no limit.
func WithMaxUpstreamMessageSize(n int64) Option {
	return optionFunc(func(c *config) { c.maxFromUpstream = n })
}

// WithMessageRate limits the messages of the client on each tunnel to perSecond,
// with up to burst at once: a token bucket. Control frames count as messages, so
// that a flood of pings is limited too, and so do the answers to [WithPing].
// Above the rate both ends get a Close frame with code 1008, and the tunnel ends
// with [ReasonLimit]. The proxy does not delay messages, and does not drop one,
// as the next ones may be compressed with its help.
//
// A message is counted as its last byte arrives, and is forwarded even if it is
// above the rate, since parts of it may have been forwarded before. Fragments do
// not count, unless they are empty: [WithMaxClientMessageSize] limits the
// fragments of a message by their size. Messages are counted as the proxy reads
// them. An upstream that is slow to read makes them come in bursts.
//
// With a limit the client must send well-formed frames, as with
// [WithMaxClientMessageSize]. Tunnels of other protocols than WebSocket are not
// limited. The default, a perSecond of zero, is no limit; New returns an error
// if perSecond is negative or not a number, and for a burst below 1 with a
// limit.
//
// nginx has no such directive. Its limit_req counts a tunnel as one request.
func WithMessageRate(perSecond float64, burst int) Option {
	return optionFunc(func(c *config) { c.messageRate = messageRate{perSecond, burst} })
}

type messageRate struct {
	perSecond float64 // 0: no limit
	burst     int
}
