package wsproxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"maps"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.com/wsproxy/internal/syntax"
)

// Hooks are functions that are called for upgrades. Each may be nil. [WithHooks] adds
// to earlier Hooks: all are called, in the order given.
//
// A hook is called on the goroutine that serves the request or ends the tunnel,
// and for different upgrades concurrently. It delays its own tunnel, and should
// be quick. If it panics, or calls [runtime.Goexit], that is logged, the hooks
// after it are called all the same, and a tunnel that is open ends with
// [ReasonFailed]. Goexit also ends the goroutine of ServeHTTP.
type Hooks struct {
	// OnOpen is called when the upstream has switched, before the client gets
	// the 101. r must not be kept. The function it returns, if not nil, is called
	// once, when the tunnel has ended and both connections are closed. It
	// carries what the hook wants to remember of t and r. Without
	// [WithDetached] it is called before ServeHTTP returns.
	OnOpen func(t *Tunnel, r *http.Request) (onClose func(Ending))

	// OnRefuse is called once for each upgrade request that opened no tunnel,
	// after the response is written. net/http may send a short response only when
	// ServeHTTP returns, after OnRefuse. status is the status of that response, or
	// that of err if the error handler has panicked or hijacked the connection.
	// err is what an error handler gets, or nil if the upstream responded without
	// switching. r must not be kept. A panic of another function, such as that of
	// WithRewrite, before there is a response is no refusal.
	OnRefuse func(r *http.Request, status int, err error)
}

// announce logs the tunnel and calls the hooks, before a byte crosses it.
func (t *Tunnel) announce(r *http.Request) {
	defer t.callOnOpen(t.p.hooks, r, &t.onClose) // also after a log handler's Goexit
	t.logIf(slog.LevelDebug, "tunnel opened", func() []slog.Attr {
		return []slog.Attr{slog.Duration("handshake", t.handshake)}
	})
}

// callOnOpen calls hooks, and appends the functions that they return to the list
// that ends at *last. The call of the next hook is deferred, as a hook may exit the
// goroutine.
func (t *Tunnel) callOnOpen(hooks []Hooks, r *http.Request, last **onClose) {
	for i, h := range hooks {
		if h.OnOpen != nil {
			defer func() { t.callOnOpen(hooks[i+1:], r, last) }()
			t.callHook("OnOpen", func() {
				if call := h.OnOpen(t, r); call != nil {
					*last = &onClose{call: call}
					last = &(*last).next
				}
			})
			return
		}
	}
}

// callOnClose is callOnOpen for the functions that the hooks returned.
func (t *Tunnel) callOnClose(hook *onClose, e Ending) {
	if hook != nil {
		defer t.callOnClose(hook.next, e)
		t.callHook("onClose", func() { hook.call(e) })
	}
}

func (t *Tunnel) callHook(name string, call func()) {
	guard(call, func(failure error, stack string) {
		t.end(ReasonFailed, fmt.Errorf("wsproxy: %s %w", name, failure))
		t.log(slog.LevelError, "hook failed", slog.String("hook", name), slog.Any("error", failure), slog.String("stack", stack))
	})
}

// refused counts a refusal and calls the hooks.
func (p *Proxy) refused(r *http.Request, status int, err error) {
	p.tunnels.refuse(status)
	p.callOnRefuse(p.hooks, r, status, err)
}

func (p *Proxy) callOnRefuse(hooks []Hooks, r *http.Request, status int, err error) {
	for i, h := range hooks {
		if h.OnRefuse != nil {
			defer p.callOnRefuse(hooks[i+1:], r, status, err)
			guard(func() { h.OnRefuse(r, status, err) }, func(failure error, stack string) {
				p.logger.LogAttrs(context.Background(), slog.LevelError, "hook failed",
					slog.String("hook", "OnRefuse"), slog.Any("error", failure), slog.String("stack", stack))
			})
			return
		}
	}
}

var errExited = errors.New("exited its goroutine (runtime.Goexit)")

// guard calls a function of the user's, and failed if that panics or exits the
// goroutine. Only a panic can be recovered from: a function that neither
// returned nor panicked has called runtime.Goexit, which continues after failed.
func guard(call func(), failed func(failure error, stack string)) {
	returned := false
	defer func() {
		if v := recover(); v != nil {
			failed(fmt.Errorf("panicked: %v", v), string(debug.Stack()))
		} else if !returned {
			failed(errExited, string(debug.Stack()))
		}
	}()
	call()
	returned = true
}

