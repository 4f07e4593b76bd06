package options_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestNewReportsEveryMistakeInAnOption(t *testing.T) {
	for _, test := range []struct {
		name string
		opts []wsproxy.Option
		want []string // one for each line of the error, without the prefix
	}{
		{"a negative connect timeout", []wsproxy.Option{wsproxy.WithConnectTimeout(-1)}, []string{`WithConnectTimeout: "-1ns" is negative, want a duration or 0 for none`}},
		{"a negative read timeout", []wsproxy.Option{wsproxy.WithReadTimeout(-time.Second)}, []string{`WithReadTimeout: "-1s" is negative, want a duration or 0 for none`}},
		{"a negative send timeout", []wsproxy.Option{wsproxy.WithSendTimeout(-time.Minute)}, []string{`WithSendTimeout: "-1m0s" is negative, want a duration or 0 for none`}},
		{"a negative body timeout", []wsproxy.Option{wsproxy.WithBodyTimeout(-1)}, []string{`WithBodyTimeout: "-1ns" is negative, want a duration or 0 for none`}},
		{"a negative close timeout", []wsproxy.Option{wsproxy.WithCloseTimeout(-1)}, []string{`WithCloseTimeout: "-1ns" is negative, want a duration or 0 for none`}},
		{"a negative lifetime", []wsproxy.Option{wsproxy.WithMaxLifetime(-1)}, []string{`WithMaxLifetime: "-1ns" is negative, want a duration or 0 for none`}},

		{"negative tries", []wsproxy.Option{wsproxy.WithMaxTries(-1)}, []string{`WithMaxTries: "-1" is negative, want a number or 0 for no limit`}},
		{"statuses that are no errors", []wsproxy.Option{wsproxy.WithRetryStatus(-1, 0, 101, 302, 399, 400, 599, 600)}, []string{
			`WithRetryStatus: "-1" is not an error status, want 400 to 599`, `WithRetryStatus: "0" is not an error status, want 400 to 599`,
			`WithRetryStatus: "101" is not an error status, want 400 to 599`, `WithRetryStatus: "302" is not an error status, want 400 to 599`,
			`WithRetryStatus: "399" is not an error status, want 400 to 599`, `WithRetryStatus: "600" is not an error status, want 400 to 599`}},

		{"no protocol", []wsproxy.Option{wsproxy.WithUpgrades()}, []string{`WithUpgrades: no protocol, want at least one, such as "websocket"`}},
		{"bad protocols", []wsproxy.Option{wsproxy.WithUpgrades("", "web socket", "spdy/", "/1", "a/1/2", "a,b", "websocket")}, []string{
			`WithUpgrades: "" is not a protocol name, want one such as "websocket"`, `WithUpgrades: "web socket" is not a protocol name, want one such as "websocket"`, `WithUpgrades: "spdy/" is not a protocol name, want one such as "websocket"`,
			`WithUpgrades: "/1" is not a protocol name, want one such as "websocket"`, `WithUpgrades: "a/1/2" is not a protocol name, want one such as "websocket"`, `WithUpgrades: "a,b" is not a protocol name, want one such as "websocket"`}},
		{"h2c", []wsproxy.Option{wsproxy.WithUpgrades("websocket", "h2c", "H2C", "h2C/1")}, []string{
			`WithUpgrades: drop "h2c", it lets clients bypass the proxy (h2c smuggling)`,
			`WithUpgrades: drop "H2C", it lets clients bypass the proxy (h2c smuggling)`,
			`WithUpgrades: drop "h2C/1", it lets clients bypass the proxy (h2c smuggling)`}},

		{"no origin", []wsproxy.Option{wsproxy.WithOrigins()}, []string{`WithOrigins: no origin, want at least one, such as "https://example.com"`}},
		{"an empty origin", []wsproxy.Option{wsproxy.WithOrigins("")}, []string{`WithOrigins: no origin, want at least one, such as "https://example.com"`}},
		{"bad origins", []wsproxy.Option{wsproxy.WithOrigins("*", "https://example.com/", "https://example.com")}, []string{
			`WithOrigins: "*" is not an origin, want [scheme://]host[:port]`, `WithOrigins: "https://example.com/" is not an origin, want [scheme://]host[:port]`}},

		{"no host", []wsproxy.Option{wsproxy.WithHost("")}, []string{`WithHost: "", want a host with an optional port`}},
		{"a URL for a host", []wsproxy.Option{wsproxy.WithHost("http://app.example")}, []string{`WithHost: "http://app.example", want a host with an optional port`}},
		{"a line break in a host", []wsproxy.Option{wsproxy.WithHost("a\r\nb: c")}, []string{`WithHost: "a\r\nb: c", want a host with an optional port`}},
		{"a line break in a zone", []wsproxy.Option{wsproxy.WithHost("[::1%\r\nb: c]")}, []string{`WithHost: "[::1%\r\nb: c]", want a host with an optional port`}},

		{"bad field names", []wsproxy.Option{wsproxy.WithHeader("", "x"), wsproxy.WithHeader("X A", "x"), wsproxy.WithHeader("X:", ""), wsproxy.WithHeader("X\n", "")}, []string{
			`WithHeader: "" is not a field name`, `WithHeader: "X A" is not a field name`, `WithHeader: "X:" is not a field name`, `WithHeader: "X\n" is not a field name`}},
		{"bad field values", []wsproxy.Option{wsproxy.WithHeader("X-A", "a\r\nb: c"), wsproxy.WithHeader("X-B", "a\x00"), wsproxy.WithHeader("X-C", "a\x7f")}, []string{
			`WithHeader: value "a\r\nb: c" of X-A, want no control characters`, `WithHeader: value "a\x00" of X-B, want no control characters`, `WithHeader: value "a\x7f" of X-C, want no control characters`}},
		{"Host as a field", []wsproxy.Option{wsproxy.WithHeader("host", "x")}, []string{`WithHeader: "host", want WithHost or WithTargetHost instead`}},

		{"bad proxies", []wsproxy.Option{wsproxy.WithTrustedProxies("", "10.0.0.0/33", "localhost", "unix", "10.0.0.1", "fe80::1%eth0/64", "unix:", "10.0.0.1:80")}, []string{
			`WithTrustedProxies: "", want an address, a CIDR prefix or "unix:"`, `WithTrustedProxies: "10.0.0.0/33", want an address, a CIDR prefix or "unix:"`,
			`WithTrustedProxies: "localhost", want an address, a CIDR prefix or "unix:"`, `WithTrustedProxies: "unix", want an address, a CIDR prefix or "unix:"`,
			`WithTrustedProxies: "fe80::1%eth0/64", want an address, a CIDR prefix or "unix:"`, `WithTrustedProxies: "10.0.0.1:80", want an address, a CIDR prefix or "unix:"`}},

		{"nil values", []wsproxy.Option{wsproxy.WithRewrite(nil), wsproxy.WithModifyResponse(nil), wsproxy.WithTLSConfig(nil), wsproxy.WithDialContext(nil),
			wsproxy.WithPlainHandler(nil), wsproxy.WithErrorHandler(nil), wsproxy.WithLogger(nil)}, []string{
			`WithRewrite: nil, want a value`, `WithModifyResponse: nil, want a value`, `WithTLSConfig: nil, want a value`, `WithDialContext: nil, want a value`,
			`WithPlainHandler: nil, want a value`, `WithErrorHandler: nil, want a value`, `WithLogger: nil, want a value`}},
		{"a nil value twice", []wsproxy.Option{wsproxy.WithLogger(nil), wsproxy.WithLogger(nil)}, []string{`WithLogger: nil, want a value`}},
		{"nil options", []wsproxy.Option{nil, wsproxy.WithKeepAlive(), nil}, []string{`option 1 is nil`, `option 3 is nil`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			p, err := wsproxy.New("http://localhost:3000", test.opts...)
			require.EqualError(t, err, "wsproxy: "+strings.Join(test.want, "\nwsproxy: "))
			require.Nil(t, p)
		})
	}
}

