package wsproxy

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTargetsAreParsed(t *testing.T) {
	for _, test := range []struct{ target, network, addr, url string }{
		{"http://localhost:3000", "tcp", "localhost:3000", "http://localhost:3000"},
		{"http://localhost", "tcp", "localhost:80", "http://localhost"},
		{"https://localhost", "tcp", "localhost:443", "https://localhost"},
		{"ws://localhost", "tcp", "localhost:80", "http://localhost"},
		{"wss://localhost", "tcp", "localhost:443", "https://localhost"},
		{"WSS://LocalHost:8443", "tcp", "LocalHost:8443", "https://LocalHost:8443"},
		{"http://192.0.2.1:80/", "tcp", "192.0.2.1:80", "http://192.0.2.1:80/"},
		{"http://[::1]", "tcp", "[::1]:80", "http://[::1]"},
		{"https://[2001:db8::1]:8443/base", "tcp", "[2001:db8::1]:8443", "https://[2001:db8::1]:8443/base"},
		{"http://[fe80::1%25eth0]:80", "tcp", "[fe80::1%eth0]:80", "http://[fe80::1%25eth0]:80"},
		{"http://localhost/base/", "tcp", "localhost:80", "http://localhost/base/"},
		{"http://localhost/a%2Fb/%c3%a9", "tcp", "localhost:80", "http://localhost/a%2Fb/%c3%a9"},
		{"http://localhost/base?a=1;b=%zz&c", "tcp", "localhost:80", "http://localhost/base?a=1;b=%zz&c"},
		{"http://localhost?a=1", "tcp", "localhost:80", "http://localhost?a=1"},
		{"http://unix:/run/app.sock", "unix", "/run/app.sock", "http://localhost"},
		{"http://unix:/run/app.sock:", "unix", "/run/app.sock", "http://localhost"},
		{"ws://unix:/run/app.sock:/", "unix", "/run/app.sock", "http://localhost/"},
		{"HTTPS://unix:/run/app.sock:/base/a%2Fb?a=1", "unix", "/run/app.sock", "https://localhost/base/a%2Fb?a=1"},
		{"wss://unix:/run/my app@1%20.sock:/a:b", "unix", "/run/my app@1%20.sock", "https://localhost/a:b"},
		{"http://unix.example:80", "tcp", "unix.example:80", "http://unix.example:80"},
	} {
		got, err := parseTarget(test.target)
		if assert.NoError(t, err, "target %q", test.target) {
			assert.Equal(t, test.network, got.network, "target %q", test.target)
			assert.Equal(t, test.addr, got.addr, "target %q", test.target)
			assert.Equal(t, test.url, got.url.String(), "target %q", test.target)
		}
	}
}

func TestEveryMistakeInATargetIsReported(t *testing.T) {
	for target, want := range map[string]string{
		"":                       `wsproxy: target "" has no scheme, want one such as "http://localhost:3000"`,
		"localhost:3000":         `wsproxy: target "localhost:3000" has no scheme, want one such as "http://localhost:3000"`,
		"//localhost":            `wsproxy: target "//localhost" has no scheme, want one such as "http://localhost:3000"`,
		"http:localhost":         `wsproxy: target "http:localhost" has no scheme, want one such as "http://localhost:3000"`,
		"ftp://localhost":        `wsproxy: target "ftp://localhost" has scheme "ftp", want http, https, ws or wss`,
		"://localhost":           `wsproxy: target "://localhost": missing protocol scheme`,
		"http://":                `wsproxy: target "http://" has host "", want a name or an address with an optional port`,
		"http:///base":           `wsproxy: target "http:///base" has host "", want a name or an address with an optional port`,
		"http://:80":             `wsproxy: target "http://:80" has host ":80", want a name or an address with an optional port`,
		"http://localhost:":      `wsproxy: target "http://localhost:" has host "localhost:", want a name or an address with an optional port`,
		"http://localhost:0":     `wsproxy: target "http://localhost:0" has host "localhost:0", want a name or an address with an optional port`,
		"http://localhost:65536": `wsproxy: target "http://localhost:65536" has host "localhost:65536", want a name or an address with an optional port`,
		"http://*:80":            `wsproxy: target "http://*:80" has host "*:80", want a name or an address with an optional port`,
		"http://localhost:http":  `wsproxy: target "http://localhost:http": invalid port ":http" after host`,
		"http://local host":      `wsproxy: target "http://local host": invalid character " " in host name`,
		"http://localhost/%zz":   `wsproxy: target "http://localhost/%zz": invalid URL escape "%zz"`,
		"http://localhost/a\nb":  `wsproxy: target "http://localhost/a\nb": net/url: invalid control character in URL`,
		"http://[::1":            `wsproxy: target "http://[::1": missing ']' in host`,
		"http://u:p@localhost":   `wsproxy: target "http://…@localhost" has credentials, want them in WithHeader("Authorization", …)`,
		"http://@localhost":      `wsproxy: target "http://…@localhost" has credentials, want them in WithHeader("Authorization", …)`,
		"u:p@localhost":          `wsproxy: target "…@localhost" has no scheme, want one such as "http://localhost:3000"`,
		"http://localhost/#x":    `wsproxy: target "http://localhost/#x" has fragment "x", drop "#x"`,
		"ftp://u@:80/#x": `wsproxy: target "ftp://…@:80/#x" has scheme "ftp", want http, https, ws or wss
wsproxy: target "ftp://…@:80/#x" has host ":80", want a name or an address with an optional port
wsproxy: target "ftp://…@:80/#x" has credentials, want them in WithHeader("Authorization", …)
wsproxy: target "ftp://…@:80/#x" has fragment "x", drop "#x"`,
		"http://unix:":                 `wsproxy: target "http://unix:" has socket "", want an absolute path`,
		"http://unix:8080":             `wsproxy: target "http://unix:8080" has socket "8080", want an absolute path`,
		"http://unix:run/app.sock":     `wsproxy: target "http://unix:run/app.sock" has socket "run/app.sock", want an absolute path`,
		"http://unix:/run/a.sock:base": `wsproxy: target "http://unix:/run/a.sock:base" has base "base" after the socket, want a path`,
		"http://unix:/run/a.sock:?x":   `wsproxy: target "http://unix:/run/a.sock:?x" has base "?x" after the socket, want a path`,
		"http://unix:/a:/b#c":          `wsproxy: target "http://unix:/a:/b#c" has base "/b#c" after the socket, want a path`,
		"http://unix:/a://host/b":      `wsproxy: target "http://unix:/a://host/b" has base "//host/b" after the socket, want a path`,
		"http://unix:/a:/%zz":          `wsproxy: target "http://unix:/a:/%zz" has base "/%zz" after the socket, want a path`,
		"ftp://unix:a:b": `wsproxy: target "ftp://unix:a:b" has scheme "ftp", want http, https, ws or wss
wsproxy: target "ftp://unix:a:b" has socket "a", want an absolute path
wsproxy: target "ftp://unix:a:b" has base "b" after the socket, want a path`,
	} {
		_, err := parseTarget(target)
		assert.EqualError(t, err, want, "target %q", target)
	}
}

