package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"example.com/wsproxy"
)

// settings are the parsed arguments.
type settings struct {
	listen    string
	reusePort bool
	cert, key string
	wait      time.Duration // -drain
	spread    time.Duration
	level     slog.Level
	targets   []string // empty for the demo
	bad       error    // the errors of targets
	warnings  []string // for the log
	options   []wsproxy.Option
	maxHeader int     // -max-header-bytes
	http2     bool    // offer HTTP/2
	version   bool    // only print the version
	routes    []route // -route
	adminAddr string
	pprof     bool
	access    string                    // -access-log
	forwarded bool                      // -trusted-proxy is set
	hints     map[wsproxy.Reason]string // for tunnels that the proxy ends

	targetCA       string
	targetInsecure bool

	policy           string
	maxFails         int
	failTimeout, dns time.Duration
}

// values are the flags that become options of the Proxy or need further checks.
type values struct {
	connect, read, send, body       time.Duration
	close, lifetime                 time.Duration
	ping, pingTimeout               time.Duration
	maxTunnels, maxTunnelsPerIP     int
	maxTries                        int
	retryStatus                     []int
	maxMessage                      int64
	keepAlive, targetHost, detached bool
	origins, trusted                []string
	headers                         [][2]string
	level, admin                    string
}

// groups are the flags in the order of the help.
var groups = []struct {
	title  string
	define func(*flag.FlagSet, *settings, *values)
}{
	{"Clients", listenFlags},
	{"Requests to the target", targetFlags},
	{"Several servers", serverFlags},
	{"Timeouts and pings", timeFlags},
	{"Limits", limitFlags},
	{"Observing", seeFlags},
	{"Running", runFlags},
}

// flagSet defines the flags. Each help text begins with the equivalent nginx
// directive, or says that nginx has none.
func flagSet(s *settings, v *values) *flag.FlagSet {
	f := flag.NewFlagSet("wsproxy", flag.ContinueOnError)
	f.SetOutput(io.Discard) // run prints errors and help
	for _, g := range groups {
		g.define(f, s, v)
	}
	return f
}

func listenFlags(f *flag.FlagSet, s *settings, v *values) {
	f.StringVar(&s.listen, "listen", "localhost:8080",
		"nginx listen: `address` to listen on; port 0 means a free port, an empty host all\n"+
			"addresses")
	f.BoolVar(&s.reusePort, "reuse-port", false,
		"nginx listen reuseport: share the address of -listen with another process that has this flag;\n"+
			"a restart begins with the new process; no effect on sockets from systemd")
	f.StringVar(&s.cert, "tls-cert", "",
		"nginx ssl_certificate: PEM `file` with the certificate chain, to serve https and wss; read\n"+
			"again when it changes, and on SIGHUP")
	f.StringVar(&s.key, "tls-key", "",
		"nginx ssl_certificate_key: PEM `file` with the certificate's key")
	f.BoolVar(&s.http2, "http2", false,
		"nginx http2: serve HTTP/2 beside HTTP/1.1, to browsers over TLS; they then open WebSockets\n"+
			"on the connection of their page (RFC 8441), which nginx cannot")
	f.IntVar(&s.maxHeader, "max-header-bytes", 64<<10,
		"nginx large_client_header_buffers: maximum `bytes` of a request's line and header, to\n"+
			"which net/http adds 4096; a client that sends more gets 431")
	f.Func("origin", "no nginx directive (it takes an if on $http_origin): accept upgrades only from pages of\n"+
		"this origin, a `pattern` such as https://example.com, *.example.com or\n"+
		"http://localhost:*; repeatable", func(pattern string) error {
		v.origins = append(v.origins, pattern)
		return nil
	})
	f.Func("trusted-proxy", "nginx set_real_ip_from, with real_ip_recursive on: trust the forwarding fields only of\n"+
		"peers in `prefix`, an address or a CIDR prefix; repeatable", func(prefix string) error {
		v.trusted = append(v.trusted, prefix)
		return nil
	})
}

