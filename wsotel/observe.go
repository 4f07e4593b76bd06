package wsotel

import (
	"context"
	"errors"
	"net"
	"strconv"
	"strings"

	"example.com/wsproxy"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Observe reports the counts of p and u, which it reads at each collection, until
// stop is called. u is the [wsproxy.Upstream] of p. It may be nil, and then the
// metrics wsproxy.server.up and wsproxy.server.failures are absent.
//
// Bytes and messages are counted as they pass, not when the tunnel ends. The servers of
// wsproxy.tunnels are those of p, also without u, and former ones as long as they
// have tunnels.
//
// Proxies that are observed with the same provider need different attributes, see
// [WithAttributes].
func Observe(p *wsproxy.Proxy, u *wsproxy.Upstream, opts ...Option) (stop func() error, err error) {
	if p == nil {
		return nil, errors.New("wsotel: the proxy is nil")
	}
	meter, attrs, err := newMeter(opts)
	if err != nil {
		return nil, err
	}
	o := observation{p: p, u: u, attrs: attrs}
	if err := o.makeInstruments(meter); err != nil {
		return nil, err
	}
	registration, err := meter.RegisterCallback(o.observe, o.tunnels, o.handshakes, o.opened, o.closed, o.refused, o.retries,
		o.forwarded, o.messages, o.up, o.failures)
	if err != nil {
		return nil, err
	}
	return registration.Unregister, nil
}

type observation struct {
	p     *wsproxy.Proxy
	u     *wsproxy.Upstream
	attrs []attribute.KeyValue

	tunnels, handshakes, up          metric.Int64ObservableUpDownCounter
	opened, closed, refused, retries metric.Int64ObservableCounter
	forwarded, messages, failures    metric.Int64ObservableCounter
}

func (o *observation) makeInstruments(meter metric.Meter) error {
	var errs []error
	current := func(name, unit, description string) metric.Int64ObservableUpDownCounter {
		i, err := meter.Int64ObservableUpDownCounter(name, metric.WithUnit(unit), metric.WithDescription(description))
		errs = append(errs, err)
		return i
	}
	total := func(name, unit, description string) metric.Int64ObservableCounter {
		i, err := meter.Int64ObservableCounter(name, metric.WithUnit(unit), metric.WithDescription(description))
		errs = append(errs, err)
		return i
	}
	o.tunnels = current("wsproxy.tunnels", "{tunnel}", "Open tunnels.")
	o.handshakes = current("wsproxy.handshakes", "{handshake}", "Upgrade requests that have no response yet.")
	o.opened = total("wsproxy.tunnels.opened", "{tunnel}", "Tunnels opened.")
	o.closed = total("wsproxy.tunnels.closed", "{tunnel}", "Tunnels that have ended, by reason.")
	o.refused = total("wsproxy.handshakes.refused", "{handshake}", "Upgrade requests that opened no tunnel, by status of the response.")
	o.retries = total("wsproxy.retries", "{retry}", "Times that another server was tried for a request, upgrade or plain.")
	o.forwarded = total("wsproxy.forwarded", "By", "Bytes that crossed tunnels, framing included, by sender.")
	o.messages = total("wsproxy.messages", "{message}", "Complete text and binary messages that crossed tunnels, by sender.")
	o.up = current("wsproxy.server.up", "{server}", "Whether the server is up: 0 if it is marked Down or down after failures.")
	o.failures = total("wsproxy.server.failures", "{failure}", "Failures of the server, as Server.MaxFails defines them.")
	return errors.Join(errs...)
}

const (
	reasonKey = attribute.Key("wsproxy.reason")
	fromKey   = attribute.Key("wsproxy.from")
	statusKey = attribute.Key("http.response.status_code")
	serverKey = attribute.Key("server.address")
	portKey   = attribute.Key("server.port")
)

func (o *observation) observe(_ context.Context, observer metric.Observer) error {
	put := func(i metric.Int64Observable, n int64, attrs ...attribute.KeyValue) {
		observer.ObserveInt64(i, n, metric.WithAttributes(o.attrs...), metric.WithAttributes(attrs...))
	}
	s := o.p.Stats()
	for addr, n := range s.LiveByServer() {
		put(o.tunnels, int64(n), server(addr)...)
	}
	put(o.handshakes, int64(s.Handshakes))
	put(o.opened, s.Opened)
	for reason, n := range s.ClosedByReason() {
		put(o.closed, n, reasonKey.String(strings.ReplaceAll(reason.String(), " ", "_")))
	}
	for status, n := range s.RefusedByStatus() {
		put(o.refused, n, statusKey.Int(status))
	}
	put(o.retries, s.Retries)
	put(o.forwarded, s.FromClient.Bytes, fromKey.String("client"))
	put(o.forwarded, s.FromUpstream.Bytes, fromKey.String("upstream"))
	put(o.messages, s.FromClient.Messages, fromKey.String("client"))
	put(o.messages, s.FromUpstream.Messages, fromKey.String("upstream"))
	if o.u == nil {
		return nil
	}
	for _, state := range o.u.Servers() {
		up := int64(1)
		if state.Down || !state.DownUntil.IsZero() {
			up = 0
		}
		put(o.up, up, server(state.Addr)...)
		put(o.failures, state.Failed, server(state.Addr)...)
	}
	return nil
}

// server returns the attributes of a server, by OpenTelemetry's conventions.
func server(addr string) []attribute.KeyValue {
	if path, unix := strings.CutPrefix(addr, "unix:"); unix {
		return []attribute.KeyValue{serverKey.String(strings.ToValidUTF8(path, "\uFFFD"))}
	}
	host, service, err := net.SplitHostPort(addr)
	port, notNumber := strconv.Atoi(service)
	if err != nil || notNumber != nil {
		return []attribute.KeyValue{serverKey.String(addr)}
	}
	return []attribute.KeyValue{serverKey.String(host), portKey.Int(port)}
}
