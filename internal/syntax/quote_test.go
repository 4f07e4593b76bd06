package syntax

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestBoundedTextShortensWhatAPeerSent(t *testing.T) {
	x := func(n int) string { return strings.Repeat("x", n) }
	for text, want := range map[string]string{
		"":                                    "",
		"short":                               "short",
		"unterminated":                        "unterminated",
		`malformed HTTP response "SSH-2.0-x"`: `malformed HTTP response "SSH-2.0-x"`,
		`malformed HTTP response "` + x(64) + `"`:                        `malformed HTTP response "` + x(64) + `"`,
		`malformed HTTP response "` + x(65) + `"`:                        `malformed HTTP response "` + x(64) + `"…`,
		`a "` + x(100) + `" b "` + x(100) + `" c`:                        `a "` + x(64) + `"… b "` + x(64) + `"… c`,
		`a "` + strings.Repeat(`\x00`, 100) + `"`:                        `a "` + strings.Repeat(`\x00`, 64) + `"…`,
		"connection broken: malformed MIME header line: X: " + x(1000):   "connection broken: malformed MIME header line: X: " + x(61) + "…",
		"malformed MIME header line: \"" + x(1000) + `"`:                 `malformed MIME header line: "` + x(64) + `"…`,
		`malformed MIME header line: a="` + x(1000) + `"`:                `malformed MIME header line: a="` + x(61) + "…",
		"x509: certificate is valid for " + x(100) + ", not a.example":   "x509: certificate is valid for " + x(64) + "…",
		"x509: certificate is valid for b.example, not a.example" + x(9): "x509: certificate is valid for b.example, not a.example" + x(9),
		x(1000): x(257) + "…",
	} {
		assert.Equal(t, want, BoundedText(text), "%.80s", text)
	}
}

// Whatever a peer sent, the error's text is bounded, and no quoted part of it
// exceeds the limit on quotes.
func FuzzBoundedText(f *testing.F) {
	for _, s := range []string{"", `"`, `\`, `"\"`, "\xff", "…", `malformed MIME header line: "`, strings.Repeat(`"a`, 300), strings.Repeat(`\"`, 300)} {
		f.Add("malformed HTTP response ", s)
	}
	f.Fuzz(func(t *testing.T, prefix, s string) {
		for _, text := range []string{prefix + s, fmt.Sprintf("%s%q", prefix, s), "malformed MIME header line: " + s} {
			short := BoundedText(text)
			if len(text) <= MaxQuoted {
				assert.Equal(t, text, short)
			}
			assert.LessOrEqual(t, len(short), maxText+4*MaxQuoted+10)
		}
	})
}

func TestABoundedErrorWrapsTheOriginal(t *testing.T) {
	whole := fmt.Errorf("malformed HTTP response %q: %w", strings.Repeat("x", 1<<20), io.ErrUnexpectedEOF)
	short := Bounded(whole)
	assert.Less(t, len(short.Error()), 200)
	assert.ErrorIs(t, short, io.ErrUnexpectedEOF)
	assert.ErrorIs(t, short, whole)
	plain := errors.New("plain")
	assert.Same(t, plain, Bounded(plain))
}