func targetFlags(f *flag.FlagSet, s *settings, v *values) {
	f.Func("route", "nginx location: proxy a path to another target, as in `path=target`; /ws matches only that\n"+
		"path; /ws/ matches all below it, and redirects /ws, which a browser's WebSocket does not\n"+
		"follow, so give both; the longest match wins; other requests go to the target argument,\n"+
		"or get 404; repeatable", s.addRoute)
	f.StringVar(&s.targetCA, "target-ca", "",
		"nginx proxy_ssl_trusted_certificate: PEM `file` with the certificates of the authorities to\n"+
			"trust for https and wss targets, in place of the system's; also a self-signed certificate")
	f.BoolVar(&s.targetInsecure, "target-insecure", false,
		"nginx proxy_ssl_verify off, its default: do not verify the certificates of https and wss\n"+
			"targets, so that anyone on the way can read and change everything")
	f.BoolVar(&v.targetHost, "target-host", false,
		"nginx proxy_set_header Host $proxy_host: send the target's host, not the client's, as Host;\n"+
			"a target that compares Origin with Host then refuses upgrades from pages")
	f.Func("header", "nginx proxy_set_header: set a `field` of every request to the target with \"Name: value\",\n"+
		"or remove it with \"Name:\"; repeatable", func(field string) error {
		name, value, found := strings.Cut(field, ":")
		if !found || strings.TrimSpace(name) == "" {
			return errors.New(`want "Name: value"`)
		}
		v.headers = append(v.headers, [2]string{strings.TrimSpace(name), strings.TrimSpace(value)})
		return nil
	})
	f.BoolVar(&v.keepAlive, "keep-alive", false,
		"nginx keepalive, with '' in place of close in the map: reuse connections to the target\n"+
			"for plain requests")
}

func serverFlags(f *flag.FlagSet, s *settings, v *values) {
	f.StringVar(&s.policy, "policy", "round-robin",
		"nginx least_conn, random two least_conn, ip_hash and hash: the policy `name` that chooses\n"+
			"the server for a request: round-robin, least-tunnels, random2, hash-ip or hash-uri; no\n"+
			"effect with a single server")
	f.IntVar(&s.maxFails, "max-fails", 1,
		"nginx max_fails: `n` failures within -fail-timeout take a server down; 0 for never; no\n"+
			"effect with a single server")
	f.DurationVar(&s.failTimeout, "fail-timeout", 10*time.Second,
		"nginx fail_timeout: the time in which -max-fails failures take a server down, and the time\n"+
			"for which it is down; no effect with a single server")
	f.IntVar(&v.maxTries, "max-tries", 3,
		"nginx proxy_next_upstream_tries: try at most `n` servers for one request; 0 for all;\n"+
			"no effect with a single server")
	f.Func("retry-status", "nginx proxy_next_upstream http_503 and its like: send a request that may be sent twice to\n"+
		"the next server after a response with this `status`, such as 503; repeatable; no effect\n"+
		"with a single server", func(status string) error {
		n, err := strconv.Atoi(status)
		if err != nil {
			return errors.New("want a status such as 503")
		}
		v.retryStatus = append(v.retryStatus, n)
		return nil
	})
	f.DurationVar(&s.dns, "dns", 0,
		"nginx server name resolve: use all addresses of the target's name, and look the name up\n"+
			"again after each `interval`; 0 to look it up for each connection (default 0s)")
}

func timeFlags(f *flag.FlagSet, s *settings, v *values) {
	f.DurationVar(&v.connect, "connect-timeout", 60*time.Second,
		"nginx proxy_connect_timeout: maximum time to connect to the target, including TLS;\n0 for no limit")
	f.DurationVar(&v.read, "read-timeout", 60*time.Second,
		"nginx proxy_read_timeout: maximum idle time of a response or of a tunnel;\n0 for no limit")
	f.DurationVar(&v.send, "send-timeout", 60*time.Second,
		"nginx proxy_send_timeout and send_timeout: maximum time in which a write to the target or\n"+
			"to the client makes no progress; 0 for no limit")
	f.DurationVar(&v.body, "body-timeout", 60*time.Second,
		"nginx client_body_timeout: maximum time between two reads of the body of a plain request;\n"+
			"0 for no limit")
	f.DurationVar(&v.close, "close-timeout", 10*time.Second,
		"no nginx directive (it closes both sides at the first end): maximum time from the end of\n"+
			"one side of a tunnel to the end of the other, and for both to answer a Close frame from\n"+
			"the proxy; 0 for no limit")
	f.DurationVar(&v.lifetime, "max-lifetime", 0,
		"no nginx directive: maximum lifetime of a tunnel, busy or idle; 0 for no limit (default 0s)")
	f.DurationVar(&v.ping, "ping", 25*time.Second,
		"no nginx directive: ping either end of a tunnel that has sent nothing for this `interval`, so\n"+
			"that -read-timeout ends no tunnel whose ends answer; 0 for no pings")
	f.DurationVar(&v.pingTimeout, "ping-timeout", 10*time.Second,
		"no nginx directive: maximum time without data from an end after a ping of -ping")
}

