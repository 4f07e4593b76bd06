package wsproxy

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime/debug"
	"time"
)

// Hooks are called as tunnels open and close, each exactly once for a tunnel
// and OnOpen first. Any may be nil. They may be called concurrently for
// different tunnels and hold their tunnel up, so they should be quick. Each call
// has a goroutine of its own: a panic, or a [runtime.Goexit], is logged and ends
// the hook's tunnel with [ReasonFailed].
type Hooks struct {
	// OnOpen is called when the upstream has switched, before the client is
	// told. r must not be kept.
	OnOpen func(t *Tunnel, r *http.Request)

	// OnClose is called when both connections are closed, before ServeHTTP
	// returns where that waits.
	OnClose func(t *Tunnel, e Ending)
}

// announce logs the tunnel and calls OnOpen, before a byte crosses it.
func (t *Tunnel) announce(r *http.Request) {
	if t.p.hooks.OnOpen != nil {
		defer t.hook("OnOpen", func() { t.p.hooks.OnOpen(t, r) }) // also after a log handler's Goexit
	}
	t.log(slog.LevelDebug, "tunnel opened", slog.Duration("handshake", t.handshake))
}

// hook calls a function of the user's. Its panic ends this tunnel alone, and
// so does runtime.Goexit, as of a testing.T that fails, for which it has a
// goroutine of its own.
func (t *Tunnel) hook(name string, call func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		returned := false
		defer func() {
			if v := recover(); !returned {
				t.end(ReasonFailed, fmt.Errorf("wsproxy: %s failed: %v", name, v))
				t.log(slog.LevelError, "hook failed", slog.String("hook", name), slog.Any("panic", v), slog.String("stack", string(debug.Stack())))
			}
		}()
		call()
		returned = true
	}()
	<-done
}

// log guards against a user's handler: a panic of its, or a runtime.Goexit, ends
// this tunnel alone.
func (t *Tunnel) log(level slog.Level, message string, attrs ...slog.Attr) {
	returned := false
	defer func() {
		if v := recover(); !returned {
			t.end(ReasonFailed, fmt.Errorf("wsproxy: logger failed: %v", v))
		}
	}()
	if ctx := context.Background(); t.p.logger.Enabled(ctx, level) {
		t.p.logger.LogAttrs(ctx, level, message, append([]slog.Attr{
			slog.Uint64("tunnel", t.id), slog.String("client", t.clientIP.String()), slog.String("path", t.path)}, attrs...)...)
	}
	returned = true
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
	ReasonShutdown                         // Proxy.Shutdown
	ReasonKilled                           // Tunnel.Close or Proxy.Close
	ReasonLimit                            // a message was larger than WithMaxClientMessageSize or WithMaxUpstreamMessageSize allows
	ReasonProtocolError                    // a side with a limit sent a malformed frame
	ReasonContextDone                      // the request's context ended
	ReasonFailed                           // something of the proxy's own failed, such as a hook
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

// An Ending is how a tunnel ended.
type Ending struct {
	Reason Reason

	// Err is what failed, if anything did: a reset, the panic of a hook, or
	// [ErrCut] where the tunnel had to be cut because an end did not close in
	// time. It is nil for a tunnel that closed in order.
	Err error

	// Handshake is the time from the request to the upstream's 101, and
	// Lifetime the time from there to the end. Only the first belongs in a
	// histogram of latencies.
	Handshake, Lifetime time.Duration

	FromClient, FromUpstream FlowStats
}

// FlowStats counts what crossed a tunnel in one direction.
type FlowStats struct {
	Bytes    int64 // after the handshake, framing included
	Messages int64 // complete text and binary messages, over however many frames

	// CloseCode is that of the Close frame that the sender has sent: 1005 for
	// one without a code, 0 before any.
	CloseCode int
}

func (s *FlowStats) add(o FlowStats) {
	s.Bytes += o.Bytes
	s.Messages += o.Messages
}
