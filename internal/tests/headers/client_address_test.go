package headers_test

import (
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

var trustedPrefixes = []string{"10.0.0.0/8", "2001:db8:aaaa::/48", "fe80::/10"}

// clientAddr returns the X-Real-IP of a request from remoteAddr, over a unix
// socket, with the lines of an X-Forwarded-For.
func clientAddr(p *wsproxy.Proxy, remoteAddr string, list []string) string {
	in := overUnixSocket(&http.Request{Method: "GET", Host: "chat.example", URL: &url.URL{Path: "/"}, RemoteAddr: remoteAddr, Header: http.Header{}})
	if list != nil {
		in.Header["X-Forwarded-For"] = list
	}
	return outboundOf(p, in).Get("X-Real-Ip")
}

// trusting trusts every peer on a unix socket, whatever its RemoteAddr, and the
// given prefixes in X-Forwarded-For.
func trusting(t testing.TB, prefixes ...string) *wsproxy.Proxy {
	t.Helper()
	p, err := wsproxy.New("http://upstream.example", wsproxy.WithTrustedProxies(append(prefixes, "unix:")...))
	require.NoError(t, err)
	return p
}

func TestThePeersAddressIsReadWithoutPortZoneAndMapping(t *testing.T) {
	p, err := wsproxy.New("http://upstream.example")
	require.NoError(t, err)
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
		assert.Equal(t, want, clientAddr(p, remoteAddr, nil), "for %q", remoteAddr)
	}
}

func TestTheClientIsTheFirstUntrustedAddressFromTheRight(t *testing.T) {
	p := trusting(t, trustedPrefixes...)
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
			assert.Equal(t, test.want, clientAddr(p, test.peer, test.list))
		})
	}
	assert.Equal(t, "192.0.2.2", clientAddr(trusting(t), "192.0.2.3", []string{"192.0.2.1, 192.0.2.2"}),
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
	var trusted []netip.Prefix
	for _, prefix := range trustedPrefixes {
		trusted = append(trusted, netip.MustParsePrefix(prefix))
	}
	p := trusting(f, trustedPrefixes...)
	f.Fuzz(func(t *testing.T, remoteAddr, list string) {
		var want netip.Addr
		if peer := clientAddr(p, remoteAddr, nil); peer != "" {
			want = netip.MustParseAddr(peer)
			require.Empty(t, want.Zone())
			require.False(t, want.Is4In6())
		}
		got := clientAddr(p, remoteAddr, strings.Split(list, "\n"))
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
		if !want.IsValid() {
			require.Empty(t, got)
			return
		}
		require.Equal(t, want.String(), got)
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