func limitFlags(f *flag.FlagSet, s *settings, v *values) {
	f.IntVar(&v.maxTunnels, "max-tunnels", 0,
		"nginx limit_conn over a whole server: at most `n` tunnels at once, in each -route; 0 for no\n"+
			"limit (default 0)")
	f.IntVar(&v.maxTunnelsPerIP, "max-tunnels-per-ip", 0,
		"nginx limit_conn by $binary_remote_addr: at most `n` tunnels at once from a client address\n"+
			"or IPv6 /64, in each -route; behind proxies give -trusted-proxy as well; 0 for no limit\n"+
			"(default 0)")
	f.Int64Var(&v.maxMessage, "max-message-size", 0,
		"no nginx directive: maximum message size in each direction, in `bytes` on the wire; a\n"+
			"larger message closes the tunnel with code 1009, a malformed frame with 1002; 0 for no\n"+
			"limit (default 0)")
}

func seeFlags(f *flag.FlagSet, s *settings, v *values) {
	f.StringVar(&v.admin, "admin", "",
		"nginx stub_status: `address` or port of a page with the tunnels (/), /metrics for Prometheus,\n"+
			"/healthz, and /readyz, which is 503 from the start of the drain; a port alone, or with an\n"+
			"empty host, is for this machine only; there is no password")
	f.BoolVar(&s.pprof, "pprof", false,
		"no nginx directive: serve Go's profiles at /debug/pprof/ of -admin")
	f.StringVar(&s.access, "access-log", "off",
		"nginx access_log: write a line to standard output when a tunnel opens, when it ends and when\n"+
			"an upgrade is refused, but none for plain requests; its `format`: text, json or off")
	f.StringVar(&v.level, "log", "info",
		"nginx error_log's level: lowest `level` to log: debug, info, warn or error")
}

func runFlags(f *flag.FlagSet, s *settings, v *values) {
	f.BoolVar(&v.detached, "detached", false,
		"no nginx directive (its connections are always so): free the HTTP server's goroutine and\n"+
			"buffers while a tunnel is open, which saves memory with many idle tunnels")
	f.DurationVar(&s.wait, "drain", 30*time.Second,
		"nginx worker_shutdown_timeout: maximum time for tunnels, which get a Close frame, and\n"+
			"requests to end after SIGINT or SIGTERM, but at most -close-timeout for a WebSocket;\n"+
			"0 closes them immediately")
	f.DurationVar(&s.spread, "spread", 0,
		"no nginx directive (HAProxy close-spread-time): time, as a part of -drain, over which the\n"+
			"tunnels are closed after SIGINT or SIGTERM, evenly, in random order and with code 1012;\n"+
			"0 closes all at once (default 0s)")
	f.BoolVar(&s.version, "version", false,
		"nginx -v: print the versions of wsproxy and of Go, and exit")
}

// usage prints the help that -h asks for.
func usage(w io.Writer) {
	fmt.Fprint(w, `usage: wsproxy [flags] [target...]

wsproxy proxies WebSockets and plain requests to target: an http, https, ws or
wss URL, or http://unix:/run/app.sock:/base. Further targets, with the scheme
and path of the first, are further servers for the same requests. Without a
target wsproxy runs a demo upstream.
`)
	for _, g := range groups {
		f := flag.NewFlagSet("wsproxy", flag.ContinueOnError)
		f.SetOutput(w)
		g.define(f, new(settings), new(values))
		fmt.Fprintf(w, "\n%s:\n", g.title)
		f.PrintDefaults()
	}
}
