// Command wsproxy is a WebSocket reverse proxy. It does what nginx does with the
// recipe whose map sets $connection_upgrade.
//
//	wsproxy [flags] [target...]
//
// A target is an http, https, ws or wss URL, or a unix socket in nginx's form,
// http://unix:/run/app.sock:/base. wsproxy validates upgrades, forwards them to
// the target, and relays both ways. It proxies every other request, too.
// Without a target wsproxy proxies a demo upstream: a page that shows echo,
// round-trip times, the open tunnels and the header fields that arrive.
//
//	wsproxy                                          # the demo on http://localhost:8080
//	wsproxy http://localhost:3000                    # a proxy in front of port 3000
//	wsproxy -policy least-tunnels http://a:3000 http://b:3000
//	wsproxy -policy hash-ip -dns 5s http://chat.default.svc.cluster.local.:3000
//	wsproxy -listen :443 -tls-cert cert.pem -tls-key key.pem \
//		-origin https://example.com -read-timeout 300s http://unix:/run/app.sock
//	wsproxy -route /ws=http://localhost:4000 http://localhost:3000
//	wsproxy -admin 9090 -access-log json http://localhost:3000
//
// When wsproxy listens, it prints its address and the servers on standard
// output. If -listen has port 0, the address has the actual port. It logs to
// standard error.
//
// # Routes
//
// -route /path=target sends the requests for a path to another target. The path is
// a pattern of [http.ServeMux]. /ws matches only that path. /ws/ matches everything
// below it, and a request for /ws is redirected to /ws/, which a browser's
// WebSocket does not follow. To serve both, give both:
//
//	wsproxy -route /ws=http://localhost:4000 -route /ws/=http://localhost:4000 http://localhost:3000
//
// The longest match wins. Other requests go to the target argument, or get 404
// if there is none. The request's path is appended unchanged to that of the
// target. As with ServeMux, a path with "//" or a dot segment is redirected to
// the clean path, also for the target argument.
//
// All flags apply to each route. -max-tunnels 100 allows 100 tunnels in each. With
// -dns the name of each target is looked up.
//
// # Several servers
//
// Several targets are servers for the same requests. They must have the same
// scheme, path and query. The host of the first target is the Host that
// -target-host sends, and the name in the certificates of https targets.
//
// With -dns the servers are all addresses of the name of a target. They
// are looked up at the start and again after each interval. wsproxy does not
// start if the first lookup fails. If a later one fails, the servers stay the
// same.
//
// A request that fails before its response may be sent to the next server; see
// [wsproxy.WithUpstream]. With a single server -policy, -max-fails,
// -fail-timeout, -max-tries and -retry-status have no effect, as in nginx, so a
// list of targets may shrink to one. A single server never goes down.
//
// # Flags
//
// wsproxy -h explains each flag and names its nginx directive:
//
//	-listen address          where to listen (default localhost:8080)
//	-reuse-port              share that address with a process that replaces this one
//	-tls-cert, -tls-key file serve https and wss with this certificate and key
//	-http2                   serve HTTP/2 too, for pages and WebSockets; needs TLS
//	-connect-timeout d       connecting to the target, including TLS (60s)
//	-read-timeout d          idle time of a response or a tunnel (60s)
//	-send-timeout d          a write without progress (60s)
//	-body-timeout d          time between two reads of a request's body (60s)
//	-close-timeout d         the second side of a tunnel after the first, and
//	                         both after a Close frame from the proxy (10s)
//	-max-lifetime d          lifetime of a tunnel (0: no limit)
//	-ping interval           ping an end that sends nothing (25s; 0: never)
//	-ping-timeout d          time without data after a ping (10s)
//	-max-tunnels n           tunnels at once (0: no limit)
//	-max-tunnels-per-ip n    tunnels at once from a client address (0: no limit)
//	-max-message-size bytes  a message in either direction (0: no limit)
//	-max-header-bytes bytes  a request's line and header (65536)
//	-policy name             round-robin, least-tunnels, random2, hash-ip or
//	                         hash-uri (round-robin)
//	-max-fails n             failures that take a server down (1; 0: never)
//	-fail-timeout d          in what time, and for how long (10s)
//	-max-tries n             servers tried for one request (3; 0: all)
//	-retry-status status     try the next server after a response with this
//	                         status; repeatable
//	-dns interval            use all addresses of the target's name (0: no)
//	-keep-alive              reuse connections to the target for plain requests
//	-origin pattern          accept upgrades only from this origin; repeatable
//	-trusted-proxy prefix    trust forwarding fields of these peers; repeatable
//	-target-ca file          trust these authorities for https targets
//	-target-insecure         do not verify the certificates of https targets
//	-target-host             send the target's host, not the client's, as Host
//	-header "Name: value"    set a field of every request; repeatable
//	-route path=target       proxy a path to another target; repeatable
//	-admin address           serve the page, metrics, health and readiness
//	-pprof                   serve Go's profiles there, too
//	-access-log format       log tunnels and refusals: text or json (off)
//	-detached                free the server's goroutine while a tunnel is open
//	-drain d                 time for tunnels to end on shutdown (30s)
//	-spread d                close tunnels evenly over this part of the drain (0)
//	-log level               debug, info, warn or error (info)
//	-version                 print the versions of wsproxy and of Go
//
// Flags go before the targets. -header with an empty value removes the field. A
// timeout of 0 means no limit, except that -drain 0 closes immediately.
//
// # Administration
//
// -admin is another address to listen on, for operators. It is served until the
// drain has ended:
//
//	/              the page of package wsdebug: totals, rates, servers, tunnels
//	/metrics       the same counts for Prometheus, with the label proxy for the route
//	/healthz       200 while the process lives
//	/readyz        200, or 503 from the start of the drain
//	/debug/pprof/  Go's profiles, with -pprof
//
// Readiness does not depend on the targets: if all are down, no other replica has
// better ones. The name of the target argument
// is "/".
//
// There is no password, and the page shows the addresses of clients. A port alone,
// or with an empty host, is therefore an address of 127.0.0.1. On a
// loopback address the Host of a request must be localhost, an IP address or the
// host of -admin, so that no web site reads the page through its visitors (DNS
// rebinding). wsproxy warns about any other address, such as 0.0.0.0:9090, which
// the probes of Kubernetes need. Limit access to such an address in the network.
//
// # Logs
//
// -access-log writes to standard output. There is a line when a tunnel opens, when
// it ends, and when an upgrade is refused or redirected. A plain request has none.
// A refusal without an error came from the upstream. The route and id of a tunnel
// are the same in both its lines. Strings are shortened to 512 bytes. Queries are
// not logged. In JSON, durations are in seconds. If standard output is a full pipe,
// tunnels wait until someone reads it, or until the end of -drain. If writing
// fails, as on a full disk, the lines are lost, and the log has a warning.
//
// The log on standard error has a line for a tunnel that the proxy itself ends: at a
// timeout, the maximum lifetime or size, or because an end does not answer pings. The
// line names the flag to change. In 10 seconds only the first ending with the same
// reason and route has a line. Another line has the number of the others. There is
// a warning at the start if -read-timeout leaves no time for a ping.
//
// # Signals
//
// SIGINT or SIGTERM starts the drain. wsproxy stops listening and waits up to a
// second for requests that are on their way. Then it closes connections without
// a request, and sends both ends of every tunnel a Close frame with code 1001,
// "shutting down". A tunnel ends when both have answered. A tunnel that has not
// ended within -close-timeout is closed immediately. When -drain expires or a
// second signal arrives, wsproxy closes all remaining tunnels and plain requests.
// It exits at most three seconds after a second signal.
//
// With -spread the tunnels get their Close frames in random order and evenly
// over that time, with code 1012, "service restart", so that their clients do
// not reconnect all at once.
//
// # Restarts
//
// If systemd passes sockets (see sd_listen_fds(3)), wsproxy serves on these, and
// not on -listen. The socket named admin replaces -admin. The sockets stay open
// while wsproxy restarts, and clients wait in their queues.
//
// With -reuse-port a new process listens beside the old one before the old one gets
// SIGTERM. On Linux the old one first sends new connections to the new one, for a
// second, and then stops listening, so that no connection is refused or reset. The
// process that stops must be the older of two. See docs/deploy.md.
//
// # Certificates
//
// wsproxy reads the files of -tls-cert and -tls-key again during handshakes, at most
// once a second, and on SIGHUP. Open tunnels are unaffected. If the new files are
// missing, do not belong together or are not valid now, wsproxy logs that and keeps
// the last certificate. Without -tls-cert, SIGHUP starts the drain as SIGTERM does.
//
// # Exit status
//
//	0  everything ended in time
//	1  the drain closed a tunnel or a request early, or wsproxy could not
//	   start: a bad target, a busy port, a missing certificate
//	2  the flags or arguments are invalid
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	_ "example.com/wsproxy/http2" // for -http2
)

