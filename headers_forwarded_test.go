package wsproxy

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// policyOf returns the header policy of a Proxy with opts.
func policyOf(t testing.TB, opts ...Option) *headerPolicy {
	t.Helper()
	c := defaultConfig()
	for _, opt := range opts {
		opt.apply(&c)
	}
	require.NoError(t, c.validate())
	policy := c.headerPolicy()
	return &policy
}

// inbound returns a request to host from remoteAddr as net/http's server reads
// it, with the given fields, each "Name: value".
func inbound(t testing.TB, remoteAddr, host string, fields ...string) *http.Request {
	t.Helper()
	lines := append([]string{"GET /chat HTTP/1.1", "Host: " + host}, fields...)
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(strings.Join(lines, "\r\n") + "\r\n\r\n")))
	require.NoError(t, err)
	r.RemoteAddr = remoteAddr
	return r
}

// outbound returns the header that the policy makes for in.
func outbound(policy *headerPolicy, in *http.Request) http.Header {
	out := in.Header.Clone()
	removeHopByHop(out)
	policy.apply(out, in)
	return out
}

// A policyTest compares the whole header, so that an extra field fails the
// test.
type policyTest struct {
	name string
	opts []Option
	peer string // default: 192.0.2.7:1234
	host string // default: chat.example
	in   []string
	want http.Header
}

func (test *policyTest) run(t *testing.T) {
	t.Run(test.name, func(t *testing.T) {
		in := inbound(t, cmp.Or(test.peer, "192.0.2.7:1234"), cmp.Or(test.host, "chat.example"), test.in...)
		before := in.Header.Clone()
		assert.Equal(t, test.want, outbound(policyOf(t, test.opts...), in))
		assert.Equal(t, before, in.Header, "the client's request is not changed")
	})
}

// forwardedFields returns the fields that the policy sets, with others added or
// replaced.
func forwardedFields(others http.Header) http.Header {
	h := http.Header{
		"X-Real-Ip":         {"192.0.2.7"},
		"X-Forwarded-For":   {"192.0.2.7"},
		"X-Forwarded-Proto": {"http"},
		"X-Forwarded-Host":  {"chat.example"},
	}
	for name, values := range others {
		h[name] = values
	}
	return h
}

func TestForwardingFieldsAreThoseOfTheRecipe(t *testing.T) {
	for _, test := range []policyTest{
		{name: "a client without forwarding fields", want: forwardedFields(nil)},
		{name: "end-to-end fields are forwarded",
			in:   []string{"Cookie: a=1", "Cookie: b=2", "Authorization: Basic eA==", "Origin: http://a.example", "User-Agent: x", "Accept-Language:", "Sec-WebSocket-Protocol: a, b"},
			want: forwardedFields(http.Header{"Cookie": {"a=1", "b=2"}, "Authorization": {"Basic eA=="}, "Origin": {"http://a.example"}, "User-Agent": {"x"}, "Accept-Language": {""}, "Sec-Websocket-Protocol": {"a, b"}})},
		{name: "a client's X-Real-IP is overwritten",
			in: []string{"X-Real-IP: 203.0.113.9", "x-real-ip: 203.0.113.8"}, want: forwardedFields(nil)},
		{name: "X-Forwarded-For is appended to",
			in:   []string{"X-Forwarded-For: 203.0.113.9, 203.0.113.8"},
			want: forwardedFields(http.Header{"X-Forwarded-For": {"203.0.113.9, 203.0.113.8, 192.0.2.7"}})},
		{name: "several lines become one list",
			in:   []string{"X-Forwarded-For: 203.0.113.9", "X-Forwarded-For:", "X-Forwarded-For: unknown"},
			want: forwardedFields(http.Header{"X-Forwarded-For": {"203.0.113.9, unknown, 192.0.2.7"}})},
		{name: "a client's X-Forwarded-Proto and -Host are overwritten",
			in: []string{"X-Forwarded-Proto: https", "X-Forwarded-Host: evil.example"}, want: forwardedFields(nil)},
		{name: "the other forwarding fields are dropped",
			in: []string{"X-Forwarded-Port: 1", "X-Forwarded-Prefix: /x", "Forwarded: for=203.0.113.9"}, want: forwardedFields(nil)},
		{name: "the host keeps its port",
			host: "chat.example:8080", want: forwardedFields(http.Header{"X-Forwarded-Host": {"chat.example:8080"}})},
		{name: "an IPv6 peer has no brackets",
			peer: "[2001:db8::7%eth0]:1234",
			want: forwardedFields(http.Header{"X-Real-Ip": {"2001:db8::7"}, "X-Forwarded-For": {"2001:db8::7"}})},
		{name: "a peer on a unix socket has no address",
			peer: "@", in: []string{"X-Real-IP: 203.0.113.9"},
			want: http.Header{"X-Forwarded-For": {"unknown"}, "X-Forwarded-Proto": {"http"}, "X-Forwarded-Host": {"chat.example"}}},
		{name: "Connection cannot strip the proxy's fields",
			in:   []string{"Connection: X-Forwarded-For, X-Real-IP, X-Forwarded-Proto, X-Forwarded-Host, Cookie", "X-Forwarded-For: 203.0.113.9", "Cookie: a"},
			want: forwardedFields(http.Header{"X-Forwarded-For": {"203.0.113.9, 192.0.2.7"}})}, // CVE-2022-31813
	} {
		test.run(t)
	}
}

