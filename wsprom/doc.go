// Package wsprom exports the counts of package wsproxy to Prometheus.
//
//	registry.MustRegister(wsprom.NewCollector(proxy, upstream))
//
// These are the metrics and their labels:
//
//	wsproxy_tunnels{server}                 gauge      open tunnels
//	wsproxy_handshakes                      gauge      upgrade requests without a response yet
//	wsproxy_tunnels_opened_total            counter
//	wsproxy_tunnels_closed_total{reason}    counter    by Reason: "client_closed", "read_timeout"
//	wsproxy_handshakes_refused_total{code}  counter    by status of the response
//	wsproxy_retries_total                   counter    as Stats.Retries
//	wsproxy_forwarded_bytes_total{from}     counter    from "client" and "upstream"
//	wsproxy_messages_total{from}            counter
//	wsproxy_server_up{server}               gauge      0 for a server that is marked Down or down after failures, else 1
//	wsproxy_server_failures_total{server}   counter    as ServerState.Failed
//	wsproxy_handshake_duration_seconds      histogram  of Durations
//	wsproxy_tunnel_duration_seconds         histogram  of Durations
//
// No label has a value that a client chooses. A proxy has some 30 series, and
// three for each server.
//
// The proxy counts without this package, so that the first ten need no hook and
// cost nothing between scrapes. The histograms need the Hooks of [Durations].
//
// Package wsdebug of wsproxy has the first ten too, without a dependency.
package wsprom
