package headers_test

import (
	"bufio"
	"cmp"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httputil"
	"strings"
	"testing"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

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

// overUnixSocket returns r as a server on a unix socket receives it.
func overUnixSocket(r *http.Request) *http.Request {
	return r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, net.Addr(&net.UnixAddr{Net: "unix", Name: "/run/x.sock"})))
}

// outbound returns the header that a Proxy with opts makes for in.
func outbound(t testing.TB, in *http.Request, opts ...wsproxy.Option) http.Header {
	t.Helper()
	p, err := wsproxy.New("http://upstream.example", opts...)
	require.NoError(t, err)
	return outboundOf(p, in)
}

// outboundOf calls Rewrite without the fields that the client's Connection names,
// but with all others. httputil.ReverseProxy removes more.
func outboundOf(p *wsproxy.Proxy, in *http.Request) http.Header {
	pr := &httputil.ProxyRequest{In: in, Out: in.Clone(in.Context())}
	for _, line := range in.Header["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			pr.Out.Header.Del(strings.TrimSpace(name))
		}
	}
	p.Rewrite(pr)
	return pr.Out.Header
}

// A policyTest compares the whole header, so that an extra field fails the
// test.
type policyTest struct {
	name string
	opts []wsproxy.Option
	peer string // default: 192.0.2.7:1234
	host string // default: chat.example
	in   []string
	want http.Header
}

func (test *policyTest) run(t *testing.T) {
	t.Run(test.name, func(t *testing.T) {
		in := inbound(t, cmp.Or(test.peer, "192.0.2.7:1234"), cmp.Or(test.host, "chat.example"), test.in...)
		before := in.Header.Clone()
		assert.Equal(t, test.want, outbound(t, in, test.opts...))
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

func TestARequestOverTLSIsForwardedAsHTTPS(t *testing.T) {
	in := inbound(t, "192.0.2.7:1", "chat.example", "X-Forwarded-Proto: http")
	in.TLS = &tls.ConnectionState{}
	assert.Equal(t, forwardedFields(http.Header{"X-Forwarded-Proto": {"https"}, "Forwarded": {"for=192.0.2.7;host=chat.example;proto=https"}}),
		outbound(t, in, wsproxy.WithForwarded()))
}

// A server behind CGI or WSGI conventions reads X_Real_IP and X-Real-IP as
// one variable.
func TestAliasesOfManagedNamesAreNeverForwarded(t *testing.T) {
	edits := []wsproxy.Option{wsproxy.WithHeader("X-Api-Key", "secret"), wsproxy.WithHeader("X-Gone", "")}
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
		test := policyTest{name: name, opts: []wsproxy.Option{wsproxy.WithHeader("X_Api_Key", "secret")}, in: []string{name + ": forged"},
			want: forwardedFields(http.Header{"X_api_key": {"secret"}})}
		test.run(t)
	}
}

func TestWithHeaderIsAppliedLastAndTheLastValueOfANameWins(t *testing.T) {
	for _, test := range []policyTest{
		{name: "set in place of the client's", opts: []wsproxy.Option{wsproxy.WithHeader("x-a", "1")}, in: []string{"X-A: 8", "X-A: 9"},
			want: forwardedFields(http.Header{"X-A": {"1"}})},
		{name: "removed", opts: []wsproxy.Option{wsproxy.WithHeader("Cookie", "")}, in: []string{"Cookie: a"}, want: forwardedFields(nil)},
		{name: "the last wins, in any case", opts: []wsproxy.Option{wsproxy.WithHeader("X-A", "1"), wsproxy.WithHeader("X-B", "2"), wsproxy.WithHeader("x-a", "3")},
			want: forwardedFields(http.Header{"X-A": {"3"}, "X-B": {"2"}})},
		{name: "removed, then set", opts: []wsproxy.Option{wsproxy.WithHeader("X-A", ""), wsproxy.WithHeader("X-A", "1")}, want: forwardedFields(http.Header{"X-A": {"1"}})},
		{name: "set, then removed", opts: []wsproxy.Option{wsproxy.WithHeader("X-A", "1"), wsproxy.WithHeader("X-A", "")}, in: []string{"X-A: 9"}, want: forwardedFields(nil)},
		{name: "forwarding fields are replaced and removed", opts: []wsproxy.Option{wsproxy.WithHeader("X-Forwarded-For", ""), wsproxy.WithHeader("X-Forwarded-Proto", "https")},
			want: http.Header{"X-Real-Ip": {"192.0.2.7"}, "X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"chat.example"}}},
		{name: "Connection cannot strip one", opts: []wsproxy.Option{wsproxy.WithHeader("X-A", "1")}, in: []string{"Connection: X-A"},
			want: forwardedFields(http.Header{"X-A": {"1"}})},
	} {
		test.run(t)
	}
}
