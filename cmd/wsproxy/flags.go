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

// settings are what the arguments say.
type settings struct {
	listen    string
	cert, key string
	wait      time.Duration // -drain
	level     slog.Level
	targets   []string // none: the demo
	bad       error    // what is wrong with them
	options   []wsproxy.Option
	maxHeader int  // -max-header-bytes
	version   bool // print it and do nothing else

	policy           string
	maxFails         int
	failTimeout, dns time.Duration
}

// values are the flags that become options of the Proxy or need a check.
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
	level                           string
}

// flagSet defines every flag, each with the nginx directive it answers to, or
// that there is none.
func flagSet(s *settings, v *values) *flag.FlagSet {
	f := flag.NewFlagSet("wsproxy", flag.ContinueOnError)
	f.SetOutput(io.Discard) // run prints errors and help
	f.StringVar(&s.listen, "listen", "localhost:8080",
		"nginx listen: `address` to listen on; port 0 takes a free one, no host is every address")
	f.StringVar(&s.cert, "tls-cert", "",
		"nginx ssl_certificate: PEM `file` with the certificate chain, to serve https and wss")
	f.StringVar(&s.key, "tls-key", "",
		"nginx ssl_certificate_key: PEM `file` with the certificate's key")
	f.DurationVar(&v.connect, "connect-timeout", 60*time.Second,
		"nginx proxy_connect_timeout: longest time to connect to the target, TLS included;\n0 for no limit")
	f.DurationVar(&v.read, "read-timeout", 60*time.Second,
		"nginx proxy_read_timeout: longest silence of a response, or of both sides of a tunnel;\n0 for no limit")
	f.DurationVar(&v.send, "send-timeout", 60*time.Second,
		"nginx proxy_send_timeout and send_timeout: longest time a write, to the target or to the\n"+
			"client, may make no progress; 0 for no limit")
	f.DurationVar(&v.body, "body-timeout", 60*time.Second,
		"nginx client_body_timeout: longest silence of a client between two reads of a plain\n"+
			"request's body; 0 for no limit")
	f.DurationVar(&v.close, "close-timeout", 10*time.Second,
		"no nginx directive (it closes both sides at the first end): longest time for the second\n"+
			"side of a tunnel to end after the first, and for both to answer a Close of the proxy's;\n"+
			"0 for no limit")
	f.DurationVar(&v.lifetime, "max-lifetime", 0,
		"no nginx directive: longest life of a tunnel, busy or not; 0 for no limit (default 0s)")
	f.DurationVar(&v.ping, "ping", 0,
		"no nginx directive: ping either end of a tunnel that has sent nothing for this `interval`;\n"+
			"0 for no pings (default 0s)")
	f.DurationVar(&v.pingTimeout, "ping-timeout", 10*time.Second,
		"no nginx directive: how long an end may stay silent after a ping of -ping")
	f.IntVar(&v.maxTunnels, "max-tunnels", 0,
		"nginx limit_conn over a whole server: most tunnels at once, `n`; 0 for no limit (default 0)")
	f.IntVar(&v.maxTunnelsPerIP, "max-tunnels-per-ip", 0,
		"nginx limit_conn by $binary_remote_addr: most tunnels at once of a client address or\n"+
			"IPv6 /64, `n`; behind proxies give -trusted-proxy with it; 0 for no limit (default 0)")
	f.Int64Var(&v.maxMessage, "max-message-size", 0,
		"no nginx directive: largest message, either way, in `bytes` as on the wire; a larger one\n"+
			"ends its tunnel with code 1009, and malformed frames with 1002; 0 for no limit (default 0)")
	f.IntVar(&s.maxHeader, "max-header-bytes", 64<<10,
		"nginx large_client_header_buffers: most `bytes` of a request's line and header, to which\n"+
			"net/http adds 4096; a client that sends more gets 431")
	f.StringVar(&s.policy, "policy", "round-robin",
		"nginx least_conn, random two least_conn, ip_hash and hash: which server a request goes\n"+
			"to, by the policy `name`: round-robin, least-tunnels, random2, hash-ip or hash-uri; of no\n"+
			"effect with a single server")
	f.IntVar(&s.maxFails, "max-fails", 1,
		"nginx max_fails: `n` failures within -fail-timeout take a server down; 0 for never; of no\n"+
			"effect with a single server")
	f.DurationVar(&s.failTimeout, "fail-timeout", 10*time.Second,
		"nginx fail_timeout: the time within which -max-fails failures take a server down, and for\n"+
			"how long; of no effect with a single server")
	f.IntVar(&v.maxTries, "max-tries", 3,
		"nginx proxy_next_upstream_tries: most servers, `n`, that one request is sent to; 0 for all;\n"+
			"of no effect with a single server")
	f.Func("retry-status", "nginx proxy_next_upstream http_503 and its like: a `status`, such as 503, with which a\n"+
		"request that may be sent twice goes to the next server; repeatable; of no effect with a\n"+
		"single server", func(status string) error {
		n, err := strconv.Atoi(status)
		if err != nil {
			return errors.New("want a status such as 503")
		}
		v.retryStatus = append(v.retryStatus, n)
		return nil
	})
	f.DurationVar(&s.dns, "dns", 0,
		"nginx server name resolve: use all addresses of the target's name, and look it up again\n"+
			"after each `interval`; 0 to leave the name to each connection (default 0s)")
	f.BoolVar(&v.keepAlive, "keep-alive", false,
		"nginx keepalive, with '' in place of close in the map: reuse connections to the target\n"+
			"for plain requests")
	f.Func("origin", "no nginx directive (it takes an if on $http_origin): take upgrades from pages of this\n"+
		"origin only, a `pattern` such as https://example.com, *.example.com or http://localhost:*;\n"+
		"repeatable", func(pattern string) error {
		v.origins = append(v.origins, pattern)
		return nil
	})
	f.Func("trusted-proxy", "nginx set_real_ip_from, with real_ip_recursive on: believe the forwarding fields of\n"+
		"peers in `prefix`, an address or a CIDR prefix, and of nobody else; repeatable", func(prefix string) error {
		v.trusted = append(v.trusted, prefix)
		return nil
	})
	f.BoolVar(&v.targetHost, "target-host", false,
		"nginx proxy_set_header Host $proxy_host: send the target's host as Host, not the client's")
	f.Func("header", "nginx proxy_set_header: set a `field` of every request to the target, as \"Name: value\",\n"+
		"or remove it, as \"Name:\"; repeatable", func(field string) error {
		name, value, found := strings.Cut(field, ":")
		if !found || strings.TrimSpace(name) == "" {
			return errors.New(`want "Name: value"`)
		}
		v.headers = append(v.headers, [2]string{strings.TrimSpace(name), strings.TrimSpace(value)})
		return nil
	})
	f.BoolVar(&v.detached, "detached", false,
		"no nginx directive (its connections are always so): keep no goroutine and no buffers of\n"+
			"the server's for a tunnel, which suits very many idle ones")
	f.DurationVar(&s.wait, "drain", 30*time.Second,
		"nginx worker_shutdown_timeout: how long tunnels, which are sent a Close frame, and requests\n"+
			"may take to end on SIGINT or SIGTERM, a WebSocket -close-timeout at most; 0 cuts at once")
	f.StringVar(&v.level, "log", "info",
		"nginx error_log's level: least `level` to log: debug, info, warn or error")
	f.BoolVar(&s.version, "version", false,
		"nginx -v: print the versions of wsproxy and of Go, and exit")
	return f
}

