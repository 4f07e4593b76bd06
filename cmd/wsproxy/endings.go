package main

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"example.com/wsproxy"
)

// hints returns, for each reason for which the proxy itself ends a tunnel, what to
// change.
func (v *values) hints() map[wsproxy.Reason]string {
	return map[wsproxy.Reason]string{
		wsproxy.ReasonReadTimeout: fmt.Sprintf("nothing crossed the tunnel for -read-timeout %v; raise it, or set -ping below it", v.read),
		wsproxy.ReasonSendTimeout: fmt.Sprintf("an end read nothing for -send-timeout %v; raise it", v.send),
		wsproxy.ReasonPingTimeout: fmt.Sprintf("an end did not answer a ping for -ping-timeout %v; raise it, or switch pings off with -ping 0", v.pingTimeout),
		wsproxy.ReasonMaxLifetime: fmt.Sprintf("the tunnel reached -max-lifetime %v; raise it", v.lifetime),
		wsproxy.ReasonLimit:       fmt.Sprintf("a message was larger than -max-message-size %d; raise it", v.maxMessage),
		wsproxy.ReasonProtocolError: "an end sent a malformed frame, which only -max-message-size refuses; " +
			"mend that end",
	}
}

// endings logs the tunnels that the proxy itself has ended. The library logs them
// only at debug level, because its user has hooks.
type endings struct {
	log     *slog.Logger
	hints   map[wsproxy.Reason]string
	repeats repeats[endingKey]
}

// Lines with the same endingKey are repeats.
type endingKey struct {
	route  string
	reason wsproxy.Reason
}

// repeatsWindow is how long repeats of an ending are counted before they are
// logged.
const repeatsWindow = 10 * time.Second

func newEndings(log *slog.Logger, hints map[wsproxy.Reason]string) *endings {
	e := &endings{log: log, hints: hints}
	e.repeats.window = repeatsWindow
	e.repeats.more = func(key endingKey, n int, within time.Duration) {
		log.Info(fmt.Sprintf("and %d more in %v", n, max(within.Round(time.Second), time.Second)), "reason", key.reason.String(), "route", key.route)
	}
	return e
}

func (l *endings) closed(route string, t *wsproxy.Tunnel, e wsproxy.Ending) {
	hint := l.hints[e.Reason]
	if hint == "" || !l.repeats.first(endingKey{route, e.Reason}) {
		return
	}
	l.log.LogAttrs(context.Background(), slog.LevelInfo, "the proxy ended a tunnel", shortened(
		[]slog.Attr{slog.String("reason", e.Reason.String()), slog.String("hint", hint)}, about(route, t),
		[]slog.Attr{slog.Duration("lifetime", e.Lifetime.Round(time.Millisecond))})...)
}
