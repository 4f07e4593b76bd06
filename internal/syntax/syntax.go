// Package syntax has the pure functions about the text of HTTP: tokens, lists,
// hosts, paths, and the quoting of what a peer sent in errors and logs.
package syntax

import (
	"net"
	"net/netip"
	"net/textproto"
	"strings"
)

// Tokens yields the elements of a comma-separated list, over all its lines.
func Tokens(lines []string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, line := range lines {
			for token := range strings.SplitSeq(line, ",") {
				if token = textproto.TrimString(token); token != "" && !yield(token) {
					return
				}
			}
		}
	}
}

// EqualFold compares ASCII strings case-insensitively, as RFC 6455 requires.
// strings.EqualFold also equates U+017F with s and U+212A with k. These take
// more bytes, so the lengths differ.
func EqualFold(a, b string) bool { return len(a) == len(b) && strings.EqualFold(a, b) }

// HasToken reports whether a comma-separated list contains want.
func HasToken(lines []string, want string) bool {
	for token := range Tokens(lines) {
		if EqualFold(token, want) {
			return true
		}
	}
	return false
}

// IsToken reports whether s is a token (RFC 9110, section 5.6.2).
func IsToken(s string) bool {
	for _, c := range []byte(s) {
		if !tokenBytes[c] {
			return false
		}
	}
	return s != ""
}

// tokenBytes is true for the bytes that a token may contain.
var tokenBytes = func() (in [256]bool) {
	for c := '!'; c <= '~'; c++ {
		in[c] = !strings.ContainsRune(`"(),/:;<=>?@[\]{}`, c)
	}
	return in
}()

// IsFieldValue reports whether s is a valid value of a header field (RFC 9110,
// section 5.5): it has no control characters except tabs.
func IsFieldValue(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// QuotedString returns s as a quoted string (RFC 9110, section 5.6.4). It
// returns a token unchanged.
func QuotedString(s string) string {
	if IsToken(s) {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// Balanced reports whether every quoted string in s is closed.
func Balanced(s string) bool {
	open := false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			open = !open
		case s[i] == '\\' && open:
			i++
		}
	}
	return !open
}

// IsHost reports whether s is a host with an optional port, as in a Host
// header (RFC 3986, section 3.2.2): a name, an IPv4 address, or an IPv6
// address in brackets.
func IsHost(s string) bool {
	host := s
	if h, port, err := net.SplitHostPort(s); err == nil {
		if !isPort(port) || strings.HasPrefix(s, "[") != strings.Contains(h, ":") {
			return false
		}
		host = h
	} else if inner, ok := strings.CutPrefix(s, "["); ok {
		host = strings.TrimSuffix(inner, "]")
		if len(host) != len(inner)-1 || !strings.Contains(host, ":") {
			return false
		}
	}
	if strings.Contains(host, ":") {
		addr, err := netip.ParseAddr(host)
		return err == nil && host != s && (addr.Zone() == "" || IsToken(addr.Zone()))
	}
	for _, c := range []byte(host) {
		alphanumeric := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !alphanumeric && strings.IndexByte("-._~!$&'()+,;=", c) < 0 { // no % and no *
			return false
		}
	}
	return host != ""
}

// IsHostField reports whether s can be sent as Host, which may have an empty
// port.
func IsHostField(s string) bool {
	if host, ok := strings.CutSuffix(s, ":"); ok {
		s = host + ":1"
	}
	return IsHost(s)
}

// HasHostBytes reports whether net/http sends s unchanged as Host. It sends
// other values as an empty Host or in Punycode, which may fail.
func HasHostBytes(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool {
		return c <= ' ' || c >= 0x7f || strings.ContainsRune("\"#/<>?@\\^`{|}", c)
	})
}

// isPort reports whether s is a port number from 1 to 65535.
func isPort(s string) bool {
	if s == "" || len(s) > 5 || strings.Trim(s, "0123456789") != "" {
		return false
	}
	n := 0
	for _, digit := range []byte(s) {
		n = n*10 + int(digit-'0')
	}
	return 0 < n && n <= 65535
}

// HasDotSegment reports whether path, which has been decoded once, has a segment
// "." or "..". Some servers end a segment at a backslash, and some ignore
// everything after a semicolon.
func HasDotSegment(path string) bool {
	for segment := range strings.FieldsFuncSeq(path, func(c rune) bool { return c == '/' || c == '\\' }) {
		if name, _, _ := strings.Cut(segment, ";"); name == "." || name == ".." {
			return true
		}
	}
	return false
}
