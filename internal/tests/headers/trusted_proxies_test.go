package headers_test

import (
	"net/http"
	"testing"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
)

func TestForwardingFieldsAreKeptOnlyFromTrustedProxies(t *testing.T) {
	claims := []string{"X-Real-IP: 203.0.113.1", "X-Forwarded-For: 203.0.113.2", "X-Forwarded-For: 203.0.113.3, 192.0.2.8",
		"X-Forwarded-Proto: https", "X-Forwarded-Host: public.example", "X-Forwarded-Port: 443", "Forwarded: for=203.0.113.4"}
	trust := wsproxy.WithTrustedProxies("192.0.2.0/24")
	for _, test := range []policyTest{
		{name: "from a trusted one they are kept and extended", opts: []wsproxy.Option{trust}, in: claims,
			want: forwardedFields(http.Header{"X-Real-Ip": {"203.0.113.3"},
				"X-Forwarded-For":   {"203.0.113.2, 203.0.113.3, 192.0.2.8, 192.0.2.7"},
				"X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"public.example"}, "X-Forwarded-Port": {"443"},
				"Forwarded": {"for=203.0.113.4"}})},
		{name: "a trusted one without fields gets the default ones", opts: []wsproxy.Option{trust}, want: forwardedFields(nil)},
		{name: "an unreadable list from a trusted one leaves the peer's address", opts: []wsproxy.Option{trust},
			in: []string{"X-Forwarded-For: unknown"}, want: forwardedFields(http.Header{"X-Forwarded-For": {"unknown, 192.0.2.7"}})},
		{name: "from an untrusted one they are dropped", opts: []wsproxy.Option{trust}, peer: "198.51.100.7:1", in: claims,
			want: forwardedFields(http.Header{"X-Real-Ip": {"198.51.100.7"}, "X-Forwarded-For": {"198.51.100.7"}})},
		{name: "without prefixes no peer is trusted", opts: []wsproxy.Option{wsproxy.WithTrustedProxies()}, in: claims, want: forwardedFields(nil)},
		{name: "the last list wins", opts: []wsproxy.Option{trust, wsproxy.WithTrustedProxies("198.51.100.0/24")}, in: claims, want: forwardedFields(nil)},
		{name: "a single address", opts: []wsproxy.Option{wsproxy.WithTrustedProxies("192.0.2.7")}, in: []string{"X-Forwarded-For: 192.0.2.6"},
			want: forwardedFields(http.Header{"X-Real-Ip": {"192.0.2.6"}, "X-Forwarded-For": {"192.0.2.6, 192.0.2.7"}})},
		{name: "a 4-in-6 prefix is the IPv4 one", opts: []wsproxy.Option{wsproxy.WithTrustedProxies("::ffff:192.0.2.0/120")}, peer: "[::ffff:192.0.2.7]:1", in: []string{"X-Forwarded-For: 203.0.113.2"},
			want: forwardedFields(http.Header{"X-Real-Ip": {"203.0.113.2"}, "X-Forwarded-For": {"203.0.113.2, 192.0.2.7"}})},
		{name: "a prefix with bits beyond its mask", opts: []wsproxy.Option{wsproxy.WithTrustedProxies("192.0.2.99/24")}, in: []string{"X-Forwarded-For: 203.0.113.2"},
			want: forwardedFields(http.Header{"X-Real-Ip": {"203.0.113.2"}, "X-Forwarded-For": {"203.0.113.2, 192.0.2.7"}})},
		{name: "a link-local address with a zone", opts: []wsproxy.Option{wsproxy.WithTrustedProxies("fe80::1%eth0")}, peer: "[fe80::1%eth1]:1", in: []string{"X-Forwarded-For: 203.0.113.2"},
			want: forwardedFields(http.Header{"X-Real-Ip": {"203.0.113.2"}, "X-Forwarded-For": {"203.0.113.2, fe80::1"}})},
		{name: "Connection cannot shorten a trusted list", opts: []wsproxy.Option{trust}, in: []string{"Connection: X-Forwarded-For", "X-Forwarded-For: 203.0.113.2"},
			want: forwardedFields(http.Header{"X-Real-Ip": {"203.0.113.2"}, "X-Forwarded-For": {"203.0.113.2, 192.0.2.7"}})},
		{name: "aliases are dropped from a trusted one too", opts: []wsproxy.Option{trust},
			in: []string{"X_Forwarded_Port: 1", "X_Forwarded_For: 203.0.113.2", "X.Real.IP: 203.0.113.2"}, want: forwardedFields(nil)},
		{name: "unix: does not trust TCP peers", opts: []wsproxy.Option{wsproxy.WithTrustedProxies("unix:")}, in: claims, want: forwardedFields(nil)},
	} {
		test.run(t)
	}
}

