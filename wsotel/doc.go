// Package wsotel exports the counts of package wsproxy as OpenTelemetry metrics.
//
//	stop, err := wsotel.Observe(proxy, upstream)
//
// These are the metrics and their attributes:
//
//	wsproxy.tunnels             {tunnel}     open tunnels, by server.address and server.port
//	wsproxy.handshakes          {handshake}  upgrade requests without a response yet
//	wsproxy.tunnels.opened      {tunnel}
//	wsproxy.tunnels.closed      {tunnel}     by wsproxy.reason: "client_closed", "read_timeout"
//	wsproxy.handshakes.refused  {handshake}  by http.response.status_code
//	wsproxy.retries             {retry}      as Stats.Retries
//	wsproxy.forwarded           By           by wsproxy.from: "client" and "upstream"
//	wsproxy.messages            {message}    by wsproxy.from
//	wsproxy.server.up           {server}     0 for a server that is marked Down or down after failures, else 1; by server
//	wsproxy.server.failures     {failure}    as ServerState.Failed, by server
//	wsproxy.handshake.duration  s            histogram, of Hooks
//	wsproxy.tunnel.duration     s            histogram, of Hooks
//
// OpenTelemetry's exporter for Prometheus gives them the names that package wsprom
// has. The address of a unix socket is its path, without a port. No attribute has
// a value that a client chooses.
//
// The proxy counts without this package, so that the first ten need no hook and
// cost nothing between collections. The histograms need the hooks of [Hooks].
//
// # Traces
//
// This package makes no spans. A tunnel should have none: a span is exported when it
// ends, which is hours later, and its duration would look like a latency. The
// handshake is a request like others. The example of the package gives it one span,
// which OnOpen or OnRefuse ends and the upstream continues.
//
// Package otelhttp does not see the upgrade, since the connection is hijacked. It
// records the lifetime of the tunnel as the duration of a request with status 200,
// in its span and in http.server.request.duration. Its WithFilter excludes
// upgrades from both, as the example shows.
package wsotel
