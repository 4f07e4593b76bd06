package origin

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestOriginPatternsAreParsed(t *testing.T) {
	for pattern, want := range map[string]Pattern{
		"null":                      {opaque: true},
		"example.com":               {host: "example.com"},
		"EXAMPLE.com":               {host: "example.com"},
		"example.com:8080":          {host: "example.com", port: "8080"},
		"example.com:*":             {host: "example.com", port: "*"},
		"https://example.com":       {scheme: "https", host: "example.com"},
		"HTTPS://Example.COM:443":   {scheme: "https", host: "example.com", port: "443"},
		"http://localhost:*":        {scheme: "http", host: "localhost", port: "*"},
		"*.example.com":             {host: "*.example.com"},
		"https://*.example.com:*":   {scheme: "https", host: "*.example.com", port: "*"},
		"*.example.com:8443":        {host: "*.example.com", port: "8443"},
		"192.0.2.1:80":              {host: "192.0.2.1", port: "80"},
		"[2001:db8::1]":             {host: "2001:db8::1"},
		"http://[2001:DB8::1]:8080": {scheme: "http", host: "2001:db8::1", port: "8080"},
		"http://[::1]:*":            {scheme: "http", host: "::1", port: "*"},
		"chrome-extension://abcdef": {scheme: "chrome-extension", host: "abcdef"},
	} {
		got, err := Parse(pattern)
		if assert.NoError(t, err, "pattern %q", pattern) {
			assert.Equal(t, want, got, "pattern %q", pattern)
		}
	}
}

func TestMalformedOriginPatternsAreRefused(t *testing.T) {
	for _, pattern := range []string{
		"", "*", "*.", "*.*", "*.*.example.com", "a.*.example.com", "*example.com", "exam*ple.com", "example.*", "*:80", ":*", "*:*",
		"https://", "https://*", "://example.com", "ht tp://example.com", "*://example.com", "https//example.com", "https:example.com",
		"https://example.com/", "https://example.com/path", "https://example.com?x", "https://example.com#x", "https://example.com ",
		" https://example.com", "https://user@example.com", "https://good.com@evil.com", "https://a.com,https://b.com", "https://a.com https://b.com",
		"example.com:", "example.com:0", "example.com:65536", "example.com:http", "example.com:80:80", "example.com:80:*", "example.com:**", "example.com:-1",
		"2001:db8::1", "[2001:db8::1", "2001:db8::1]", "[example.com]", "[192.0.2.1]", "[]", "[2001:db8::1]x", "[2001:db8::1]:", "[[::1]]",
		"*.[2001:db8::1]", "*.[2001:db8::1]:80", "https://*.[2001:db8::1]:*",
		"exam\nple.com", "exam\x00ple.com", "[::1%\r\n]", `example.com\`, `exam"ple.com`, "%zz.com", "https://https://example.com",
	} {
		got, err := Parse(pattern)
		assert.Error(t, err, "pattern %q was read as %+v", pattern, got)
	}
	_, err := Parse("https://example.com/")
	require.EqualError(t, err, `"https://example.com/" is not an origin, want [scheme://]host[:port]`)
}