func main() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	signal.Ignore(syscall.SIGPIPE)       // or the end of the program that reads the log would end this one
	if !signal.Ignored(syscall.SIGHUP) { // as with nohup
		signal.Notify(signals, syscall.SIGHUP)
	}
	go insist()
	os.Exit(run(signals, os.Args[1:], os.Stdout, os.Stderr))
}

// insist exits three seconds after the second signal, in case that run waits for
// someone to read its log.
func insist() {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	<-signals
	<-signals
	time.Sleep(3 * time.Second)
	os.Exit(1)
}

// run runs the command and returns its exit status.
func run(signals <-chan os.Signal, args []string, stdout, stderr io.Writer) int {
	s, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		usage(stdout)
		return 0
	case err != nil:
		complain(stderr, err)
		fmt.Fprintln(stderr, "usage: wsproxy [flags] [target...]; wsproxy -h explains the flags")
		return 2
	case s.version:
		fmt.Fprintln(stdout, version())
		return 0
	}
	if err := s.serve(signals, stdout, stderr); err != nil {
		complain(stderr, err)
		return 1
	}
	return 0
}

// version returns the versions of the module and of Go. The version of a module
// without one is "(devel)".
func version() string {
	module := "(devel)"
	if info, ok := debug.ReadBuildInfo(); ok {
		module = cmp.Or(info.Main.Version, module)
	}
	return "wsproxy " + module + " " + runtime.Version()
}

// complain prints a line for each of the errors that err joins.
func complain(w io.Writer, err error) {
	last := ""
	for line := range strings.SplitSeq(err.Error(), "\n") {
		line = inFlags.Replace(strings.TrimPrefix(line, "wsproxy: "))
		if line != last { // -max-message-size sets two options with the same error
			fmt.Fprintln(w, "wsproxy: "+line)
		}
		last = line
	}
}
