package wsproxy

import (
	"log/slog"
	"net"
	"net/netip"
	"net/textproto"
	"strconv"
	"strings"
)

// tokens yields the elements of a comma-separated list, over all its lines.
func tokens(lines []string) func(yield func(string) bool) {
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

// equalFold compares ASCII strings case-insensitively, as RFC 6455 requires.
// strings.EqualFold also equates U+017F with s and U+212A with k. These take
// more bytes, so the lengths differ.
func equalFold(a, b string) bool { return len(a) == len(b) && strings.EqualFold(a, b) }

// hasToken reports whether a comma-separated list contains want.
func hasToken(lines []string, want string) bool {
	for token := range tokens(lines) {
		if equalFold(token, want) {
			return true
		}
	}
	return false
}

// isToken reports whether s is a token (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// isFieldValue reports whether s is a valid value of a header field (RFC 9110,
// section 5.5): it has no control characters except tabs.
func isFieldValue(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// quotedString returns s as a quoted string (RFC 9110, section 5.6.4). It
// returns a token unchanged.
func quotedString(s string) string {
	if isToken(s) {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// balanced reports whether every quoted string in s is closed.
func balanced(s string) bool {
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

// isHost reports whether s is a host with an optional port, as in a Host
// header (RFC 3986, section 3.2.2): a name, an IPv4 address, or an IPv6
// address in brackets.
func isHost(s string) bool {
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
		return err == nil && host != s && (addr.Zone() == "" || isToken(addr.Zone()))
	}
	for _, c := range []byte(host) {
		alphanumeric := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		if !alphanumeric && strings.IndexByte("-._~!$&'()+,;=", c) < 0 { // no % and no *
			return false
		}
	}
	return host != ""
}

// isHostField reports whether s can be sent as Host, which may have an empty
// port.
func isHostField(s string) bool {
	if host, ok := strings.CutSuffix(s, ":"); ok {
		s = host + ":1"
	}
	return isHost(s)
}

// hasHostBytes reports whether net/http sends s unchanged as Host. It sends
// other values as an empty Host or in Punycode, which may fail.
func hasHostBytes(s string) bool {
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

// hasDotSegment reports whether path, which has been decoded once, has a segment
// "." or "..". Some servers end a segment at a backslash, and some ignore
// everything after a semicolon.
func hasDotSegment(path string) bool {
	for segment := range strings.FieldsFuncSeq(path, func(c rune) bool { return c == '/' || c == '\\' }) {
		if name, _, _ := strings.Cut(segment, ";"); name == "." || name == ".." {
			return true
		}
	}
	return false
}

// quote quotes a value from a client or an upstream, as %q does. It truncates
// long values, so that they cannot flood a response or a log.
func quote(s string) string {
	if len(s) > maxQuoted {
		return strconv.Quote(s[:maxQuoted]) + "…"
	}
	return strconv.Quote(s)
}

// bounded truncates the values that the text of err quotes, as quote does. It
// returns an error that wraps err, or err itself if nothing has to be
// truncated. Errors of net/http quote a malformed line in full.
func bounded(err error) error {
	text := err.Error()
	if short := boundedText(text); short != text {
		return &shortened{err, short}
	}
	return err
}

type shortened struct {
	err  error
	text string
}

func (e *shortened) Error() string { return e.text }

func (e *shortened) Unwrap() error { return e.err }

// rawMarkers are followed by values that crypto/x509, and net/http of some Go
// 1.25 releases, do not quote.
var rawMarkers = []string{"malformed MIME header line: ", "malformed MIME header initial line: ", "certificate is valid for "}

// boundedText truncates each value that text quotes to maxQuoted bytes, and
// the text to about maxText bytes.
func boundedText(text string) string {
	if len(text) <= maxQuoted {
		return text
	}
	for _, marker := range rawMarkers {
		before, raw, found := strings.Cut(text, marker)
		if found && raw != "" && raw[0] != '"' && len(raw) > maxQuoted {
			text = before + marker + raw[:maxQuoted] + "…"
		}
	}
	var b strings.Builder
	for text != "" && b.Len() <= maxText {
		if quoted, err := strconv.QuotedPrefix(text); err == nil && text[0] == '"' {
			value, _ := strconv.Unquote(quoted)
			b.WriteString(quote(value))
			text = text[len(quoted):]
			continue
		}
		end := strings.IndexByte(text[1:], '"') + 1
		if end == 0 {
			end = len(text)
		}
		end = min(end, maxText+1-b.Len())
		b.WriteString(text[:end])
		text = text[end:]
	}
	if text != "" {
		b.WriteString("…")
	}
	return b.String()
}

// A boundedLog is the writer of httputil's logger. It logs at debug level.
type boundedLog struct{ logger *slog.Logger }

func (l boundedLog) Write(line []byte) (int, error) {
	l.logger.Debug(boundedText(strings.TrimSuffix(string(line), "\n")))
	return len(line), nil
}

const (
	maxQuoted = 64  // maximum bytes of a quoted value
	maxText   = 256 // maximum bytes of a message
)
