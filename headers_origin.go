package wsproxy

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
)

// An origin is a parsed origin, or a pattern of WithOrigins.
type origin struct {
	scheme string // in a pattern "" means http or https
	host   string // lower case; in a pattern a leading "*." means one or more labels
	port   string // in a pattern "*" means any port
	opaque bool   // the origin is "null"
}

var errNoOrigin = errors.New(`no origin, want at least one, such as "https://example.com"`)

// parseOrigin parses a pattern. An Origin header is a pattern without wildcards.
func parseOrigin(s string) (origin, error) {
	switch s {
	case "":
		return origin{}, errNoOrigin
	case "null":
		return origin{opaque: true}, nil
	}
	malformed := fmt.Errorf("%s is not an origin, want [scheme://]host[:port]", quote(s))
	scheme, host, found := strings.Cut(strings.ToLower(s), "://")
	if !found {
		scheme, host = "", scheme
	} else if !isToken(scheme) {
		return origin{}, malformed
	}
	port := ""
	if rest, any := strings.CutSuffix(host, ":*"); any {
		host, port = rest, "*"
	}
	name, wild := strings.CutPrefix(host, "*.")
	if !isHost(name) || wild && strings.HasPrefix(name, "[") || strings.Contains(scheme, "*") {
		return origin{}, malformed
	}
	if h, p, err := net.SplitHostPort(host); err == nil {
		if port != "" || p == "" {
			return origin{}, malformed
		}
		host, port = h, p
	}
	return origin{scheme: scheme, host: strings.Trim(host, "[]"), port: port}, nil
}

// matches reports whether the pattern p matches the origin o of a request.
func (p origin) matches(o origin) bool {
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

// checkOrigin refuses a request whose Origin matches no pattern, or that has
// several Origin lines. Browsers do not send several, and the upstream could
// read another one than the proxy.
func checkOrigin(r *http.Request, allowed []origin) error {
	lines := r.Header["Origin"]
	if len(allowed) == 0 || len(lines) == 0 {
		return nil
	}
	if len(lines) == 1 && !strings.Contains(lines[0], "*") {
		if o, err := parseOrigin(lines[0]); err == nil && (o.opaque || o.scheme != "") {
			for _, pattern := range allowed {
				if pattern.matches(o) {
					return nil
				}
			}
			if own, err := parseOrigin(o.scheme + "://" + r.Host); err == nil && own.matches(o) {
				return forbiddenOrigin("%s is the proxy's own origin, which WithOrigins does not imply; list it too", quote(lines[0]))
			}
		}
	}
	return forbiddenOrigin("%s", quote(strings.Join(lines, ", ")))
}

func forbiddenOrigin(format string, args ...any) *refusal {
	return &refusal{kind: ErrForbiddenOrigin, status: http.StatusForbidden, cause: fmt.Errorf(format, args...)}
}