func TestForwardingFieldsAreKeptOnlyFromTrustedProxies(t *testing.T) {
	claims := []string{"X-Real-IP: 203.0.113.1", "X-Forwarded-For: 203.0.113.2", "X-Forwarded-For: 203.0.113.3, 192.0.2.8",
		"X-Forwarded-Proto: https", "X-Forwarded-Host: public.example", "X-Forwarded-Port: 443", "Forwarded: for=203.0.113.4"}
	trust := WithTrustedProxies("192.0.2.0/24")
	for _, test := range []policyTest{
		{name: "from a trusted one they are kept and extended", opts: []Option{trust}, in: claims,
			want: forwardedFields(http.Header{"X-Real-Ip": {"203.0.113.3"},
				"X-Forwarded-For":   {"203.0.113.2, 203.0.113.3, 192.0.2.8, 192.0.2.7"},
				"X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"public.example"}, "X-Forwarded-Port": {"443"},
				"Forwarded": {"for=203.0.113.4"}})},
		{name: "a trusted one without fields gets the default ones", opts: []Option{trust}, want: forwardedFields(nil)},
		{name: "an unreadable list from a trusted one leaves the peer's address", opts: []Option{trust},
			in: []string{"X-Forwarded-For: unknown"}, want: forwardedFields(http.Header{"X-Forwarded-For": {"unknown, 192.0.2.7"}})},
		{name: "from an untrusted one they are dropped", opts: []Option{trust}, peer: "198.51.100.7:1", in: claims,
			want: forwardedFields(http.Header{"X-Real-Ip": {"198.51.100.7"}, "X-Forwarded-For": {"198.51.100.7"}})},
		{name: "without prefixes no peer is trusted", opts: []Option{WithTrustedProxies()}, in: claims, want: forwardedFields(nil)},
		{name: "the last list wins", opts: []Option{trust, WithTrustedProxies("198.51.100.0/24")}, in: claims, want: forwardedFields(nil)},
		{name: "a single address", opts: []Option{WithTrustedProxies("192.0.2.7")}, in: []string{"X-Forwarded-For: 192.0.2.6"},
			want: forwardedFields(http.Header{"X-Real-Ip": {"192.0.2.6"}, "X-Forwarded-For": {"192.0.2.6, 192.0.2.7"}})},
		{name: "a 4-in-6 prefix is the IPv4 one", opts: []Option{WithTrustedProxies("::ffff:192.0.2.0/120")}, peer: "[::ffff:192.0.2.7]:1", in: []string{"X-Forwarded-For: 203.0.113.2"},
			want: forwardedFields(http.Header{"X-Real-Ip": {"203.0.113.2"}, "X-Forwarded-For": {"203.0.113.2, 192.0.2.7"}})},
		{name: "a prefix with bits beyond its mask", opts: []Option{WithTrustedProxies("192.0.2.99/24")}, in: []string{"X-Forwarded-For: 203.0.113.2"},
			want: forwardedFields(http.Header{"X-Real-Ip": {"203.0.113.2"}, "X-Forwarded-For": {"203.0.113.2, 192.0.2.7"}})},
		{name: "a link-local address with a zone", opts: []Option{WithTrustedProxies("fe80::1%eth0")}, peer: "[fe80::1%eth1]:1", in: []string{"X-Forwarded-For: 203.0.113.2"},
			want: forwardedFields(http.Header{"X-Real-Ip": {"203.0.113.2"}, "X-Forwarded-For": {"203.0.113.2, fe80::1"}})},
		{name: "Connection cannot shorten a trusted list", opts: []Option{trust}, in: []string{"Connection: X-Forwarded-For", "X-Forwarded-For: 203.0.113.2"},
			want: forwardedFields(http.Header{"X-Real-Ip": {"203.0.113.2"}, "X-Forwarded-For": {"203.0.113.2, 192.0.2.7"}})},
		{name: "aliases are dropped from a trusted one too", opts: []Option{trust},
			in: []string{"X_Forwarded_Port: 1", "X_Forwarded_For: 203.0.113.2", "X.Real.IP: 203.0.113.2"}, want: forwardedFields(nil)},
		{name: "unix: does not trust TCP peers", opts: []Option{WithTrustedProxies("unix:")}, in: claims, want: forwardedFields(nil)},
	} {
		test.run(t)
	}
}