func TestPeersOnAUnixSocketCanBeTrusted(t *testing.T) {
	in := overUnixSocket(inbound(t, "@", "chat.example", "X-Forwarded-For: 203.0.113.2, 10.0.0.1"))
	assert.Equal(t, http.Header{"X-Real-Ip": {"203.0.113.2"}, "X-Forwarded-For": {"203.0.113.2, 10.0.0.1, unknown"},
		"X-Forwarded-Proto": {"http"}, "X-Forwarded-Host": {"chat.example"}},
		outbound(t, in, wsproxy.WithTrustedProxies("unix:", "10.0.0.0/8")))
	assert.Equal(t, http.Header{"X-Forwarded-For": {"unknown"},
		"X-Forwarded-Proto": {"http"}, "X-Forwarded-Host": {"chat.example"}},
		outbound(t, in, wsproxy.WithTrustedProxies("10.0.0.0/8")), "not named, not trusted")
}

func TestForwardedFollowsRFC7239(t *testing.T) {
	trust := wsproxy.WithTrustedProxies("192.0.2.0/24")
	own := "for=192.0.2.7;host=chat.example;proto=http"
	with := func(forwarded string) http.Header { return forwardedFields(http.Header{"Forwarded": {forwarded}}) }
	for _, test := range []policyTest{
		{name: "one hop", want: with(own)},
		{name: "a host with a port is quoted", host: "chat.example:8080",
			want: forwardedFields(http.Header{"X-Forwarded-Host": {"chat.example:8080"}, "Forwarded": {`for=192.0.2.7;host="chat.example:8080";proto=http`}})},
		{name: "an IPv6 peer is quoted and in brackets", peer: "[2001:db8::7]:1",
			want: forwardedFields(http.Header{"X-Real-Ip": {"2001:db8::7"}, "X-Forwarded-For": {"2001:db8::7"},
				"Forwarded": {`for="[2001:db8::7]";host=chat.example;proto=http`}})},
		{name: "a peer without an address is unknown", peer: "@",
			want: http.Header{"X-Forwarded-For": {"unknown"}, "X-Forwarded-Proto": {"http"}, "X-Forwarded-Host": {"chat.example"},
				"Forwarded": {"for=unknown;host=chat.example;proto=http"}}},
		{name: "a host cannot inject a hop", host: `x",for=203.0.113.9;host="y`,
			want: forwardedFields(http.Header{"X-Forwarded-Host": {`x",for=203.0.113.9;host="y`},
				"Forwarded": {`for=192.0.2.7;host="x\",for=203.0.113.9;host=\"y";proto=http`}})},
		{name: "a client's list is extended as the recipe extends X-Forwarded-For", in: []string{"Forwarded: for=203.0.113.9", "Forwarded:", "forwarded: for=unknown"},
			want: with("for=203.0.113.9, for=unknown, " + own)},
		{name: "a trusted list is extended", opts: []wsproxy.Option{trust}, in: []string{`Forwarded: for="[2001:db8::9]:1";by=_x, for=203.0.113.9`},
			want: with(`for="[2001:db8::9]:1";by=_x, for=203.0.113.9, ` + own)},
		{name: "an untrusted list is dropped", opts: []wsproxy.Option{wsproxy.WithTrustedProxies("198.51.100.1")}, in: []string{"Forwarded: for=203.0.113.9"}, want: with(own)},
		{name: "a list whose quotes do not close cannot swallow the proxy's hop", opts: []wsproxy.Option{trust}, in: []string{`Forwarded: for=203.0.113.9;x="`}, want: with(own)},
		{name: "a list that escapes its last quote cannot either", opts: []wsproxy.Option{trust}, in: []string{`Forwarded: for="203.0.113.9\"`}, want: with(own)},
		{name: "Connection cannot strip it", in: []string{"Connection: Forwarded", "Forwarded: for=203.0.113.9"}, want: with("for=203.0.113.9, " + own)},
	} {
		test.opts = append(test.opts, wsproxy.WithForwarded())
		test.run(t)
	}
}

// A trusted proxy may add to a list, as HAProxy's add-header and RFC 7230's
// rule for lists do. Then the last line or element is the proxy's, and the
// first is its client's.
func TestTheLastForwardedProtoAndHostOfATrustedProxyAreUsed(t *testing.T) {
	trusted := []wsproxy.Option{wsproxy.WithTrustedProxies("192.0.2.0/24")}
	for name, c := range map[string]struct{ in, protoAndHost []string }{
		"two lines": {[]string{"X-Forwarded-Proto: http", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil.example", "X-Forwarded-Host: public.example"},
			[]string{"https", "public.example"}},
		"two elements": {[]string{"X-Forwarded-Proto: http,https", "X-Forwarded-Host: evil.example ,\tpublic.example "}, []string{"https", "public.example"}},
		"lines of elements": {[]string{"X-Forwarded-Proto: https", "X-Forwarded-Proto: https, http", "X-Forwarded-Host: a, b", "X-Forwarded-Host: c"},
			[]string{"http", "c"}},
		"a last element that is empty": {[]string{"X-Forwarded-Proto: https,", "X-Forwarded-Host: evil.example", "X-Forwarded-Host:"}, []string{"http", "chat.example"}},
	} {
		(&policyTest{name: name, opts: trusted, in: c.in, want: forwardedFields(http.Header{
			"X-Forwarded-For": {"192.0.2.7"}, "X-Forwarded-Proto": {c.protoAndHost[0]}, "X-Forwarded-Host": {c.protoAndHost[1]}})}).run(t)
	}
}