func TestOriginsAreAllowedByPattern(t *testing.T) {
	for _, test := range []struct {
		pattern string
		allowed []string
		refused []string
	}{
		{"https://example.com",
			[]string{"https://example.com", "https://EXAMPLE.com", "HTTPS://example.com", "https://example.com:443"},
			[]string{"http://example.com", "https://example.com:8443", "https://example.com:80", "https://www.example.com", "https://example.com.evil.com",
				"https://evilexample.com", "https://example.co", "https://example.comx", "https://example.com.", "https://example.com:0443",
				"wss://example.com", "ws://example.com", "example.com", "//example.com", "null"}},
		{"example.com",
			[]string{"https://example.com", "http://example.com", "http://example.com:80", "https://example.com:443"},
			[]string{"http://example.com:443", "https://example.com:80", "http://example.com:8080", "ftp://example.com", "chrome-extension://example.com", "example.com", "null"}},
		{"example.com:8080",
			[]string{"http://example.com:8080", "https://example.com:8080"},
			[]string{"http://example.com", "https://example.com", "http://example.com:80"}},
		{"example.com:443",
			[]string{"https://example.com", "https://example.com:443", "http://example.com:443"},
			[]string{"http://example.com"}},
		{"http://localhost:*",
			[]string{"http://localhost", "http://localhost:1", "http://localhost:65535"},
			[]string{"https://localhost", "http://localhost:0", "http://localhost:65536", "http://localhost:*", "http://localhost:", "http://localhost.evil.com:80", "http://127.0.0.1"}},
		{"*.example.com",
			[]string{"https://www.example.com", "http://a.b.example.com", "https://A.Example.Com"},
			[]string{"https://example.com", "https://evilexample.com", "https://.example.com", "https://www.example.com.evil.com", "https://www.example.com.",
				"https://www.example.com:8443", "https://*.example.com", "https://www.example.com@evil.com", "https://evil.com/.example.com",
				"https://evil.com?.example.com", "https://evil.com#.example.com", `https://evil.com\.example.com`, "https://evil.com%00.example.com",
				"https://evil.com:80.example.com", "https://evil.com .example.com", "https://evil.com, www.example.com", "null"}},
		{"https://*.example.com:*",
			[]string{"https://www.example.com", "https://www.example.com:8443"},
			[]string{"http://www.example.com", "https://example.com:8443"}},
		{"https://good.com",
			[]string{"https://good.com"},
			[]string{"https://good.com@evil.com", "https://good.com:443@evil.com", "https://evil.com@good.com", "https://good.com:@evil.com", "https://good.com/", "https://good.com/x",
				"https://good.com?", "https://good.com#", " https://good.com/ ", "https://good.com, https://evil.com", "https://good.com https://evil.com",
				"https://https://good.com", "https:good.com", "https:/good.com", "https:///good.com", "", " ", "*", "https://*"}},
		{"http://[2001:db8::1]:8080",
			[]string{"http://[2001:db8::1]:8080", "http://[2001:DB8::1]:8080"},
			[]string{"http://[2001:db8::1]", "http://2001:db8::1:8080", "http://[2001:db8::2]:8080", "http://[2001:db8::1"}},
		{"192.0.2.1", []string{"http://192.0.2.1"}, []string{"http://192.0.2.1.evil.com", "http://0xc0000201", "http://192.0.2.10"}},
		{"example.com.", []string{"http://example.com."}, []string{"http://example.com"}},
		{"chrome-extension://abcdef", []string{"chrome-extension://abcdef"}, []string{"https://abcdef", "chrome-extension://abcdefg", "moz-extension://abcdef"}},
		{"null", []string{"null"}, []string{"NULL", "https://null", "http://null", "nul", "null, null", ""}},
	} {
		pattern, err := Parse(test.pattern)
		require.NoError(t, err)
		for _, header := range test.allowed {
			assert.NoError(t, Check(from(header), []Pattern{pattern}), "pattern %q, Origin: %s", test.pattern, header)
		}
		for _, header := range test.refused {
			assert.Error(t, Check(from(header), []Pattern{pattern}), "pattern %q, Origin: %s", test.pattern, header)
		}
	}
}

// from returns a request with these Origin lines.
func from(origins ...string) *http.Request {
	return &http.Request{Header: http.Header{"Origin": origins}}
}

func TestTwoOriginLinesAreRefusedAndAMissingOriginIsAllowed(t *testing.T) {
	good, err := Parse("https://good.com")
	require.NoError(t, err)
	other, err := Parse("*.other.com")
	require.NoError(t, err)
	allowed := []Pattern{good, other}

	assert.NoError(t, Check(from("https://evil.com"), nil), "no pattern, no check")
	assert.NoError(t, Check(from("https://good.com", "https://evil.com"), nil), "no pattern, no check")
	assert.NoError(t, Check(&http.Request{Header: http.Header{}}, allowed), "no browser sends no Origin")
	assert.NoError(t, Check(from("https://good.com"), allowed), "the first pattern")
	assert.NoError(t, Check(from("https://a.other.com"), allowed), "the second pattern")
	for _, lines := range [][]string{
		{"https://good.com", "https://good.com"},
		{"https://good.com", "https://evil.com"},
		{"https://evil.com", "https://good.com"},
		{"https://good.com", ""},
		{"", "https://good.com"},
	} {
		assert.Error(t, Check(from(lines...), allowed), "two lines are no browser's: %q", lines)
	}
	assert.EqualError(t, Check(from("https://evil.com"), allowed), `"https://evil.com"`)
}