func TestPeersOnAUnixSocketCanBeTrusted(t *testing.T) {
	in := inbound(t, "@", "chat.example", "X-Forwarded-For: 203.0.113.2, 10.0.0.1")
	in = in.WithContext(context.WithValue(in.Context(), http.LocalAddrContextKey, net.Addr(&net.UnixAddr{Net: "unix", Name: "/run/x.sock"})))
	assert.Equal(t, http.Header{"X-Real-Ip": {"203.0.113.2"}, "X-Forwarded-For": {"203.0.113.2, 10.0.0.1, unknown"},
		"X-Forwarded-Proto": {"http"}, "X-Forwarded-Host": {"chat.example"}},
		outbound(policyOf(t, WithTrustedProxies("unix:", "10.0.0.0/8")), in))
	assert.Equal(t, http.Header{"X-Forwarded-For": {"unknown"},
		"X-Forwarded-Proto": {"http"}, "X-Forwarded-Host": {"chat.example"}},
		outbound(policyOf(t, WithTrustedProxies("10.0.0.0/8")), in), "not named, not trusted")
}

func TestARequestOverTLSIsForwardedAsHTTPS(t *testing.T) {
	in := inbound(t, "192.0.2.7:1", "chat.example", "X-Forwarded-Proto: http")
	in.TLS = &tls.ConnectionState{}
	assert.Equal(t, forwardedFields(http.Header{"X-Forwarded-Proto": {"https"}, "Forwarded": {"for=192.0.2.7;host=chat.example;proto=https"}}),
		outbound(policyOf(t, WithForwarded()), in))
}

// A server behind CGI or WSGI conventions reads X_Real_IP and X-Real-IP as
// one variable.
func TestAliasesOfManagedNamesAreNeverForwarded(t *testing.T) {
	edits := []Option{WithHeader("X-Api-Key", "secret"), WithHeader("X-Gone", "")}
	want := forwardedFields(http.Header{"X-Api-Key": {"secret"}})
	for _, name := range []string{
		"X_Real_IP", "x_real-ip", "X-Real_IP", "X.Real.IP", "X.real_ip", "x-real.IP",
		"X_Forwarded_For", "X.Forwarded.For", "x_forwarded-for", "X-Forwarded_For", "X_FORWARDED_FOR",
		"X_Forwarded_Proto", "X_Forwarded_Host", "X.Forwarded-Host", "X_Forwarded_Port", "X-Forwarded_Prefix",
		"Sec_WebSocket_Key", "sec_websocket-key", "Sec.WebSocket.Version", "Sec-WebSocket_Accept", "Sec_WebSocket_Protocol",
		"X_Api_Key", "x.api-KEY", "X-Gone", "X_Gone", "x.gone", "X-Api-Key",
	} {
		test := policyTest{name: name, opts: edits, in: []string{name + ": forged"}, want: want}
		test.run(t)
	}
	for _, name := range []string{"X_Other", "X.Other", "_", "X_real", "X_real_ips"} {
		test := policyTest{name: name + " is not an alias", opts: edits, in: []string{name + ": 1"},
			want: forwardedFields(http.Header{"X-Api-Key": {"secret"}, http.CanonicalHeaderKey(name): {"1"}})}
		test.run(t)
	}
}

