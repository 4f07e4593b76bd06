package wsproxy

import (
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"example.com/wsproxy/internal/origin"
	"example.com/wsproxy/internal/syntax"
)

func (c *config) require(option string, given bool) {
	c.missing = slices.DeleteFunc(c.missing, func(s string) bool { return s == option })
	if !given {
		c.missing = append(c.missing, option)
	}
}

// validate reports every mistake in c, in one joined error.
func (c *config) validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf("wsproxy: "+format, args...)) }

	for _, option := range c.missing {
		if option == "WithUpstream" {
			fail("WithUpstream: nil or zero Upstream, want one that NewUpstream returned without an error")
			continue
		}
		fail("%s: nil, want a value", option)
	}
	for _, timeout := range []struct {
		option string
		d      time.Duration
	}{
		{"WithConnectTimeout", c.connectTimeout},
		{"WithReadTimeout", c.readTimeout},
		{"WithSendTimeout", c.sendTimeout},
		{"WithBodyTimeout", c.bodyTimeout},
		{"WithCloseTimeout", c.closeTimeout},
		{"WithMaxLifetime", c.maxLifetime},
		{"WithPing: interval", c.pingInterval},
		{"WithPing: timeout", c.pingTimeout},
	} {
		if timeout.d < 0 {
			fail("%s: %q is negative, want a duration or 0 for none", timeout.option, timeout.d)
		}
	}
	if c.pingInterval > 0 && c.pingTimeout == 0 {
		fail("WithPing: timeout %q, want a positive duration with an interval", c.pingTimeout)
	}
	for _, limit := range []struct {
		option string
		n      int64
	}{
		{"WithMaxTunnels", int64(c.maxTunnels)},
		{"WithMaxTunnelsPerIP", int64(c.maxTunnelsPerIP)},
		{"WithMaxTries", int64(c.maxTries)},
		{"WithMaxClientMessageSize", c.maxFromClient},
		{"WithMaxUpstreamMessageSize", c.maxFromUpstream},
	} {
		if limit.n < 0 {
			fail("%s: \"%d\" is negative, want a number or 0 for no limit", limit.option, limit.n)
		}
	}
	if r := c.messageRate; !(r.perSecond >= 0) || math.IsInf(r.perSecond, 0) {
		fail("WithMessageRate: \"%v\" messages a second, want a number or 0 for no limit", r.perSecond)
	} else if r.perSecond > 0 && r.burst < 1 {
		fail("WithMessageRate: a burst of \"%d\", want at least 1", r.burst)
	}
	for _, status := range c.retryStatus {
		if status < 400 || status > 599 {
			fail("WithRetryStatus: \"%d\" is not an error status, want 400 to 599", status)
		}
	}
	if len(c.upgrades) == 0 {
		fail("WithUpgrades: no protocol, want at least one, such as %q", "websocket")
	}
	for _, name := range c.upgrades {
		// RFC 9110, section 7.8: protocol = name ["/" version].
		base, version, versioned := strings.Cut(name, "/")
		switch {
		case !syntax.IsToken(base) || versioned && !syntax.IsToken(version):
			fail("WithUpgrades: %q is not a protocol name, want one such as %q", name, "websocket")
		case strings.EqualFold(base, "h2c"):
			fail("WithUpgrades: drop %q, it lets clients bypass the proxy (h2c smuggling)", name)
		}
	}
	for _, pattern := range c.origins {
		if _, err := origin.Parse(pattern); err != nil {
			fail("WithOrigins: %w", err)
		}
	}
	if c.host.set && !c.host.target && !syntax.IsHost(c.host.name) {
		fail("WithHost: %q, want a host with an optional port", c.host.name)
	}
	for _, edit := range c.headers {
		if err := edit.check(); err != nil {
			fail("WithHeader: %w", err)
		}
	}
	for _, s := range c.trustedProxies {
		if _, err := parseTrusted(s); err != nil && s != "unix:" {
			fail("WithTrustedProxies: %q, want an address, a CIDR prefix or \"unix:\"", s)
		}
	}
	return errors.Join(errs...)
}