func TestNewRefusesFieldsThatTheProxyManages(t *testing.T) {
	for _, name := range []string{"Connection", "Upgrade", "HTTP2-Settings", "Keep-Alive", "Proxy-Connection", "Proxy-Authorization", "Proxy-Authenticate", "TE", "trailer",
		"Transfer-Encoding", "content-length", "Expect", "Sec-WebSocket-Key", "sec-websocket-version", "Sec-Websocket-Accept"} {
		for _, value := range []string{"x", ""} {
			_, err := wsproxy.New("http://localhost:3000", wsproxy.WithHeader(name, value))
			assert.EqualError(t, err, `wsproxy: WithHeader: drop "`+name+`", only the proxy sets it`)
		}
	}
}

func TestNewJoinsTheMistakesInTargetAndOptions(t *testing.T) {
	_, err := wsproxy.New("ftp://:1/#x", nil, wsproxy.WithHost("/"), wsproxy.WithReadTimeout(-1), wsproxy.WithLogger(nil))
	require.EqualError(t, err, `wsproxy: option 1 is nil
wsproxy: target "ftp://:1/#x" has scheme "ftp", want http, https, ws or wss
wsproxy: target "ftp://:1/#x" has host ":1", want a name or an address with an optional port
wsproxy: target "ftp://:1/#x" has fragment "x", drop "#x"
wsproxy: WithLogger: nil, want a value
wsproxy: WithReadTimeout: "-1ns" is negative, want a duration or 0 for none
wsproxy: WithHost: "/", want a host with an optional port`)
}

