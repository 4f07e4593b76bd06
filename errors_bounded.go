package wsproxy

import (
	"log/slog"
	"strconv"
	"strings"
)

const (
	quotedMost = 64  // bytes of a value in a message
	textMost   = 256 // bytes of a message
)

// quote is %q for values of a client's or an upstream's choosing. A long one is
// cut, so that it cannot flood a response or a log.
func quote(s string) string {
	if len(s) > quotedMost {
		return strconv.Quote(s[:quotedMost]) + "…"
	}
	return strconv.Quote(s)
}

// bounded returns err, or an error that wraps err with a shorter text if err
// may quote more of what an upstream sent than quote would: the errors of
// net/http have the whole of a malformed line.
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

// rawMarkers come before what crypto/x509, and net/http of some Go 1.25, do not
// quote.
var rawMarkers = []string{"malformed MIME header line: ", "malformed MIME header initial line: ", "certificate is valid for "}

// boundedText cuts what text quotes to what quote would leave of it, and the
// rest to textMost bytes or a little more.
func boundedText(text string) string {
	if len(text) <= quotedMost {
		return text
	}
	for _, marker := range rawMarkers {
		before, raw, found := strings.Cut(text, marker)
		if found && raw != "" && raw[0] != '"' && len(raw) > quotedMost {
			text = before + marker + raw[:quotedMost] + "…"
		}
	}
	var b strings.Builder
	for text != "" && b.Len() <= textMost {
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
		end = min(end, textMost+1-b.Len())
		b.WriteString(text[:end])
		text = text[end:]
	}
	if text != "" {
		b.WriteString("…")
	}
	return b.String()
}

// A boundedLog is the logger of httputil and writes at debug level.
type boundedLog struct{ logger *slog.Logger }

func (l boundedLog) Write(line []byte) (int, error) {
	l.logger.Debug(boundedText(strings.TrimSuffix(string(line), "\n")))
	return len(line), nil
}