// A hinted is a flag's value whose errors say what to write instead.
type hinted struct {
	flag.Value
	hint string
}

func (h hinted) Set(s string) error {
	if h.Value.Set(s) != nil {
		return errors.New(h.hint)
	}
	return nil
}

// hint has the numbers of f say what they want: package flag only says "parse
// error".
func hint(f *flag.FlagSet) {
	f.VisitAll(func(each *flag.Flag) {
		value, ok := each.Value.(flag.Getter)
		if !ok {
			return
		}
		switch value.Get().(type) {
		case time.Duration:
			each.Value = hinted{value, "want a number with its unit, such as 5s, 1m30s or 500ms"}
		case int, int64:
			each.Value = hinted{value, "want a whole number"}
		}
	})
}

// usage prints the help that -h asks for.
func usage(w io.Writer) {
	f := flagSet(new(settings), new(values))
	f.SetOutput(w)
	fmt.Fprint(w, `usage: wsproxy [flags] [target...]

wsproxy proxies WebSockets, and the plain requests beside them, to target: an
http, https, ws or wss URL, or http://unix:/run/app.sock:/base. More targets,
with the scheme and path of the first, are more servers for the same requests.
Without a target it runs a demo upstream of its own.

`)
	f.PrintDefaults()
}

var levels = map[string]slog.Level{
	"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
}