// Before, the proxy dialed the servers of the Upstream and ignored the socket
// of the target.
func TestNewRefusesAUnixTargetWithAnUpstream(t *testing.T) {
	u, err := wsproxy.NewUpstream(wsproxy.RoundRobin(), wsproxy.Server{Addr: "localhost:3000"})
	require.NoError(t, err)
	_, err = wsproxy.New("wss://unix:/run/app.sock:/base?token=secret", wsproxy.WithUpstream(u))
	require.EqualError(t, err, `wsproxy: target "https://unix:/run/app.sock" is not dialed with WithUpstream, `+
		`want target "https://localhost" and Server{Addr: "unix:/run/app.sock"}`)

	u, err = wsproxy.NewUpstream(wsproxy.RoundRobin(), wsproxy.Server{Addr: "unix:/run/app.sock"})
	require.NoError(t, err)
	_, err = wsproxy.New("wss://localhost/base", wsproxy.WithUpstream(u))
	require.NoError(t, err, "what the error says to write")
}

func TestALaterOptionReplacesAnEarlierMistake(t *testing.T) {
	_, err := wsproxy.New("http://localhost:3000",
		wsproxy.WithReadTimeout(-1), wsproxy.WithReadTimeout(0),
		wsproxy.WithRetryStatus(200), wsproxy.WithRetryStatus(),
		wsproxy.WithUpgrades(), wsproxy.WithUpgrades("websocket"),
		wsproxy.WithOrigins("*"), wsproxy.WithOrigins("null"),
		wsproxy.WithHost(""), wsproxy.WithTargetHost(),
		wsproxy.WithTrustedProxies("x"), wsproxy.WithTrustedProxies(),
		wsproxy.WithPlainHandler(nil), wsproxy.WithPlainHandler(http.NotFoundHandler()))
	require.NoError(t, err)
}

func TestNewCopiesTheCallersSlices(t *testing.T) {
	u := testkit.NewUpstream(t)
	origins, upgrades, proxies := []string{"https://good.example"}, []string{"websocket"}, []string{"10.0.0.1"}
	opts := []wsproxy.Option{wsproxy.WithOrigins(origins...), wsproxy.WithUpgrades(upgrades...), wsproxy.WithTrustedProxies(proxies...)}
	origins[0], upgrades[0], proxies[0] = "https://evil.example", "h2c", "127.0.0.1"
	_, addr := testkit.ServeProxy(t, u.URL, opts...)
	r := u.Received(t, addr, testkit.UpgradeGet("/", "Origin: https://good.example", "X-Forwarded-For: 203.0.113.9"))
	assert.Equal(t, []string{"websocket"}, r.Header["Upgrade"])
	assert.Equal(t, []string{"127.0.0.1"}, r.Header["X-Real-Ip"])
}