func TestATargetThatCannotBeSentInARequestLineIsRefused(t *testing.T) {
	for _, target := range []string{"http://localhost/?a b", "http://localhost? ", "http://unix:/run/a.sock:/?a b"} {
		_, err := parseTarget(target)
		assert.ErrorContains(t, err, "wsproxy: target "+strconv.Quote(target))
	}
}

func TestTLSConfigsAreClonedAndLimitedToHTTP1(t *testing.T) {
	given := &tls.Config{NextProtos: []string{"h2", "http/1.1"}}
	secure, err := parseTarget("wss://app.example:8443")
	require.NoError(t, err)
	secure.useTLS(given)
	assert.Equal(t, []string{"http/1.1"}, secure.tls.NextProtos, "an upgrade needs HTTP/1.1")
	assert.Equal(t, "app.example", secure.tls.ServerName, "the name verified is the target's")
	assert.Equal(t, []string{"h2", "http/1.1"}, given.NextProtos, "the caller's configuration is not changed")
	assert.Empty(t, given.ServerName, "the caller's configuration is not changed")

	secure.useTLS(&tls.Config{ServerName: "other.example"})
	assert.Equal(t, "other.example", secure.tls.ServerName, "unless the configuration says otherwise")

	plain, err := parseTarget("ws://app.example")
	require.NoError(t, err)
	plain.useTLS(given)
	assert.Nil(t, plain.tls, "no TLS toward an http target")
}

// An accepted target can be dialed and sent. A refused target is named in the
// error.
func FuzzParseTarget(f *testing.F) {
	for _, s := range []string{
		"", "http://localhost:3000", "https://localhost/base?x", "ws://[::1]:80/a%2Fb", "wss://192.0.2.1", "http://unix:/run/app.sock:/base?x", "http://unix:/a:", "https://unix:",
		"http://[fe80::1%25eth0]", "http://[::1%25%20x]:1", "http://u@h", "http://h#x", "http://h:0", "http://h:", "://", "ftp://h", "http://*", "http://h/%zz", "http://%zz", "http://h?%zz;", "HTTP://H:65536",
		"http://h? ", "http://unix:/a:/?a b", "http://[::%25\xb0]", "http://[::1%25%41]/",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := parseTarget(s)
		if err != nil {
			for line := range strings.SplitSeq(err.Error(), "\n") {
				require.True(t, strings.Contains(s, "@") || // credentials are left out
					strings.HasPrefix(line, "wsproxy: target "+strconv.Quote(s)), "%s", line)
			}
			return
		}
		require.Contains(t, []string{"http", "https"}, got.url.Scheme)
		require.Nil(t, got.url.User)
		if got.network == "unix" {
			require.True(t, strings.HasPrefix(got.addr, "/"))
			require.Equal(t, "localhost", got.url.Host)
		} else {
			require.Equal(t, "tcp", got.network)
			host, port, err := net.SplitHostPort(got.addr)
			require.NoError(t, err)
			require.NotEmpty(t, host)
			require.NotContains(t, host, " ")
			n, err := strconv.Atoi(port)
			require.NoError(t, err)
			require.True(t, 0 < n && n <= 65535, "port %s", port)
		}
		_, err = url.Parse(got.url.String())
		require.NoError(t, err)
		wire, err := appendRequest(nil, &http.Request{Method: "GET", Host: got.url.Host, URL: got.url, Header: http.Header{}})
		require.NoError(t, err, "a request for the target can be sent")
		_, err = http.ReadRequest(bufio.NewReader(bytes.NewReader(wire)))
		require.NoError(t, err, "%q", wire)
	})
}
