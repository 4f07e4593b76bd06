package wsproxy

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Whatever a client's header is, an upstream gets nothing hop-by-hop, exactly
// the proxy's values under the names that are the proxy's, and no alias of
// those.
func FuzzHeaderPolicy(f *testing.F) {
	for _, header := range []string{
		"",
		"Cookie: a=1\r\nX-Kept: 1",
		"Connection: Upgrade, X-Hop\r\nUpgrade: websocket\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\nTrailer: X",
		"connection: x-forwarded-for\r\nConnection: X-Real-IP , X-Api-Key,\tForwarded\r\nX-Forwarded-For: 203.0.113.9",
		"X-Real-IP: 203.0.113.9\r\nx_real_ip: 1\r\nX.Real.IP: 2\r\nX-Real_IP: 3",
		"X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-For: 10.0.0.2, unknown\r\nX_Forwarded_For: 1\r\nX-Forwarded-Port: 1",
		"X-Forwarded-Proto: https\r\nX-Forwarded-Host: a\r\nX.Forwarded.Proto: x",
		"Forwarded: for=203.0.113.9\r\nForwarded: for=\"\r\nForwarded: for=\"a\\\"",
		"Sec-WebSocket-Key: x\r\nSec_WebSocket_Key: y\r\nX-Api-Key: 1\r\nX_api_key: 2\r\nX-Gone: 3\r\nX.Gone: 4",
		"Proxy-Connection: x\r\nProxy-Authorization: x\r\nHTTP2-Settings: x\r\nTransfer-Encoding: chunked",
	} {
		for mode := range byte(6) {
			f.Add(header, mode)
		}
	}
	edits := []Option{WithHeader("X-Api-Key", "secret"), WithHeader("X-Gone", "")}
	f.Fuzz(func(t *testing.T, header string, mode byte) {
		in, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET / HTTP/1.1\r\nHost: chat.example:80\r\n" + header + "\r\n\r\n")))
		if err != nil || in.Host != "chat.example:80" || !served(in.Header) {
			return
		}
		in.RemoteAddr = "192.0.2.7:1234"
		opts := slices.Clone(edits)
		trusting, claims := mode%3 == 1, mode%3 != 2 // claims: the client's lists are extended
		switch mode % 3 {
		case 1:
			opts = append(opts, WithTrustedProxies("192.0.2.0/24"))
		case 2:
			opts = append(opts, WithTrustedProxies("198.51.100.0/24"))
		}
		if mode%2 == 1 {
			opts = append(opts, WithForwarded())
		}
		before := in.Header.Clone()
		out := outbound(policyOf(t, opts...), in)
		require.Equal(t, before, in.Header, "the client's request is not changed")

		list := []string{}
		for _, line := range in.Header["X-Forwarded-For"] {
			if claims && strings.TrimSpace(line) != "" {
				list = append(list, line)
			}
		}
		own := map[string][]string{
			"X-Forwarded-For": {strings.Join(append(list, "192.0.2.7"), ", ")},
			"X-Api-Key":       {"secret"},
			"X-Gone":          nil,
		}
		if !trusting {
			own["X-Real-Ip"] = []string{"192.0.2.7"}
			own["X-Forwarded-Proto"] = []string{"http"}
			own["X-Forwarded-Host"] = []string{"chat.example:80"}
		}
		for name, want := range own {
			require.Equal(t, want, out[name], "field %s", name)
		}
		for _, name := range []string{"X-Real-Ip", "X-Forwarded-Proto", "X-Forwarded-Host"} {
			require.Len(t, out[name], 1, "field %s", name)
		}
		if mode%2 == 1 {
			require.Len(t, out["Forwarded"], 1)
			value := out["Forwarded"][0]
			own := `for=192.0.2.7;host="chat.example:80";proto=http`
			require.True(t, value == own || strings.HasSuffix(value, ", "+own) && claims, "Forwarded: %s", value)
			require.Zero(t, openQuotes(strings.TrimSuffix(value, own)), "the proxy's hop is not within quotes: %s", value)
		} else if !trusting {
			require.Nil(t, out["Forwarded"])
		}

		named := map[string]bool{}
		for _, name := range strings.Split(strings.Join(in.Header["Connection"], ","), ",") {
			named[http.CanonicalHeaderKey(strings.Trim(name, " \t"))] = true
		}
		for name, values := range out {
			switch plainName := strings.NewReplacer("_", "-", ".", "-").Replace(strings.ToLower(name)); {
			case own[name] != nil, name == "X-Real-Ip", name == "Forwarded", strings.HasPrefix(name, "X-Forwarded-") && name == http.CanonicalHeaderKey(plainName):
				require.True(t, trusting || own[name] != nil || name == "Forwarded", "a claim of an untrusted peer passed: %s", name)
			case slices.Contains([]string{"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection",
				"te", "trailer", "transfer-encoding", "upgrade", "http2-settings"}, strings.ToLower(name)):
				t.Fatalf("a hop-by-hop field passed: %s", name)
			case named[name]:
				t.Fatalf("a field that Connection names passed: %s", name)
			case slices.Contains([]string{"x-real-ip", "x-api-key", "x-gone"}, plainName),
				strings.HasPrefix(plainName, "x-forwarded-"),
				strings.HasPrefix(plainName, "sec-websocket-") && strings.ContainsAny(name, "_."):
				t.Fatalf("an alias passed: %s", name)
			default:
				require.Equal(t, in.Header[name], values, "field %s is end-to-end", name)
			}
		}
		for name, values := range in.Header {
			ours := strings.HasPrefix(name, "X") || strings.HasPrefix(name, "Sec") || name == "Forwarded"
			if !ours && !named[name] && !slices.Contains(hopByHop, name) {
				require.Equal(t, values, out[name], "field %s is end-to-end", name)
			}
		}
	})
}