// Apache 2.2 and lighttpd replace every character of a name that is neither
// letter nor digit by '_'. All of these are legal in a name.
func TestAliasesWithOtherPunctuationAreNeverForwarded(t *testing.T) {
	for _, mark := range "!#$%&'*+^`|~" {
		name := strings.ReplaceAll("X-Real-IP", "-", string(mark))
		test := policyTest{name: name, in: []string{name + ": forged"}, want: forwardedFields(nil)}
		test.run(t)
	}
}

func TestAliasesOfANameWithUnderscoresAreNeverForwarded(t *testing.T) {
	for _, name := range []string{"X-Api-Key", "X.Api.Key", "X_Api-Key", "X_Api_Key"} {
		test := policyTest{name: name, opts: []Option{WithHeader("X_Api_Key", "secret")}, in: []string{name + ": forged"},
			want: forwardedFields(http.Header{"X_api_key": {"secret"}})}
		test.run(t)
	}
}

func TestWithHeaderIsAppliedLastAndTheLastValueOfANameWins(t *testing.T) {
	for _, test := range []policyTest{
		{name: "set in place of the client's", opts: []Option{WithHeader("x-a", "1")}, in: []string{"X-A: 8", "X-A: 9"},
			want: forwardedFields(http.Header{"X-A": {"1"}})},
		{name: "removed", opts: []Option{WithHeader("Cookie", "")}, in: []string{"Cookie: a"}, want: forwardedFields(nil)},
		{name: "the last wins, in any case", opts: []Option{WithHeader("X-A", "1"), WithHeader("X-B", "2"), WithHeader("x-a", "3")},
			want: forwardedFields(http.Header{"X-A": {"3"}, "X-B": {"2"}})},
		{name: "removed, then set", opts: []Option{WithHeader("X-A", ""), WithHeader("X-A", "1")}, want: forwardedFields(http.Header{"X-A": {"1"}})},
		{name: "set, then removed", opts: []Option{WithHeader("X-A", "1"), WithHeader("X-A", "")}, in: []string{"X-A: 9"}, want: forwardedFields(nil)},
		{name: "forwarding fields are replaced and removed", opts: []Option{WithHeader("X-Forwarded-For", ""), WithHeader("X-Forwarded-Proto", "https")},
			want: http.Header{"X-Real-Ip": {"192.0.2.7"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"chat.example"}}},
		{name: "Connection cannot strip one", opts: []Option{WithHeader("X-A", "1")}, in: []string{"Connection: X-A"},
			want: forwardedFields(http.Header{"X-A": {"1"}})},
	} {
		test.run(t)
	}
}

func TestForwardedFollowsRFC7239(t *testing.T) {
	trust := WithTrustedProxies("192.0.2.0/24")
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
		{name: "a trusted list is extended", opts: []Option{trust}, in: []string{`Forwarded: for="[2001:db8::9]:1";by=_x, for=203.0.113.9`},
			want: with(`for="[2001:db8::9]:1";by=_x, for=203.0.113.9, ` + own)},
		{name: "an untrusted list is dropped", opts: []Option{WithTrustedProxies("198.51.100.1")}, in: []string{"Forwarded: for=203.0.113.9"}, want: with(own)},
		{name: "a list whose quotes do not close cannot swallow the proxy's hop", opts: []Option{trust}, in: []string{`Forwarded: for=203.0.113.9;x="`}, want: with(own)},
		{name: "a list that escapes its last quote cannot either", opts: []Option{trust}, in: []string{`Forwarded: for="203.0.113.9\"`}, want: with(own)},
		{name: "Connection cannot strip it", in: []string{"Connection: Forwarded", "Forwarded: for=203.0.113.9"}, want: with("for=203.0.113.9, " + own)},
	} {
		test.opts = append(test.opts, WithForwarded())
		test.run(t)
	}
}

