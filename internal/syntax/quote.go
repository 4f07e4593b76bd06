package syntax

import (
	"strconv"
	"strings"
)

const (
	MaxQuoted = 64  // maximum bytes of a quoted value
	maxText   = 256 // maximum bytes of a message
)

// Quote quotes a value from a client or an upstream, as %q does. It truncates
// long values, so that they cannot flood a response or a log.
func Quote(s string) string {
	if len(s) > MaxQuoted {
		return strconv.Quote(s[:MaxQuoted]) + "…"
	}
	return strconv.Quote(s)
}

// Bounded truncates the values that the text of err quotes, as Quote does. It
// returns an error that wraps err, or err itself if nothing has to be
// truncated. Errors of net/http quote a malformed line in full.
func Bounded(err error) error {
	text := err.Error()
	if short := BoundedText(text); short != text {
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

// BoundedText truncates each value that text quotes to MaxQuoted bytes, and
// the text to about maxText bytes.
func BoundedText(text string) string {
	if len(text) <= MaxQuoted {
		return text
	}
	for _, marker := range rawMarkers {
		before, raw, found := strings.Cut(text, marker)
		if found && raw != "" && raw[0] != '"' && len(raw) > MaxQuoted {
			text = before + marker + raw[:MaxQuoted] + "…"
		}
	}
	var b strings.Builder
	for text != "" && b.Len() <= maxText {
		if quoted, err := strconv.QuotedPrefix(text); err == nil && text[0] == '"' {
			value, _ := strconv.Unquote(quoted)
			b.WriteString(Quote(value))
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