// parseTarget parses the target of New. It refuses a unix socket as target of a
// Proxy with WithUpstream, which would never dial it.
func (c *config) parseTarget(s string) (*target, error) {
	t, err := parseTarget(s)
	if err != nil || t.network != "unix" || c.upstream == nil {
		return t, err
	}
	return nil, fmt.Errorf("wsproxy: target %q is not dialed with WithUpstream, want target %q and Server{Addr: %q}",
		t.url.Scheme+"://unix:"+t.addr, t.url.Scheme+"://localhost", "unix:"+t.addr)
}

// headerPolicy returns the policy that the validated options describe.
func (c *config) headerPolicy() headerPolicy {
	policy := headerPolicy{forwarded: c.forwarded, trusted: trust{set: c.trustSet}}
	for _, s := range c.trustedProxies {
		if prefix, err := parseTrusted(s); err == nil {
			policy.trusted.prefixes = append(policy.trusted.prefixes, prefix)
		} else {
			policy.trusted.unix = true
		}
	}
	for _, edit := range c.headers {
		edit.name = textproto.CanonicalMIMEHeaderKey(edit.name)
		policy.edits = slices.DeleteFunc(policy.edits, func(e headerEdit) bool { return e.name == edit.name })
		policy.edits = append(policy.edits, edit)
	}
	return policy
}

// parseTrusted parses an address or a CIDR prefix of WithTrustedProxies.
func parseTrusted(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil && !strings.Contains(s, "/") {
		addr = addr.Unmap().WithZone("")
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(s)
	if err == nil && prefix.Addr().Is4In6() && prefix.Bits() >= 96 {
		prefix = netip.PrefixFrom(prefix.Addr().Unmap(), prefix.Bits()-96)
	}
	return prefix.Masked(), err
}

// ownFields are the fields that only the proxy sets.
var ownFields = append([]string{
	"Content-Length",
	"Expect",
	"Sec-Websocket-Accept",
	"Sec-Websocket-Key",
	"Sec-Websocket-Version",
}, hopByHop...)

func (e headerEdit) check() error {
	name := textproto.CanonicalMIMEHeaderKey(e.name)
	switch {
	case !syntax.IsToken(e.name):
		return fmt.Errorf("%q is not a field name", e.name)
	case !syntax.IsFieldValue(e.value):
		return fmt.Errorf("value %q of %s, want no control characters", e.value, e.name)
	case name == "Host":
		return fmt.Errorf("%q, want WithHost or WithTargetHost instead", e.name)
	case slices.Contains(ownFields, name):
		return fmt.Errorf("drop %q, only the proxy sets it", e.name)
	}
	return nil
}

// checkServers reports every mistake in servers, in one joined error.
func checkServers(servers []Server) error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf("wsproxy: "+format, args...)) }
	if len(servers) == 0 {
		fail("no server, want at least one")
	}
	seen := make(map[string]bool, len(servers))
	for _, s := range servers {
		if scheme, _, found := strings.Cut(s.Addr, "://"); found {
			fail("server %q: drop %q, want host:port or unix:/path", s.Addr, scheme+"://")
		} else if !isServerAddr(s.Addr) {
			fail("server %q, want host:port or unix:/path", s.Addr)
		} else if seen[s.Addr] {
			fail("server %q is listed twice, want it once", s.Addr)
		}
		seen[s.Addr] = true
		for _, field := range []struct {
			name string
			n    int
		}{{"Weight", s.Weight}, {"MaxTunnels", s.MaxTunnels}, {"MaxFails", s.MaxFails}} {
			if field.n < 0 {
				fail("server %q: %s \"%d\" is negative, want a number or 0 for the default", s.Addr, field.name, field.n)
			}
		}
		if s.Weight > maxWeight {
			fail("server %q: Weight \"%d\", want at most %d", s.Addr, s.Weight, maxWeight)
		}
		if s.FailTimeout < 0 {
			fail("server %q: FailTimeout %q is negative, want a duration or 0 for the default", s.Addr, s.FailTimeout)
		}
	}
	return errors.Join(errs...)
}

func isServerAddr(addr string) bool {
	if path, unix := strings.CutPrefix(addr, "unix:"); unix {
		return strings.HasPrefix(path, "/") && !strings.Contains(path, "\x00")
	}
	_, _, err := net.SplitHostPort(addr)
	return err == nil && syntax.IsHost(addr)
}
