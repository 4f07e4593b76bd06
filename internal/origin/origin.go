// Package origin parses origins and the patterns of WithOrigins, and compares
// them.
package origin

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"example.com/wsproxy/internal/syntax"
)

// A Pattern is a parsed origin, or a pattern of WithOrigins.
type Pattern struct {
	scheme string // in a pattern "" means http or https
	host   string // lower case; in a pattern a leading "*." means one or more labels
	port   string // in a pattern "*" means any port
	opaque bool   // the origin is "null"
}

var errNoOrigin = errors.New(`no origin, want at least one, such as "https://example.com"`)

// Parse parses a pattern. An Origin header is a pattern without wildcards.
func Parse(s string) (Pattern, error) {
	switch s {
	case "":
		return Pattern{}, errNoOrigin
	case "null":
		return Pattern{opaque: true}, nil
	}
	malformed := fmt.Errorf("%s is not an origin, want [scheme://]host[:port]", syntax.Quote(s))
	scheme, host, found := strings.Cut(strings.ToLower(s), "://")
	if !found {
		scheme, host = "", scheme
	} else if !syntax.IsToken(scheme) {
		return Pattern{}, malformed
	}
	port := ""
	if rest, any := strings.CutSuffix(host, ":*"); any {
		host, port = rest, "*"
	}
	name, wild := strings.CutPrefix(host, "*.")
	if !syntax.IsHost(name) || wild && strings.HasPrefix(name, "[") || strings.Contains(scheme, "*") {
		return Pattern{}, malformed
	}
	if h, p, err := net.SplitHostPort(host); err == nil {
		if port != "" || p == "" {
			return Pattern{}, malformed
		}
		host, port = h, p
	}
	return Pattern{scheme: scheme, host: strings.Trim(host, "[]"), port: port}, nil
}

// matches reports whether the pattern p matches the origin o of a request.
func (p Pattern) matches(o Pattern) bool {
	if p.opaque || o.opaque {
		return p.opaque && o.opaque
	}
	if p.scheme == "" {
		if o.scheme != "http" && o.scheme != "https" {
			return false
		}
	} else if p.scheme != o.scheme {
		return false
	}
	if p.port != "*" && orDefaultPort(p.port, o.scheme) != orDefaultPort(o.port, o.scheme) {
		return false
	}
	if domain, wild := strings.CutPrefix(p.host, "*"); wild {
		return len(o.host) > len(domain) && strings.HasSuffix(o.host, domain)
	}
	return p.host == o.host
}

// orDefaultPort returns port or, if it is empty, the default port of scheme.
func orDefaultPort(port, scheme string) string {
	switch {
	case port != "":
		return port
	case scheme == "https":
		return "443"
	case scheme == "http":
		return "80"
	}
	return ""
}

// Check returns an error for a request whose Origin matches no pattern, or that has
// several Origin lines. Browsers do not send several, and the upstream could read
// another one than the proxy.
func Check(r *http.Request, allowed []Pattern) error {
	lines := r.Header["Origin"]
	if len(allowed) == 0 || len(lines) == 0 {
		return nil
	}
	if len(lines) == 1 && !strings.Contains(lines[0], "*") {
		if o, err := Parse(lines[0]); err == nil && (o.opaque || o.scheme != "") {
			for _, pattern := range allowed {
				if pattern.matches(o) {
					return nil
				}
			}
			if own, err := Parse(o.scheme + "://" + r.Host); err == nil && own.matches(o) {
				return fmt.Errorf("%s is the proxy's own origin, which WithOrigins does not imply; list it too", syntax.Quote(lines[0]))
			}
		}
	}
	return errors.New(syntax.Quote(strings.Join(lines, ", ")))
}
