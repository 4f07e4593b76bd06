package wsproxy

import (
	"net/http"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestConnectionUpgradeEqualsTheMapOfTheNginxRecipe(t *testing.T) {
	for httpUpgrade, want := range map[string]string{
		"":          "close",
		"websocket": "upgrade",
		"h2c":       "upgrade",
		" ":         "upgrade",
		"0":         "upgrade",
	} {
		assert.Equal(t, want, ConnectionUpgrade(httpUpgrade), "for Upgrade: %q", httpUpgrade)
	}
}

func TestHopByHopFieldsAndFieldsNamedInConnectionAreRemoved(t *testing.T) {
	for _, test := range []struct {
		name     string
		in, want http.Header
	}{
		{"no fields", http.Header{}, http.Header{}},
		{"end-to-end fields stay",
			http.Header{"Cookie": {"a=1", "b=2"}, "Sec-Websocket-Extensions": {"permessage-deflate"}, "X-Te": {"1"}, "Upgrade-Insecure-Requests": {"1"}},
			http.Header{"Cookie": {"a=1", "b=2"}, "Sec-Websocket-Extensions": {"permessage-deflate"}, "X-Te": {"1"}, "Upgrade-Insecure-Requests": {"1"}}},
		{"every hop-by-hop field is removed without being named",
			http.Header{"Connection": {"close"}, "Http2-Settings": {"AAMAAABk"}, "Keep-Alive": {"timeout=5"},
				"Proxy-Authenticate": {"Basic"}, "Proxy-Authorization": {"Basic eA=="}, "Proxy-Connection": {"keep-alive"},
				"Te": {"trailers"}, "Trailer": {"X-T"}, "Transfer-Encoding": {"chunked"}, "Upgrade": {"websocket", "h2c"}},
			http.Header{}},
		{"all lines of a field named in Connection are removed",
			http.Header{"Connection": {"upgrade, X-Hop"}, "X-Hop": {"1", "2"}, "X-Kept": {"1"}},
			http.Header{"X-Kept": {"1"}}},
		{"names on every line of Connection count",
			http.Header{"Connection": {"upgrade", "X-One", "X-Two"}, "X-One": {"1"}, "X-Two": {"2"}},
			http.Header{}},
		{"spacing, tabs, case and empty elements do not matter",
			http.Header{"Connection": {" , x-one\t,,\tX-TWO ,", "", ",x-tHREE"}, "X-One": {"1"}, "X-Two": {"2"}, "X-Three": {"3"}},
			http.Header{}},
		{"names are compared as a whole",
			http.Header{"Connection": {"X-On, X-One-Two, X One"}, "X-One": {"1"}},
			http.Header{"X-One": {"1"}}},
		{"invalid field names are ignored",
			http.Header{"Connection": {`"X-One", close;x, é`}, "X-One": {"1"}},
			http.Header{"X-One": {"1"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			removeHopByHop(test.in)
			assert.Equal(t, test.want, test.in)
		})
	}
}

func TestTheClientsFirstAllowedProtocolIsRequested(t *testing.T) {
	websocket := []string{"websocket"}
	both := []string{"spdy/3.1", "websocket"}
	upgrade := []string{"Upgrade"}
	for _, test := range []struct {
		name       string
		upgrade    []string
		connection []string
		allowed    []string
		want       string
	}{
		{"websocket", []string{"websocket"}, upgrade, websocket, "websocket"},
		{"in any case, as the list spells it", []string{"WebSocket"}, []string{"uPGRADE"}, websocket, "websocket"},
		{"with spaces", []string{" \twebsocket "}, []string{"keep-alive ,\tUpgrade "}, websocket, "websocket"},
		{"beside h2c on one line", []string{"websocket, h2c"}, upgrade, websocket, "websocket"},
		{"after h2c on one line", []string{"h2c, websocket"}, upgrade, websocket, "websocket"},
		{"beside h2c on two lines", []string{"websocket", "h2c"}, upgrade, websocket, "websocket"},
		{"after h2c on two lines", []string{"h2c", "websocket"}, upgrade, websocket, "websocket"},
		{"upgrade on a second Connection line", []string{"websocket"}, []string{"keep-alive", "upgrade"}, websocket, "websocket"},
		{"spdy if it is allowed", []string{"SPDY/3.1"}, upgrade, both, "spdy/3.1"},
		{"the client's order counts, not the list's", []string{"websocket, spdy/3.1"}, upgrade, both, "websocket"},

		{"h2c", []string{"h2c"}, []string{"Upgrade, HTTP2-Settings"}, websocket, ""},
		{"spdy if it is not allowed", []string{"spdy/3.1"}, upgrade, websocket, ""},
		{"another version of an allowed one", []string{"spdy/3"}, upgrade, both, ""},
		{"a version if none is allowed", []string{"websocket/13"}, upgrade, websocket, ""},
		{"a letter that is an s to Unicode alone", []string{"web\u017focket"}, upgrade, websocket, ""},
		{"a letter that is a k to Unicode alone", []string{"websoc\u212aet"}, upgrade, websocket, ""},
		{"a name that only begins the same", []string{"websockets"}, upgrade, websocket, ""},
		{"no Connection", []string{"websocket"}, nil, websocket, ""},
		{"Connection without upgrade", []string{"websocket"}, []string{"keep-alive, close"}, websocket, ""},
		{"a Connection token that only begins with upgrade", []string{"websocket"}, []string{"upgradee"}, websocket, ""},
		{"a Connection token that only ends with upgrade", []string{"websocket"}, []string{"x-upgrade"}, websocket, ""},
		{"two words in one Connection token", []string{"websocket"}, []string{"keep-alive upgrade"}, websocket, ""},
		{"no Upgrade", nil, upgrade, websocket, ""},
		{"an empty Upgrade", []string{""}, upgrade, websocket, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			h := http.Header{}
			if test.upgrade != nil {
				h["Upgrade"] = test.upgrade
			}
			if test.connection != nil {
				h["Connection"] = test.connection
			}
			assert.Equal(t, test.want, upgradeToken(h, test.allowed))
		})
	}
}

func TestUpgradeFieldsAreRemovedFromAPlainRequest(t *testing.T) {
	for _, test := range []struct {
		name     string
		in, want http.Header
	}{
		{"h2c", http.Header{"Upgrade": {"h2c"}, "Http2-Settings": {"AAMAAABk"}, "Connection": {"Upgrade, HTTP2-Settings"}, "X-A": {"1"}},
			http.Header{"X-A": {"1"}}},
		{"other Connection tokens stay", http.Header{"Upgrade": {"h2c", "tls/1.0"}, "Connection": {"keep-alive, UPGRADE", "x-hop"}, "X-Hop": {"1"}},
			http.Header{"Connection": {"keep-alive, x-hop"}, "X-Hop": {"1"}}},
		{"settings alone", http.Header{"Http2-Settings": {"AAMAAABk"}, "Connection": {"http2-settings"}}, http.Header{}},
		{"upgrade without Connection", http.Header{"Upgrade": {"websocket"}}, http.Header{}},
		{"no upgrade", http.Header{"Connection": {"keep-alive"}, "X-A": {"1"}}, http.Header{"Connection": {"keep-alive"}, "X-A": {"1"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := &http.Request{Method: http.MethodGet, Host: "a.example", Header: test.in.Clone()}
			plain := withoutUpgrade(r)
			assert.Equal(t, test.want, plain.Header)
			assert.Equal(t, test.in, r.Header, "the request given is not changed")
			plain.Header.Set("X-Probe", "1")
			if test.in["Upgrade"] != nil || test.in["Http2-Settings"] != nil {
				assert.Equal(t, test.in, r.Header, "the copy shares no map with the request given")
			}
			assert.Equal(t, "a.example", plain.Host, "everything else is the same")
		})
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
		assert.Equal(t, want, quotedString(s), "for %q", s)
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
		assert.Equal(t, want, balanced(s), "for %s", s)
	}
}