// A common surprise with WithOrigins: pages of the proxy's host are refused
// unless they are listed, too. Before, the error named only the origin.
func TestTheErrorForTheProxysOwnOriginSaysToListIt(t *testing.T) {
	allowed, err := Parse("https://other.example")
	require.NoError(t, err)
	for _, test := range []struct {
		origin, host string
		own          bool
	}{
		{"http://localhost:8080", "localhost:8080", true},
		{"https://app.example", "app.example", true},
		{"https://app.example", "app.example:443", true},
		{"https://APP.example:443", "app.example", true},
		{"http://[::1]:8080", "[::1]:8080", true},
		{"https://evil.example", "app.example", false},
		{"http://localhost:3000", "localhost:8080", false},
		{"http://app.example", "app.example:443", false},
		{"null", "app.example", false},
		{"https://app.example", "", false},
	} {
		r := &http.Request{Host: test.host, Header: http.Header{"Origin": {test.origin}}}
		err := Check(r, []Pattern{allowed})
		want := strconv.Quote(test.origin)
		if test.own {
			want += " is the proxy's own origin, which WithOrigins does not imply; list it too"
		}
		assert.EqualError(t, err, want, "Origin: %s, Host: %s", test.origin, test.host)
	}
}

// An Origin is allowed only if its host, as package url parses it, equals the
// pattern's, or lies below it for a wildcard.
func FuzzParseOrigin(f *testing.F) {
	for _, pattern := range []string{"https://example.com", "*.example.com", "http://localhost:*", "null", "example.com:8080", "http://[::1]:80", "*", "*.[::1]", ""} {
		for _, header := range []string{"https://example.com", "https://a.example.com:443", "https://evilexample.com", "https://example.com@evil.com", "https://a.example.com.", "http://localhost:80", "null", "http://[::1]:80", "http://EXAMPLE.com:8080", "https://*.example.com"} {
			f.Add(pattern, header)
		}
	}
	f.Fuzz(func(t *testing.T, s, header string) {
		pattern, err := Parse(s)
		if err != nil {
			return
		}
		if !strings.Contains(s, "*") && strings.Contains(s, "://") {
			assert.NoError(t, Check(from(s), []Pattern{pattern}), "an origin allows itself: %q", s)
		}
		if Check(from(header), []Pattern{pattern}) != nil {
			return
		}
		if header == "null" {
			require.Equal(t, "null", s)
			return
		}
		u, err := url.Parse(header)
		require.NoError(t, err)
		require.Nil(t, u.User)
		require.Empty(t, u.Path+u.RawQuery+u.Fragment)
		host, wanted := strings.ToLower(u.Hostname()), strings.ToLower(s)
		if scheme, rest, ok := strings.Cut(wanted, "://"); ok {
			require.Equal(t, scheme, u.Scheme)
			wanted = rest
		}
		if domain, wild := strings.CutPrefix(wanted, "*."); wild {
			require.Greater(t, len(host), len(domain[:strings.IndexByte(domain+":", ':')])+1, "%q for %q", header, s)
			require.True(t, strings.HasSuffix(host, "."+domain[:strings.IndexByte(domain+":", ':')]), "%q for %q", header, s)
		} else {
			require.True(t, wanted == host || strings.HasPrefix(wanted, host+":") || strings.HasPrefix(wanted, "["+host+"]"), "%q for %q", header, s)
		}
		port := wanted[strings.LastIndexByte(wanted, ']')+1:]
		if i := strings.LastIndexByte(port, ':'); i >= 0 && port[i:] != ":*" && u.Port() != "" {
			require.Equal(t, port[i+1:], u.Port(), "%q for %q", header, s)
		}
	})
}
