package main

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"example.com/wsproxy"
)

// A hinted is a flag.Value with another error text, which says what to write
// instead.
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

// hint replaces the error texts of numeric flags. Package flag only reports
// "parse error".
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

var levels = map[string]slog.Level{
	"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
}

// parse parses the arguments. It returns a usage error or flag.ErrHelp. If only
// targets are malformed, it returns no error and sets settings.bad.
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
			fail("target \"\" is empty, want a URL, or no target for the demo")
			s.targets = s.targets[:i]
		case i > 0 && strings.HasPrefix(target, "-"):
			fail("%q comes after a target, want flags before them", target)
			s.targets = s.targets[:i] // the next argument may be its value
		default:
			continue
		}
		break
	}
	if (s.cert == "") != (s.key == "") {
		fail("-tls-cert %q, -tls-key %q, want both or neither", s.cert, s.key)
	}
	if s.http2 && s.cert == "" {
		fail("-http2 needs -tls-cert and -tls-key, as browsers speak HTTP/2 over TLS alone")
	}
	if s.targetCA != "" && s.targetInsecure {
		fail("-target-ca and -target-insecure, want one of them")
	}
	if s.wait < 0 {
		fail("-drain: %q is negative, want a duration or 0 to close immediately", s.wait)
	}
	if s.spread < 0 || s.spread > max(s.wait, 0) {
		fail("-spread: %q, want a duration from 0 to -drain, which is %v", s.spread, s.wait)
	}
	if s.maxHeader <= 0 {
		fail("-max-header-bytes: \"%d\" is not positive, want a number of bytes", s.maxHeader)
	}
	if s.maxHeader > 1<<30 { // net/http adds to it, and an overflow refuses every request
		fail("-max-header-bytes: \"%d\", want at most %d", s.maxHeader, 1<<30)
	}
	var known bool
	if s.level, known = levels[v.level]; !known {
		fail("-log: %q is not a level, want debug, info, warn or error", v.level)
	}

	if v.admin != "" {
		var err error
		if s.adminAddr, err = adminAddr(v.admin); err != nil {
			errs = append(errs, err)
		}
	} else if s.pprof {
		fail("-pprof needs -admin, which serves the profiles")
	}
	if !slices.Contains(accessFormats, s.access) {
		fail("-access-log: %q is not a format, want text, json or off", s.access)
	}

	errs = append(errs, s.checkUpstream()...)
	misrouted, badRoutes := s.checkRoutes()
	errs = append(errs, misrouted...)
	s.forwarded, s.hints = v.trusted != nil, v.hints()
	if v.ping > 0 && v.read > 0 && v.read <= v.ping {
		s.warnings = append(s.warnings, fmt.Sprintf("-read-timeout %v ends an idle tunnel before its first ping; "+
			"set -ping, which is %v, to less, or to 0 for no pings", v.read, v.ping))
	}
	s.options = v.options()
	if _, err := wsproxy.New("http://localhost", s.options...); err != nil {
		errs = append(errs, err)
	}
	bad, mismatched := checkTargets(s.targets)
	errs = append(errs, mismatched...)
	bad = append(bad, badRoutes...)
	if errs == nil {
		s.bad = errors.Join(bad...)
		return s, nil
	}
	return nil, errors.Join(append(errs, bad...)...)
}

// inFlags replaces the option names in New's errors with flag names.
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

// options returns the options of the Proxy.
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
