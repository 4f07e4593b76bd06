package wsdebug

import (
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
)

// Text that a client chose cannot pass for something else: it has nothing invisible,
// and nothing that reverses the text around it.
func TestVisibleShowsInvisibleCharacters(t *testing.T) {
	for in, want := range map[string]string{
		"/chat":                      "/chat",
		"/grüße/日本/नमस्ते":           "/grüße/日本/नमस्ते",
		"":                           "",
		"a\x00b\x1b[31m\r\n":         `a\x00b\x1b[31m\r\n`,
		"\xff\xfe":                   `\xff\xfe`,
		"\uFFFD":                     "\uFFFD",
		"\u202egnp.exe":              `\u202egnp.exe`,
		"a\u200bb\u00a0\u2028\ufeff": `a\u200bb\u00a0\u2028\ufeff`,
		`a\b`:                        `a\\b`,
		"<b>&\"'":                    "<b>&\"'",
		"e\u0301\u0301\u0301":        "e\u0301\u0301" + `\u0301`,
		"\U000e0041":                 `\U000e0041`,
		strings.Repeat("ä", 20):      strings.Repeat("ä", 20),
		strings.Repeat("ä", 21):      strings.Repeat("ä", 20) + "…",
	} {
		assert.Equal(t, want, visible(in, 20), "%q", in)
	}
}

func FuzzVisible(f *testing.F) {
	for _, s := range []string{"/chat", "\x00\xff", "\u202e", "e\u0301\u0301\u0301", strings.Repeat("ä", 100), `\`} {
		f.Add(s, 20)
	}
	f.Fuzz(func(t *testing.T, s string, n int) {
		n &= 0xff
		got := visible(s, n)
		if !utf8.ValidString(got) {
			t.Errorf("%q is not UTF-8", got)
		}
		for _, r := range got {
			if !unicode.IsPrint(r) {
				t.Errorf("%q has %U", got, r)
			}
		}
		if most := 10*n + 1; utf8.RuneCountInString(got) > most {
			t.Errorf("%q has more than %d characters", got, most)
		}
	})
}

func TestNumbersHaveUnits(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", -1234: "-1,234", -123: "-123"} {
		assert.Equal(t, want, count(n))
	}
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.00 kB", 9999: "10.0 kB", 123456: "123 kB",
		999_499: "999 kB", 999_500: "1.00 MB", 1 << 62: "4612 PB"} {
		assert.Equal(t, want, strings.ReplaceAll(byteCount(n), "\u00a0", " "))
	}
	for v, want := range map[float64]string{0: "0/s", 0.001: "0.00/s", 1.5: "1.50/s", 12.34: "12.3/s", 250: "250/s", 12_000: "12,000/s"} {
		assert.Equal(t, want, strings.ReplaceAll(perSecond(v), "\u00a0", " "))
	}
	for d, want := range map[time.Duration]string{-time.Second: "0 s", 0: "0 s", 59*time.Second + 999*time.Millisecond: "59 s", time.Minute: "1 min",
		61 * time.Second: "1 min 1 s", time.Hour + time.Second: "1 h", 25 * time.Hour: "1 d 1 h", 1000 * 24 * time.Hour: "1000 d"} {
		assert.Equal(t, want, strings.ReplaceAll(span(d), "\u00a0", " "))
	}
}