// log guards against a user's handler: a panic of its, or a runtime.Goexit, ends
// this tunnel alone.
func (t *Tunnel) log(level slog.Level, message string, attrs ...slog.Attr) {
	t.logIf(level, message, func() []slog.Attr { return attrs })
}

// logIf is log for attributes that are made only if the level is enabled.
func (t *Tunnel) logIf(level slog.Level, message string, attrs func() []slog.Attr) {
	guard(func() {
		if ctx := context.Background(); t.p.logger.Enabled(ctx, level) {
			t.p.logger.LogAttrs(ctx, level, message, append([]slog.Attr{
				slog.Uint64("tunnel", t.id), slog.String("client", t.clientIP.String()), slog.String("path", t.Path())}, attrs()...)...)
		}
	}, func(failure error, _ string) {
		t.end(ReasonFailed, fmt.Errorf("wsproxy: logger %w", failure))
	})
}

// A Reason is why a tunnel ended. What happened first decides.
type Reason uint8

// The reasons for which tunnels end.
const (
	ReasonClientClosed   Reason = iota + 1 // the client sent a Close frame, or closed or reset its connection
	ReasonUpstreamClosed                   // the upstream did
	ReasonReadTimeout                      // no byte crossed for the read timeout
	ReasonSendTimeout                      // a write made no progress for the send timeout
	ReasonPingTimeout                      // an end did not answer the proxy's Ping
	ReasonMaxLifetime                      // the tunnel reached the maximal lifetime
	ReasonShutdown                         // Proxy.Shutdown or Proxy.Drain
	ReasonKilled                           // Tunnel.Close, Tunnel.Cut or Proxy.Close
	ReasonLimit                            // a message exceeded the limit of its size or of their rate
	ReasonProtocolError                    // a side with a limit sent a malformed frame
	ReasonContextDone                      // the request's context ended
	ReasonFailed                           // the proxy failed, or a hook did
)

var reasonNames = [...]string{
	ReasonClientClosed:   "client closed",
	ReasonUpstreamClosed: "upstream closed",
	ReasonReadTimeout:    "read timeout",
	ReasonSendTimeout:    "send timeout",
	ReasonPingTimeout:    "ping timeout",
	ReasonMaxLifetime:    "max lifetime",
	ReasonShutdown:       "shutdown",
	ReasonKilled:         "killed",
	ReasonLimit:          "limit",
	ReasonProtocolError:  "protocol error",
	ReasonContextDone:    "context done",
	ReasonFailed:         "failed",
}