// parse reads the arguments. Its errors are errors of usage, or flag.ErrHelp;
// the target is checked with them, but alone it is no such error.
func parse(args []string) (*settings, error) {
	s, v := &settings{}, &values{}
	f := flagSet(s, v)
	hint(f)
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if s.version {
		return s, nil
	}
	s.targets = f.Args()
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	for i, target := range s.targets {
		switch {
		case target == "":
			fail("a target is empty; for the demo give none")
			s.targets = s.targets[:i]
		case i > 0 && strings.HasPrefix(target, "-"):
			fail("%q comes after a target, want flags before them", target)
			s.targets = s.targets[:i] // what follows may be its value
		default:
			continue
		}
		break
	}
	if (s.cert == "") != (s.key == "") {
		fail("-tls-cert and -tls-key go together")
	}
	if s.wait < 0 {
		fail("-drain: %q is negative, want a duration or 0 to cut at once", s.wait)
	}
	if s.maxHeader <= 0 {
		fail("-max-header-bytes: \"%d\" is not positive", s.maxHeader)
	}
	var known bool
	if s.level, known = levels[v.level]; !known {
		fail("-log: %q is no level, want debug, info, warn or error", v.level)
	}

	errs = append(errs, s.checkUpstream()...)
	s.options = v.options()
	if _, err := wsproxy.New("http://localhost", s.options...); err != nil {
		errs = append(errs, err)
	}
	bad, mismatched := checkTargets(s.targets)
	errs = append(errs, mismatched...)
	if errs == nil {
		s.bad = errors.Join(bad...)
		return s, nil
	}
	return nil, errors.Join(append(errs, bad...)...)
}

// inFlags puts New's errors in terms of the flags.
var inFlags = strings.NewReplacer(
	"WithConnectTimeout:", "-connect-timeout:",
	"WithReadTimeout:", "-read-timeout:",
	"WithSendTimeout:", "-send-timeout:",
	"WithBodyTimeout:", "-body-timeout:",
	"WithCloseTimeout:", "-close-timeout:",
	"WithMaxLifetime:", "-max-lifetime:",
	"WithPing: interval:", "-ping:",
	"WithPing: timeout:", "-ping-timeout:",
	"WithPing: timeout", "-ping-timeout:",
	"WithMaxTunnels:", "-max-tunnels:",
	"WithMaxTunnelsPerIP:", "-max-tunnels-per-ip:",
	"WithMaxTries:", "-max-tries:",
	"WithRetryStatus:", "-retry-status:",
	"WithMaxClientMessageSize:", "-max-message-size:",
	"WithMaxUpstreamMessageSize:", "-max-message-size:",
	"WithOrigins:", "-origin:",
	"WithTrustedProxies:", "-trusted-proxy:",
	"WithHeader:", "-header:",
	"WithHost:", "-header Host:",
	`WithHeader("Authorization", …)`, `-header "Authorization: …"`,
)

// options are the Proxy's for these flags.
func (v *values) options() []wsproxy.Option {
	options := []wsproxy.Option{
		wsproxy.WithConnectTimeout(v.connect),
		wsproxy.WithReadTimeout(v.read),
		wsproxy.WithSendTimeout(v.send),
		wsproxy.WithBodyTimeout(v.body),
		wsproxy.WithCloseTimeout(v.close),
		wsproxy.WithMaxLifetime(v.lifetime),
		wsproxy.WithPing(v.ping, v.pingTimeout),
		wsproxy.WithMaxTunnels(v.maxTunnels),
		wsproxy.WithMaxTunnelsPerIP(v.maxTunnelsPerIP),
		wsproxy.WithMaxClientMessageSize(v.maxMessage),
		wsproxy.WithMaxUpstreamMessageSize(v.maxMessage),
		wsproxy.WithMaxTries(v.maxTries),
		wsproxy.WithRetryStatus(v.retryStatus...),
	}
	if v.keepAlive {
		options = append(options, wsproxy.WithKeepAlive())
	}
	if v.origins != nil {
		options = append(options, wsproxy.WithOrigins(v.origins...))
	}
	if v.trusted != nil {
		options = append(options, wsproxy.WithTrustedProxies(v.trusted...))
	}
	if v.targetHost {
		options = append(options, wsproxy.WithTargetHost())
	}
	for _, field := range v.headers {
		if strings.EqualFold(field[0], "Host") {
			options = append(options, wsproxy.WithHost(field[1]))
		} else {
			options = append(options, wsproxy.WithHeader(field[0], field[1]))
		}
	}
	if v.detached {
		options = append(options, wsproxy.WithDetached())
	}
	return options
}