// A trusted proxy may add to a list, as HAProxy's add-header and RFC 7230's
// rule for lists do. Then the last line or element is the proxy's, and the
// first is its client's.
func TestTheLastForwardedProtoAndHostOfATrustedProxyAreUsed(t *testing.T) {
	trusted := []Option{WithTrustedProxies("192.0.2.0/24")}
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

func TestThePeersAddressIsReadWithoutPortZoneAndMapping(t *testing.T) {
	for remoteAddr, want := range map[string]string{
		"192.0.2.1:1234":                 "192.0.2.1",
		"[2001:db8::1]:1234":             "2001:db8::1",
		"[2001:DB8:0:0::1]:1234":         "2001:db8::1",
		"[fe80::1%eth0]:1234":            "fe80::1",
		"[::ffff:192.0.2.1]:1234":        "192.0.2.1",
		"[::ffff:192.0.2.1%x]:1234":      "192.0.2.1",
		"192.0.2.1":                      "192.0.2.1", // after a middleware's real-IP rewrite
		"2001:db8::1":                    "2001:db8::1",
		"fe80::1%eth0":                   "fe80::1",
		"::ffff:192.0.2.1":               "192.0.2.1",
		"":                               "",
		"@":                              "", // a unix socket
		"/run/app.sock":                  "",
		"localhost:80":                   "",
		"192.0.2.256:1":                  "",
		"192.0.2.1:":                     "",
		"192.0.2.1:65536":                "",
		"[192.0.2.1]:80 ":                "",
		"192.0.2.1:80, 198.51.100.1:443": "",
	} {
		assert.Equal(t, address(want), peerAddr(remoteAddr), "for %q", remoteAddr)
	}
}

// address is netip.MustParseAddr, except that "" gives the zero Addr.
func address(s string) netip.Addr {
	if s == "" {
		return netip.Addr{}
	}
	return netip.MustParseAddr(s)
}

func TestTheClientIsTheFirstUntrustedAddressFromTheRight(t *testing.T) {
	trusted := []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"),
		netip.MustParsePrefix("2001:db8:aaaa::/48"),
		netip.MustParsePrefix("fe80::/10"),
	}
	for _, test := range []struct {
		name string
		peer string
		list []string
		want string
	}{
		{"no list", "10.0.0.1", nil, "10.0.0.1"},
		{"an empty list", "10.0.0.1", []string{"", " ", ",, ,"}, "10.0.0.1"},
		{"one untrusted", "10.0.0.1", []string{"192.0.2.1"}, "192.0.2.1"},
		{"the right-most of two untrusted", "10.0.0.1", []string{"192.0.2.1, 192.0.2.2"}, "192.0.2.2"},
		{"past a trusted one", "10.0.0.1", []string{"192.0.2.1, 192.0.2.2, 10.9.9.9"}, "192.0.2.2"},
		{"past several trusted ones", "10.0.0.1", []string{"192.0.2.1,192.0.2.2,10.0.0.3,10.0.0.2"}, "192.0.2.2"},
		{"a trusted one left of an untrusted one is ignored", "10.0.0.1", []string{"10.0.0.3, 192.0.2.2"}, "192.0.2.2"},
		{"the left-most if all are trusted", "10.0.0.1", []string{"10.0.0.4, 10.0.0.3, 10.0.0.2"}, "10.0.0.4"},
		{"over several lines, the last first", "10.0.0.1", []string{"192.0.2.1, 192.0.2.2", "10.0.0.3", "10.0.0.2"}, "192.0.2.2"},
		{"an untrusted one on the last line", "10.0.0.1", []string{"192.0.2.1", "192.0.2.2"}, "192.0.2.2"},
		{"spaces, tabs and empty elements", "10.0.0.1", []string{"192.0.2.1 ,\t192.0.2.2\t , ,,10.0.0.2 , "}, "192.0.2.2"},
		{"IPv4 with a port", "10.0.0.1", []string{"192.0.2.1:443, 10.0.0.2:80"}, "192.0.2.1"},
		{"IPv6", "10.0.0.1", []string{"192.0.2.1, 2001:DB8::0:1, 2001:db8:aaaa::1"}, "2001:db8::1"},
		{"IPv6 in brackets", "10.0.0.1", []string{"[2001:db8::1], [2001:db8:aaaa::1]"}, "2001:db8::1"},
		{"IPv6 in brackets with a port", "10.0.0.1", []string{"[2001:db8::1]:443, [2001:db8:aaaa::1]:80"}, "2001:db8::1"},
		{"a zone does not match a prefix", "10.0.0.1", []string{"192.0.2.1, fe80::1%eth0"}, "192.0.2.1"},
		{"4-in-6 is the IPv4 address", "10.0.0.1", []string{"::ffff:192.0.2.1, ::ffff:10.0.0.2, [::ffff:10.0.0.3]:80"}, "192.0.2.1"},
		{"garbage stops the walk at the last good one", "10.0.0.1", []string{"192.0.2.1, garbage, 10.0.0.2"}, "10.0.0.2"},
		{"garbage at the right leaves the peer", "10.0.0.1", []string{"192.0.2.1, garbage"}, "10.0.0.1"},
		{"garbage on a later line leaves the peer", "10.0.0.1", []string{"192.0.2.1", "garbage"}, "10.0.0.1"},
		{"garbage left of the client is never read", "10.0.0.1", []string{"garbage, 192.0.2.1"}, "192.0.2.1"},
		{"unknown stops the walk", "10.0.0.1", []string{"192.0.2.1, unknown"}, "10.0.0.1"},
		{"an unclosed bracket is garbage", "10.0.0.1", []string{"192.0.2.1, [2001:db8::1"}, "10.0.0.1"},
		{"a bracket too many is garbage", "10.0.0.1", []string{"192.0.2.1, 2001:db8::1]"}, "10.0.0.1"},
		{"a quoted address is garbage", "10.0.0.1", []string{`192.0.2.1, "10.0.0.2"`}, "10.0.0.1"},
		{"two addresses without a comma are garbage", "10.0.0.1", []string{"192.0.2.1 10.0.0.2"}, "10.0.0.1"},
		{"a prefix is garbage", "10.0.0.1", []string{"192.0.2.1/32"}, "10.0.0.1"},
		{"a port out of range is garbage", "10.0.0.1", []string{"192.0.2.1:65536"}, "10.0.0.1"},
		{"a peer without an address", "", []string{"192.0.2.1, 10.0.0.2"}, "192.0.2.1"},
		{"a peer without an address and no list", "", nil, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			assert.Equal(t, address(test.want), clientAddr(address(test.peer), test.list, trusted))
		})
	}
	assert.Equal(t, address("192.0.2.2"), clientAddr(address("192.0.2.3"), []string{"192.0.2.1, 192.0.2.2"}, nil),
		"with no prefix at all the first element from the right is untrusted")
}