// served reports whether net/http's server takes a header, which ReadRequest
// alone does not tell.
func served(h http.Header) bool {
	for name, values := range h {
		if !isToken(name) || slices.ContainsFunc(values, func(value string) bool { return !isFieldValue(value) }) {
			return false
		}
	}
	return true
}

// openQuotes is the number of quoted strings left open at the end of s.
func openQuotes(s string) int {
	closed := regexp.MustCompile(`"(?s:[^"\\]|\\.)*"`).ReplaceAllString(s, "")
	return strings.Count(closed, `"`)
}

// The client's address is the peer's or one that the list shows, and nothing
// to the right of that one is untrusted or unreadable.
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

// readAddr reads an address by way of package net and not of netip, where it
// can.
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

// keyPattern is 16 bytes in base64. The last of its 22 digits holds two bits
// and, in the example that RFC 6455, section 4.1, prints, a stray third.
var keyPattern = regexp.MustCompile(`^[A-Za-z0-9+/]{22}==$`)

// A handshake is accepted exactly where RFC 6455, section 4.2.1, accepts it,
// and what goes upstream for it is one request to the same target.
func FuzzCheckRequest(f *testing.F) {
	handshake := func(line string, fields ...string) {
		f.Add([]byte(line + "\r\n" + strings.Join(fields, "\r\n") + "\r\n\r\n"))
	}
	sample := []string{"Host: server.example.com", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"}
	for _, line := range []string{
		"GET /chat HTTP/1.1", "GET /chat HTTP/1.0", "POST /chat HTTP/1.1", "get / HTTP/1.1", "GET / HTTP/1.2", "GET //a//b?x=%zz;y&&? HTTP/1.1", "GET /a%2Fb? HTTP/1.1",
		"GET http://other.example/chat?x HTTP/1.1", "GET * HTTP/1.1", "GET x:http://internal/admin HTTP/1.1", "GET x:admin HTTP/1.1", "GET http://[fe80::1%25%20x]/ HTTP/1.1", `GET /"<>\^{|}#x?#y HTTP/1.1`,
	} {
		handshake(line, sample...)
	}
	handshake("GET / HTTP/1.1", append(sample, "Content-Length: 0")...)
	handshake("GET / HTTP/1.1", append(sample, "Content-Length: 1", "", "x")...)
	handshake("GET / HTTP/1.1", append(sample, "Transfer-Encoding: chunked", "", "0", "")...)
	handshake("GET / HTTP/1.1", append(sample, "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")...)
	handshake("GET / HTTP/1.1", append(sample, "Connection: Sec-WebSocket-Key, Sec-WebSocket-Protocol", "Sec-WebSocket-Protocol: chat", "X-A: \ta\tb \xff ")...)
	handshake("GET / HTTP/1.1", "Host: a:80", "upgrade: h2c, WebSocket", "connection: keep-alive,\tupgrade ", "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==", "sec-websocket-version: 13")
	handshake("GET / HTTP/1.1", "Host:", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAB==", "Sec-WebSocket-Version: 013")
	handshake("GET / HTTP/1.1", "Host: a", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEC==", "Sec-WebSocket-Version: 13")

	p, err := New("http://upstream.example")
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, raw []byte) {
		in, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(raw)))
		if err != nil {
			return
		}
		protocol := upgradeToken(in.Header, []string{"websocket"})
		if protocol == "" {
			return
		}
		require.Regexp(t, `(?i)(^|[,\n])[ \t]*websocket[ \t]*($|[,\n])`, strings.Join(in.Header["Upgrade"], "\n"))
		require.Regexp(t, `(?i)(^|[,\n])[ \t]*upgrade[ \t]*($|[,\n])`, strings.Join(in.Header["Connection"], "\n"))
		version, key := in.Header.Values("Sec-WebSocket-Version"), in.Header.Values("Sec-WebSocket-Key")
		legal := in.Method == "GET" && (in.ProtoMajor > 1 || in.ProtoMajor == 1 && in.ProtoMinor >= 1) &&
			in.ContentLength == 0 && in.TransferEncoding == nil && slices.Equal(version, []string{"13"}) && len(key) == 1 && keyPattern.MatchString(key[0]) &&
			in.RequestURI != "*" && !dotSegment.MatchString(in.URL.Path)
		err = checkRequest(in, protocol)
		if in.URL.Opaque == "" && isHost(in.Host) { // else HTTP itself is reason enough
			require.Equal(t, legal, err == nil, "RFC 6455 and the proxy disagree: %v", err)
		}
		if err != nil {
			require.ErrorIs(t, err, ErrBadHandshake)
			require.Contains(t, []int{400, 405, 426}, StatusCode(err))
			return
		}
		require.True(t, legal)
		in.RemoteAddr = "192.0.2.7:1234"
		sent := p.outgoingRequest(context.Background(), in, protocol)
		wire, err := appendRequest(nil, sent)
		if err != nil {
			require.ErrorIs(t, err, ErrUpstream)
			require.False(t, served(in.Header), "a request that a server of net/http's takes cannot be sent: %v", err)
			return
		}
		rest := bufio.NewReader(bytes.NewReader(wire))
		got, err := http.ReadRequest(rest)
		require.NoError(t, err, "%q", wire)
		left, err := io.ReadAll(rest)
		require.NoError(t, err)
		require.Empty(t, left, "more than one request was sent: %q", wire)
		require.Equal(t, "GET", got.Method)
		require.Equal(t, "HTTP/1.1", got.Proto)
		require.Equal(t, in.Host, got.Host)
		require.Equal(t, "/"+strings.TrimPrefix(in.URL.Path, "/"), got.URL.Path, "%q", wire)
		require.Equal(t, in.URL.RawQuery, got.URL.RawQuery, "%q", wire)
		require.Zero(t, got.ContentLength)
		require.Empty(t, got.TransferEncoding)
		require.Equal(t, key, got.Header["Sec-Websocket-Key"])
		require.Equal(t, []string{"websocket"}, got.Header["Upgrade"])
		require.Equal(t, []string{"upgrade"}, got.Header["Connection"])
		require.Equal(t, []string{"192.0.2.7"}, got.Header["X-Real-Ip"])
		for name := range got.Header {
			ours := slices.Contains([]string{"Upgrade", "Connection", "X-Real-Ip", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"}, name)
			require.True(t, ours || in.Header[name] != nil, "a field of nobody's: %s", name)
		}
	})
}

// A tunnel stands exactly on the token and the accept that the handshake asks
// for (RFC 6455, section 4.1), and the client gets exactly one 101 for it.
func FuzzAnswer(f *testing.F) {
	const key, accept = "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
	for _, answer := range []string{
		"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + accept + "\r\n\r\nglued",
		"HTTP/1.1 101\r\nupgrade: WEBSOCKET\r\nConnection: Upgrade, X-Hop\r\nX-Hop: 1\r\nsec-websocket-accept: " + accept + " \r\nContent-Length: 5\r\nSet-Cookie: a\r\n\r\n",
		"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\nSec-WebSocket-Accept: " + accept + "\r\n\r\n",
		"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nX Y: 1\r\nConnection : X\r\nSec-WebSocket-Accept: " + accept + "\r\n\r\n",
		"HTTP/1.0 101 x\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + accept + "\r\n\r\n",
		"HTTP/1.1 101 x\r\nUpgrade: websocket, h2c\r\nSec-WebSocket-Accept: " + accept + "\r\n\r\n",
		"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + accept + "\r\nSec-WebSocket-Accept: x\r\n\r\n",
		"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: keep-alive\r\nConnection: ,\tUPGRADE\r\nSec-WebSocket-Accept: " + accept + "\r\n\r\n",
		"HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: upgrade,close\r\nSec-WebSocket-Accept: " + accept + "\r\n\r\n",
		"HTTP/1.1 101 x\r\nUpgrade: h2c\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", "", "HTTP/", "\x00",
	} {
		f.Add([]byte(answer))
	}
	p, err := New("http://upstream.example", WithModifyResponse(func(*http.Response) error { return nil }))
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, raw []byte) {
		asked := &http.Request{Method: "GET", Header: http.Header{"Upgrade": {"websocket"}, "Sec-Websocket-Key": {key}}}
		res, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(raw)), asked)
		if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
			return
		}
		upgrade := res.Header.Values("Upgrade")
		legal := res.ProtoMajor == 1 && res.ProtoMinor >= 1 && len(upgrade) == 1 && len(upgrade[0]) == len("websocket") && strings.EqualFold(upgrade[0], "websocket") &&
			slices.Equal(res.Header.Values("Sec-WebSocket-Accept"), []string{accept}) &&
			connectionOption("upgrade", res.Header) && !connectionOption("close", res.Header)
		err = checkSwitch(res, asked)
		require.Equal(t, legal, err == nil, "RFC 6455 and the proxy disagree: %v", err)
		if err != nil {
			require.ErrorIs(t, err, ErrUpstream)
			require.Equal(t, http.StatusBadGateway, StatusCode(err))
			return
		}
		require.NoError(t, p.modifySwitch(res))
		wire := bufio.NewReader(bytes.NewReader(appendSwitch(nil, res.Header, "websocket")))
		got, err := http.ReadResponse(wire, asked)
		require.NoError(t, err)
		require.Zero(t, wire.Buffered(), "the client gets more than one answer")
		require.Equal(t, http.StatusSwitchingProtocols, got.StatusCode)
		require.Equal(t, []string{"websocket"}, got.Header["Upgrade"])
		require.Equal(t, []string{"Upgrade"}, got.Header["Connection"])
		require.Equal(t, []string{accept}, got.Header["Sec-Websocket-Accept"])
		for name, values := range got.Header {
			require.True(t, isToken(name), "a name that is none: %q", name)
			require.True(t, name == "Upgrade" || name == "Connection" || len(values) == len(res.Header[name]), "a field of nobody's: %s", name)
			require.False(t, slices.Contains([]string{"Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Content-Length"}, name), "a field of the hop or of a body: %s", name)
		}
	})
}

