package syntax

import (
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// dotPaths says for each path, as a client sends it, whether a server could
// read a "." or ".." segment in it.
var dotPaths = map[string]bool{
	"/":                      false,
	"/a/b":                   false,
	"//a///b":                false,
	"/...":                   false,
	"/.well-known/x":         false,
	"/..a/a../.a/a./a..b":    false,
	"/%2ea/a%2E/%2e%2e%2e":   false,
	"/a%2fb%5Cc":             false,
	`/a\b`:                   false,
	"/a;b/;..":               false,
	"/;../a":                 false,
	"/%252e%252e/a":          false, // a path is decoded once
	"/%25252e":               false,
	"/a%252f..b":             false,
	"/%c0%ae%c0%ae/a":        false, // not UTF-8
	"/%ef%bc%8e%ef%bc%8e/a":  false, // full-width
	"/. /a":                  false,
	"/%2e%20/a":              false,
	"/.":                     true,
	"/..":                    true,
	"/./":                    true,
	"/../":                   true,
	"/a/..":                  true,
	"/a/./b":                 true,
	"/a/../b":                true,
	"//..//":                 true,
	"/%2e":                   true,
	"/%2E%2e/a":              true,
	"/.%2e/a":                true,
	"/%2e./a":                true,
	"/a/..%2fadmin":          true,
	"/a%2f..%2fadmin":        true,
	"/a%2F%2e%2e%2Fadmin":    true,
	`/a/..\admin`:            true,
	"/a%5c..%5cadmin":        true,
	"/a%5C..":                true,
	"/..;/admin":             true,
	"/..;a=b/admin":          true,
	"/..%3b/admin":           true,
	"/%2e%2e%3Ba%2fadmin":    true,
	"/.;x":                   true,
	"/;/../a":                true,
	"/a;b/..":                true,
	"/a%5c%2e%2e;x=%5cadmin": true,
}

func TestHasDotSegment(t *testing.T) {
	for sent, want := range dotPaths {
		u, err := url.ParseRequestURI(strings.ReplaceAll(sent, " ", "%20"))
		require.NoError(t, err, "%s", sent)
		assert.Equal(t, want, HasDotSegment(u.Path), "%s", sent)
	}
}

// dotSegment matches what HasDotSegment looks for.
var dotSegment = regexp.MustCompile(`(^|[/\\])\.\.?(;[^/\\]*)?([/\\]|$)`)

func FuzzHasDotSegment(f *testing.F) {
	for sent := range dotPaths {
		f.Add(strings.ReplaceAll(sent, " ", "%20"))
	}
	f.Fuzz(func(t *testing.T, sent string) {
		if u, err := url.ParseRequestURI(sent); err == nil {
			require.Equal(t, dotSegment.MatchString(u.Path), HasDotSegment(u.Path), "%q", u.Path)
		}
	})
}

func TestQuotedStringKeepsTokensAndQuotesOtherText(t *testing.T) {
	for s, want := range map[string]string{
		"":                  `""`,
		"example.com":       `example.com`,
		"192.0.2.1":         `192.0.2.1`,
		"example.com:8080":  `"example.com:8080"`,
		"[2001:db8::1]:80":  `"[2001:db8::1]:80"`,
		`a"b`:               `"a\"b"`,
		`a\b`:               `"a\\b"`,
		`\"`:                `"\\\""`,
		"a b":               `"a b"`,
		"a;for=192.0.2.1":   `"a;for=192.0.2.1"`,
		"a, for=192.0.2.1":  `"a, for=192.0.2.1"`,
		"ex\xc3\xa4mple.de": "\"ex\xc3\xa4mple.de\"",
	} {
		assert.Equal(t, want, QuotedString(s), "for %q", s)
	}
}

func TestBalancedReportsWhetherEveryQuoteIsClosed(t *testing.T) {
	for s, want := range map[string]bool{
		``:                        true,
		`for=192.0.2.1`:           true,
		`for="[2001:db8::1]"`:     true,
		`a="b", c="d"`:            true,
		`a="b\"c"`:                true,
		`a="b\\"`:                 true,
		`a="\"`:                   false,
		`a="b`:                    false,
		`"`:                       false,
		`a="b", c="d`:             false,
		`a="b\\\"`:                false,
		`a="b\`:                   false,
		`a=\"b`:                   false, // a backslash escapes only within quotes
		`for=a", for="b`:          true,
		`"` + "\xff" + `"`:        true,
		`for="x\"";host="y";by=z`: true,
	} {
		assert.Equal(t, want, Balanced(s), "for %s", s)
	}
}

func TestAHostIsANameOrAnAddressWithAnOptionalPort(t *testing.T) {
	for _, host := range []string{
		"localhost", "localhost:80", "example.com", "example.com.", "EXAMPLE.com:65535", "a-b_c.example:1", "xn--bcher-kva.example", "-",
		"192.0.2.1", "192.0.2.1:8080", "[::1]", "[::1]:80", "[2001:db8::1]:443", "[fe80::1%eth0]", "[fe80::1%eth0]:80", "[::ffff:192.0.2.1]:80", "1",
	} {
		assert.True(t, IsHost(host), "%q", host)
	}
	for _, s := range []string{
		"", " ", ":", ":80", "a:", "a:0", "a:65536", "a:00000080", "a:http", "a:80:80", "a:-1", "a:+1", "a: 80", "a:８",
		"::1", "::1:80", "[::1", "::1]", "[::1]80", "[::1]:", "[::1]:0", "[::1]:80:80", "[]", "[]:80", "[a]", "[a]:80", "[192.0.2.1]", "[192.0.2.1]:80", "[[::1]]", "[::1]]",
		"a b", "a\tb", "a/b", "a?b", "a#b", "a@b", "a\\b", "a*b", "*", "a\"b", "a<b", "a>b", "a^b", "a`b", "a{b", "a|b", "a}b", "a[b", "a]b", "a%b", "a%41",
		"a\r\nX: y", "a\nb", "a\x00b", "a\x7fb", "a\r\nX: y:80",
	} {
		assert.False(t, IsHost(s), "%q", s)
	}
	for _, s := range []string{"a:", "[::1]:", "a", "a:80", "[::1]:80"} {
		assert.True(t, IsHostField(s), "%q", s)
	}
	for _, s := range []string{"", ":", "::", "a::", "a:80:", "[::1]:80:", "[::1]::", "::1:", "a b:"} {
		assert.False(t, IsHostField(s), "%q", s)
	}
	// netip accepts any text as a zone. A Host may not contain it.
	for _, s := range []string{
		"[::1%\r\nX: y]", "[::1%\r\nX: y]:80", "[::1%\n]", "[::1%\x00]", "[fe80::1% x]", "[fe80::1%a b]:80", "[fe80::1%a/b]", "[fe80::1%a@b]", "[fe80::1%a\x7f]", "[fe80::1%\xb0]",
	} {
		assert.False(t, IsHost(s), "%q", s)
	}
}
