package testkit

import (
	"maps"
	"net/http"
	"strings"
	"testing"
)

// The sample handshake of RFC 6455, section 1.3.
const (
	SampleKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	SampleAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

	SampleRequest = "GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Key: " + SampleKey + "\r\nSec-WebSocket-Version: 13\r\n\r\n"
	SampleSwitch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + SampleAccept + "\r\n\r\n"
)

// A plain request, and two responses to it.
const (
	PlainRequest    = "GET /page HTTP/1.1\r\nHost: server.example.com\r\n\r\n"
	ResponseOK      = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	ResponseOKClose = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
)

// SampleRequestWith returns SampleRequest with one part of it replaced.
func SampleRequestWith(t testing.TB, old, replacement string) string {
	t.Helper()
	return replaced(t, SampleRequest, old, replacement)
}

// SampleSwitchWith returns SampleSwitch with one part of it replaced.
func SampleSwitchWith(t testing.TB, old, replacement string) string {
	t.Helper()
	return replaced(t, SampleSwitch, old, replacement)
}

func replaced(t testing.TB, s, old, replacement string) string {
	t.Helper()
	if !strings.Contains(s, old) {
		t.Fatalf("%q does not contain %q", s, old)
	}
	return strings.Replace(s, old, replacement, 1)
}

// SampleRequestAnd returns SampleRequest with more header lines.
func SampleRequestAnd(lines ...string) string {
	return strings.TrimSuffix(SampleRequest, "\r\n") + strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// PlainGet returns a plain request for uri with more header lines.
func PlainGet(uri string, lines ...string) string {
	return "GET " + uri + " HTTP/1.1\r\n" + strings.Join(append([]string{"Host: server.example.com"}, lines...), "\r\n") + "\r\n\r\n"
}

// UpgradeGet returns the sample handshake for uri with more header lines.
func UpgradeGet(uri string, lines ...string) string {
	return PlainGet(uri, append([]string{"Upgrade: websocket", "Connection: Upgrade",
		"Sec-WebSocket-Key: " + SampleKey, "Sec-WebSocket-Version: 13"}, lines...)...)
}

// BothKinds runs test with PlainGet and with UpgradeGet as request. header
// returns what the upstream gets for a request without more lines, with others
// set or, if they are nil, removed.
func BothKinds(t *testing.T, test func(t *testing.T, request func(uri string, lines ...string) string, header func(others http.Header) http.Header)) {
	forwarded := http.Header{
		"X-Real-Ip":         {"127.0.0.1"},
		"X-Forwarded-For":   {"127.0.0.1"},
		"X-Forwarded-Proto": {"http"},
		"X-Forwarded-Host":  {"server.example.com"},
	}
	with := func(own http.Header) func(others http.Header) http.Header {
		return func(others http.Header) http.Header {
			h := forwarded.Clone()
			maps.Copy(h, own)
			maps.Copy(h, others)
			maps.DeleteFunc(h, func(_ string, values []string) bool { return values == nil })
			return h
		}
	}
	t.Run("a plain request", func(t *testing.T) {
		test(t, PlainGet, with(http.Header{"Connection": {"close"}}))
	})
	t.Run("an upgrade", func(t *testing.T) {
		test(t, UpgradeGet, with(http.Header{"Connection": {"upgrade"}, "Upgrade": {"websocket"},
			"Sec-Websocket-Key": {SampleKey}, "Sec-Websocket-Version": {"13"}}))
	})
}