// String returns the reason in words: "client closed", "read timeout".
func (r Reason) String() string {
	if int(r) < len(reasonNames) && r != 0 {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// MarshalText implements [encoding.TextMarshaler]. It returns the reason in
// words.
func (r Reason) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// An Ending is how a tunnel ended.
type Ending struct {
	Reason Reason

	// Err is what failed, if anything did: a reset, the panic of a hook, or
	// [ErrCut] if the proxy cut the tunnel before both ends had closed. It is
	// nil for a tunnel that closed in order.
	Err error

	// ClientClose and UpstreamClose are the Close frames that the client and
	// the upstream sent, zero if none came, or one with the code 0, which is not
	// allowed. Those that the proxy sent are not among them.
	ClientClose, UpstreamClose CloseFrame

	// Handshake is the time from the request to the upstream's 101, and
	// Lifetime the time from there to the end. Only the first belongs in a
	// histogram of latencies.
	Handshake, Lifetime time.Duration

	FromClient, FromUpstream FlowStats
}

// LogValue implements [slog.LogValuer] with a group: reason, error,
// client_close, upstream_close, handshake, lifetime, from_client and
// from_upstream. What is nil or zero is left out of error and the Close frames.
func (e Ending) LogValue() slog.Value { return slog.GroupValue(e.attrs()...) }

func (e Ending) attrs() []slog.Attr {
	attrs := []slog.Attr{slog.String("reason", e.Reason.String())}
	if e.Err != nil {
		attrs = append(attrs, slog.String("error", e.Err.Error()))
	}
	if e.ClientClose != (CloseFrame{}) {
		attrs = append(attrs, slog.Any("client_close", e.ClientClose))
	}
	if e.UpstreamClose != (CloseFrame{}) {
		attrs = append(attrs, slog.Any("upstream_close", e.UpstreamClose))
	}
	return append(attrs, slog.Duration("handshake", e.Handshake), slog.Duration("lifetime", e.Lifetime),
		slog.Any("from_client", e.FromClient), slog.Any("from_upstream", e.FromUpstream))
}

// A CloseFrame is what an end said as it closed (RFC 6455, section 5.5.1).
type CloseFrame struct {
	Code   int    // 1005 for a frame without a code
	Reason string // at most 123 bytes; UTF-8 if the sender kept the rules
}

// LogValue implements [slog.LogValuer] with a group: code and reason. Of a
// reason longer than 64 bytes it has the first 64.
func (f CloseFrame) LogValue() slog.Value {
	reason := f.Reason
	if len(reason) > syntax.MaxQuoted {
		reason = strings.ToValidUTF8(reason[:syntax.MaxQuoted], "") + "…"
	}
	return slog.GroupValue(slog.Int("code", f.Code), slog.String("reason", reason))
}

// FlowStats counts what crossed a tunnel in one direction.
type FlowStats struct {
	Bytes    int64 // after the handshake, framing included
	Messages int64 // complete text and binary messages, over however many frames
}

// LogValue implements [slog.LogValuer] with a group: bytes and messages.
func (s FlowStats) LogValue() slog.Value {
	return slog.GroupValue(slog.Int64("bytes", s.Bytes), slog.Int64("messages", s.Messages))
}

func (s *FlowStats) add(o FlowStats) {
	s.Bytes += o.Bytes
	s.Messages += o.Messages
}

// Stats are a Proxy's counts since New. Each upgrade request counts as refused or in
// Opened, unless a user's function panics first. Each tunnel in Opened counts in Live
// until it ends, and then as closed.
type Stats struct {
	Handshakes int   // upgrade requests without a response now
	Live       int   // tunnels open now
	Opened     int64 // tunnels opened
	Retries    int64 // times that another server was tried for a request, upgrade or plain

	// Bytes and messages of all tunnels, including those that have ended.
	FromClient, FromUpstream FlowStats

	live    map[string]int // by server
	closed  [len(reasonNames)]int64
	refused map[int]int64
}

// LiveByServer returns the number of open tunnels to each server, sorted by
// address. It includes servers of the [Upstream] without a tunnel, and former ones
// as long as they have tunnels. The numbers add up to Live.
func (s Stats) LiveByServer() iter.Seq2[string, int] { return sorted(s.live) }

// Closed returns how many tunnels have ended for reason.
func (s Stats) Closed(reason Reason) int64 {
	if int(reason) < len(s.closed) {
		return s.closed[reason]
	}
	return 0
}

// Refused returns how many upgrade requests got a response with status, and so
// no tunnel, whether from the proxy or from the upstream.
func (s Stats) Refused(status int) int64 { return s.refused[status] }

// ClosedByReason returns [Stats.Closed] of every reason, also if it is zero.
func (s Stats) ClosedByReason() iter.Seq2[Reason, int64] {
	return func(yield func(Reason, int64) bool) {
		for reason := ReasonClientClosed; int(reason) < len(s.closed); reason++ {
			if !yield(reason, s.closed[reason]) {
				return
			}
		}
	}
}

// RefusedByStatus returns [Stats.Refused] of every status that has occurred and
// of those that the proxy itself responds with, sorted by status.
func (s Stats) RefusedByStatus() iter.Seq2[int, int64] {
	all := make(map[int]int64, len(s.refused)+len(ownRefusals))
	for _, status := range ownRefusals {
		all[status] = 0
	}
	maps.Copy(all, s.refused)
	return sorted(all)
}

// sorted returns the entries of m in the order of their keys.
func sorted[K cmp.Ordered, V any](m map[K]V) iter.Seq2[K, V] {
	return func(yield func(K, V) bool) {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			if !yield(k, m[k]) {
				return
			}
		}
	}
}

// LogValue implements [slog.LogValuer] with a group: handshakes, live, opened,
// retries, closed, refused, from_client and from_upstream. closed is a group of
// counts by reason, refused one by status. Both leave zeros out.
func (s Stats) LogValue() slog.Value {
	var closed, refused []slog.Attr
	for reason, n := range s.closed {
		if n > 0 {
			closed = append(closed, slog.Int64(strings.ReplaceAll(Reason(reason).String(), " ", "_"), n))
		}
	}
	for status, n := range sorted(s.refused) {
		refused = append(refused, slog.Int64(strconv.Itoa(status), n))
	}
	return slog.GroupValue(slog.Int("handshakes", s.Handshakes), slog.Int("live", s.Live),
		slog.Int64("opened", s.Opened), slog.Int64("retries", s.Retries),
		slog.Attr{Key: "closed", Value: slog.GroupValue(closed...)},
		slog.Attr{Key: "refused", Value: slog.GroupValue(refused...)},
		slog.Any("from_client", s.FromClient), slog.Any("from_upstream", s.FromUpstream))
}