// The client's address is the peer's or one in the list. Every address to its
// right is readable and trusted.
func FuzzClientAddr(f *testing.F) {
	for _, list := range []string{
		"", "192.0.2.1", "192.0.2.1, 10.0.0.2", "192.0.2.1\n192.0.2.2, 10.0.0.3\n10.0.0.2", " ,\t192.0.2.2 ,,10.0.0.2:80 , ",
		"[2001:db8::1]:443, [2001:db8:aaaa::1]", "2001:db8::1,fe80::1%eth0", "::ffff:192.0.2.1, [::ffff:10.0.0.1]:80",
		"192.0.2.1, unknown, 10.0.0.2", "garbage", "[", "]", "[]", "[[::1]]", "1.2.3.4:65536", "%", "::%", `"10.0.0.1"`,
	} {
		f.Add("10.0.0.1", list)
		f.Add("", list)
	}
	trusted := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:aaaa::/48"), netip.MustParsePrefix("fe80::/10")}
	f.Fuzz(func(t *testing.T, remoteAddr, list string) {
		peer := peerAddr(remoteAddr)
		require.Empty(t, peer.Zone())
		require.False(t, peer.Is4In6())
		got := clientAddr(peer, strings.Split(list, "\n"), trusted)
		want := peer
		elements := strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == '\n' })
		for _, element := range slices.Backward(elements) {
			element = strings.Trim(element, " \t\r")
			if element == "" {
				continue
			}
			addr := readAddr(element)
			if !addr.IsValid() {
				break
			}
			want = addr
			if !slices.ContainsFunc(trusted, func(p netip.Prefix) bool { return p.Contains(addr) }) {
				break
			}
		}
		require.Equal(t, want, got)
	})
}

// readAddr parses an address with package net instead of netip, if it can.
func readAddr(s string) netip.Addr {
	if inner, ok := strings.CutPrefix(s, "["); ok && strings.HasSuffix(inner, "]") {
		s = strings.TrimSuffix(inner, "]")
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host = s
	} else if n, err := strconv.ParseUint(port, 10, 16); err != nil || strings.HasPrefix(s, "[") != strings.Contains(host, ":") || strconv.FormatUint(n, 10) != strings.TrimLeft(port, "0") && n != 0 {
		return netip.Addr{}
	}
	host, zone, zoned := strings.Cut(host, "%")
	ip := net.ParseIP(host)
	if ip == nil || zoned && (zone == "" || !strings.Contains(host, ":")) {
		return netip.Addr{}
	}
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}