// connectionOption reports whether a Connection field has an option.
func connectionOption(option string, h http.Header) bool {
	return regexp.MustCompile("(?i)(^|[,\n])[ \t]*" + option + "[ \t]*($|[,\n])").MatchString(strings.Join(h["Connection"], "\n"))
}

// A target that is accepted can be dialed and sent; one that is not is named
// in an error of the package's.
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

// An Origin passes only where its host, as package url reads it, is that of
// the pattern, or below it for a wildcard.
func FuzzParseOrigin(f *testing.F) {
	for _, pattern := range []string{"https://example.com", "*.example.com", "http://localhost:*", "null", "example.com:8080", "http://[::1]:80", "*", "*.[::1]", ""} {
		for _, header := range []string{"https://example.com", "https://a.example.com:443", "https://evilexample.com", "https://example.com@evil.com", "https://a.example.com.", "http://localhost:80", "null", "http://[::1]:80", "http://EXAMPLE.com:8080", "https://*.example.com"} {
			f.Add(pattern, header)
		}
	}
	f.Fuzz(func(t *testing.T, s, header string) {
		pattern, err := parseOrigin(s)
		if err != nil {
			return
		}
		if !strings.Contains(s, "*") && strings.Contains(s, "://") {
			assert.NoError(t, checkOrigin(from(s), []origin{pattern}), "an origin allows itself: %q", s)
		}
		if checkOrigin(from(header), []origin{pattern}) != nil {
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
