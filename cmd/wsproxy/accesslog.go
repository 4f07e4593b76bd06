package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"example.com/wsproxy"
)

// accessFormats are the values of -access-log.
var accessFormats = []string{"off", "text", "json"}

// An accessLog writes a line when a tunnel opens and when it ends, and one for
// each refused upgrade.
type accessLog struct {
	log       *slog.Logger
	out       *accessWriter
	forwarded bool // clients may be behind proxies
}

// newAccessLog returns nil for the format off. Errors of w go to log.
func newAccessLog(format string, w io.Writer, log *slog.Logger, forwarded bool) *accessLog {
	out := &accessWriter{w: w, log: log}
	switch format {
	case "text":
		return &accessLog{slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{ReplaceAttr: accessAttr})), out, forwarded}
	case "json":
		return &accessLog{slog.New(slog.NewJSONHandler(out, &slog.HandlerOptions{ReplaceAttr: accessAttrJSON})), out, forwarded}
	}
	return nil
}

// An accessWriter is the file of an access log. Package slog drops the errors of
// its writes, and calls it with a lock held.
type accessWriter struct {
	w      io.Writer
	log    *slog.Logger
	failed bool         // the last write has failed
	began  atomic.Int64 // nanoseconds since 1970 of the write in progress, or 0
}

// Write logs the first of several errors in a row.
func (a *accessWriter) Write(p []byte) (n int, err error) {
	a.began.Store(time.Now().UnixNano())
	n, err = a.w.Write(p)
	a.began.Store(0)
	if err != nil && !a.failed {
		a.log.Warn("cannot write the access log, losing its lines until that works", "error", err)
	}
	a.failed = err != nil
	return n, err
}

// stuck reports whether a write has been waiting for a second, as nobody reads
// the other end of a pipe.
func (l *accessLog) stuck() bool {
	if l == nil {
		return false
	}
	began := l.out.began.Load()
	return began != 0 && time.Since(time.Unix(0, began)) >= time.Second
}

// accessAttr drops the level, which is always the same.
func accessAttr(groups []string, a slog.Attr) slog.Attr {
	if groups == nil && a.Key == slog.LevelKey {
		return slog.Attr{}
	}
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.DurationValue(a.Value.Duration().Round(time.Microsecond))
	}
	return a
}

// accessAttrJSON writes durations in seconds. Package slog would write
// nanoseconds.
func accessAttrJSON(groups []string, a slog.Attr) slog.Attr {
	a = accessAttr(groups, a)
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.Float64Value(a.Value.Duration().Seconds())
	}
	return a
}

func (l *accessLog) opened(route string, t *wsproxy.Tunnel, r *http.Request) {
	if l != nil {
		l.write("tunnel opened", about(route, t), client(r))
	}
}

func (l *accessLog) closed(route string, t *wsproxy.Tunnel, e wsproxy.Ending) {
	if l != nil {
		l.write("tunnel closed", about(route, t), e.LogValue().Group())
	}
}

// refused logs an upgrade that opened no tunnel. err is nil if the upstream has
// responded with status.
func (l *accessLog) refused(route string, r *http.Request, status int, err error) {
	if l == nil {
		return
	}
	ip, _, splitErr := net.SplitHostPort(r.RemoteAddr)
	if splitErr != nil { // on a unix socket
		ip = r.RemoteAddr
	}
	attrs := []slog.Attr{slog.String("route", route), slog.String("client", ip)}
	if list := strings.Join(r.Header["X-Forwarded-For"], ", "); l.forwarded && list != "" {
		attrs = append(attrs, slog.String("forwarded_for", list[max(0, len(list)-maxLogged):])) // its end can be trusted
	}
	attrs = append(attrs, slog.String("host", r.Host), slog.String("path", r.URL.Path), slog.Int("status", status))
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	l.write("upgrade refused", attrs, client(r))
}

// write logs the attributes. Package slog quotes control characters.
func (l *accessLog) write(message string, groups ...[]slog.Attr) {
	l.log.LogAttrs(context.Background(), slog.LevelInfo, message, shortened(groups...)...)
}

// shortened returns the attributes of all groups, each string shortened to maxLogged
// bytes.
func shortened(groups ...[]slog.Attr) []slog.Attr {
	attrs := slices.Concat(groups...)
	for i, a := range attrs {
		if s := a.Value; s.Kind() == slog.KindString && len(s.String()) > maxLogged {
			attrs[i].Value = slog.StringValue(strings.ToValidUTF8(s.String()[:maxLogged], "") + "…")
		}
	}
	return attrs
}

// maxLogged is the maximum length of a logged string.
const maxLogged = 512

// about returns the attributes of a tunnel that never change.
func about(route string, t *wsproxy.Tunnel) []slog.Attr {
	attrs := []slog.Attr{slog.String("route", route)}
	for _, a := range t.LogValue().Group() {
		switch a.Key {
		case "opened_at", "from_client", "from_upstream":
		default:
			attrs = append(attrs, a)
		}
	}
	return attrs
}

// client returns the fields in which a client describes itself.
func client(r *http.Request) (attrs []slog.Attr) {
	for _, name := range []string{"Origin", "User-Agent"} {
		if value := r.Header.Get(name); value != "" {
			attrs = append(attrs, slog.String(strings.ToLower(strings.ReplaceAll(name, "-", "_")), value))
		}
	}
	return attrs
}
