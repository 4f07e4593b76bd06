package wsproxy_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httputil"
	"os"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// sampleWith returns the sample handshake with one part of it replaced.
func sampleWith(t testing.TB, old, replacement string) string {
	t.Helper()
	require.Contains(t, sampleRequest, old)
	return strings.Replace(sampleRequest, old, replacement, 1)
}

// sampleAnd returns the sample handshake with more header lines.
func sampleAnd(lines ...string) string {
	return strings.TrimSuffix(sampleRequest, "\r\n") + strings.Join(lines, "\r\n") + "\r\n\r\n"
}

// A failed request as the error handler got it.
type failed struct {
	r   *http.Request
	err error
}

// failures collects what an error handler is called with.
type failures chan failed

func newFailures() failures { return make(failures, 100) }

// option makes the handler answer with the status alone.
func (f failures) option() wsproxy.Option {
	return wsproxy.WithErrorHandler(func(w http.ResponseWriter, r *http.Request, err error) {
		f <- failed{r, err}
		w.WriteHeader(wsproxy.StatusCode(err))
	})
}

func (f failures) next(t testing.TB) failed {
	t.Helper()
	select {
	case got := <-f:
		return got
	case <-time.After(patience):
		require.Fail(t, "the error handler was not called")
		return failed{}
	}
}

// gone reads until the connection ends, in order or by a reset, and returns
// what came before that.
func (p *peer) gone(t testing.TB, whose string) string {
	t.Helper()
	rest, err := io.ReadAll(p)
	require.False(t, os.IsTimeout(err), "%s connection stays open", whose)
	return string(rest)
}

// script runs f for each connection to u, which it closes after that. Each f
// has a goroutine of its own.
func (u *upstream) script(f func(server *peer)) {
	go func() {
		for conn := range u.conns {
			go func() {
				defer conn.Close()
				f(conn)
			}()
		}
	}()
}

// answers makes u answer each request with answer, and returns the headers of
// the requests.
func (u *upstream) answers(answer string) <-chan string {
	headers := make(chan string, 1000)
	u.script(func(server *peer) {
		var b strings.Builder
		for !strings.HasSuffix(b.String(), "\r\n\r\n") {
			line, err := server.br.ReadString('\n')
			if err != nil {
				return
			}
			b.WriteString(line)
		}
		headers <- b.String()
		io.WriteString(server, answer)
	})
	return headers
}

const sampleOK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"

func TestABadHandshakeGetsAClearAnswer(t *testing.T) {
	for _, c := range []struct {
		name    string
		request string
		status  int
		says    []string
		header  http.Header
	}{
		{"a method other than GET", sampleWith(t, "GET", "POST"),
			405, []string{`"POST"`, "GET"}, http.Header{"Allow": {"GET"}}},
		{"HTTP/1.0", sampleWith(t, "HTTP/1.1", "HTTP/1.0"),
			400, []string{`"HTTP/1.0"`, "HTTP/1.1"}, nil},
		{"no key", sampleWith(t, "Sec-WebSocket-Key: "+sampleKey+"\r\n", ""),
			400, []string{"0 Sec-WebSocket-Key", "want 1"}, nil},
		{"two keys", sampleAnd("Sec-WebSocket-Key: " + sampleKey),
			400, []string{"2 Sec-WebSocket-Key", "want 1"}, nil},
		{"an empty key", sampleWith(t, sampleKey, ""),
			400, []string{`Sec-WebSocket-Key ""`, "16 bytes"}, nil},
		{"a short key", sampleWith(t, sampleKey, "c2hvcnQ="),
			400, []string{`"c2hvcnQ="`, "16 bytes", "base64"}, nil},
		{"a key that is no base64", sampleWith(t, sampleKey, "!!!!!!!!!!!!!!!!!!!!!!!!"),
			400, []string{`"!!!!!!!!!!!!!!!!!!!!!!!!"`, "16 bytes", "base64"}, nil},
		{"a key without its padding", sampleWith(t, sampleKey, "dGhlIHNhbXBsZSBub25jZQ"),
			400, []string{`"dGhlIHNhbXBsZSBub25jZQ"`, "16 bytes", "base64"}, nil},
		{"a key in quotes and markup", sampleWith(t, sampleKey, `"<script>alert(1)</script>`),
			400, []string{`"\"<script>`, "16 bytes"}, nil},
		{"an old version", sampleWith(t, "Version: 13", "Version: 8"),
			426, []string{`"8"`, "want 13"}, http.Header{"Sec-Websocket-Version": {"13"}, "Upgrade": {"websocket"}}},
		{"no version", sampleWith(t, "Sec-WebSocket-Version: 13\r\n", ""),
			426, []string{`Sec-WebSocket-Version ""`, "want 13"}, http.Header{"Sec-Websocket-Version": {"13"}, "Upgrade": {"websocket"}}},
		{"two versions", sampleAnd("Sec-WebSocket-Version: 8"),
			426, []string{`"13, 8"`, "want 13"}, http.Header{"Sec-Websocket-Version": {"13"}, "Upgrade": {"websocket"}}},
		{"a body", sampleAnd("Content-Length: 5") + "hello",
			400, []string{"body", "want none"}, nil},
		{"a chunked body", sampleAnd("Transfer-Encoding: chunked") + "5\r\nhello\r\n0\r\n\r\n",
			400, []string{"body", "want none"}, nil},
		{"an empty chunked body", sampleAnd("Transfer-Encoding: chunked") + "0\r\n\r\n",
			400, []string{"body", "want none"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := newUpstream(t)
			p, addr := serveProxy(t, u.url)
			res, client := ask(t, addr, c.request)
			require.Equal(t, c.status, res.StatusCode)
			text := body(t, res)
			for _, part := range c.says {
				assert.Contains(t, text, part, "the answer does not say what is wrong")
			}
			for name, values := range c.header {
				assert.Equal(t, values, res.Header[name], "field %s", name)
			}
			assert.True(t, res.Close, "the answer does not announce the end of the connection")
			assert.Empty(t, client.gone(t, "the client's"), "bytes after the answer")
			assert.Zero(t, p.Stats().Handshakes, "handshakes still counted")

			errs := newFailures()
			_, addr = serveProxy(t, u.url, errs.option())
			res, _ = ask(t, addr, c.request)
			assert.Equal(t, c.status, res.StatusCode, "status with an error handler of the user's")
			for name, values := range c.header {
				assert.Equal(t, values, res.Header[name], "field %s with an error handler of the user's", name)
			}
			err := errs.next(t).err
			assert.ErrorIs(t, err, wsproxy.ErrBadHandshake)
			assert.Equal(t, c.status, wsproxy.StatusCode(err))
			assert.Empty(t, u.conns, "a bad handshake reached the upstream")
		})
	}
}

func TestARequestWithABodyIsRefusedBeforeTheBodyComes(t *testing.T) {
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url)
	res, _ := ask(t, addr, sampleAnd("Content-Length: 5"))
	assert.Equal(t, 400, res.StatusCode)
	assert.Contains(t, body(t, res), "body")
	assert.Empty(t, u.conns, "a bad handshake reached the upstream")
}

func TestALongBadValueIsCutInTheAnswer(t *testing.T) {
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url)
	res, _ := ask(t, addr, sampleWith(t, sampleKey, strings.Repeat("k", 100_000)))
	require.Equal(t, 400, res.StatusCode)
	assert.Less(t, len(body(t, res)), 500)
}

// RFC 6455, section 4.1, prints this key for the bytes 1 to 16, and clients in
// the field send it to the letter. Its unused bits are not zero, which a
// decoder of base64 may let pass (RFC 4648, section 3.5).
func TestTheKeyThatRFC6455PrintsIsAccepted(t *testing.T) {
	u := newUpstream(t)
	u.answers(sampleOK)
	_, addr := serveProxy(t, u.url)
	res, _ := ask(t, addr, sampleWith(t, sampleKey, "AQIDBAUGBwgJCgsMDQ4PEC=="))
	require.Equal(t, 200, res.StatusCode, "the RFC's own example is refused: %s", body(t, res))
}

func TestOtherProtocolsAreNotForwarded(t *testing.T) {
	const settings = "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
	for _, c := range []struct{ name, lines string }{
		{"h2c", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n" + settings},
		{"h2c without settings", "Connection: upgrade\r\nUpgrade: h2c\r\n"},
		{"h2c in capitals", "Connection: UPGRADE, HTTP2-SETTINGS\r\nUpgrade: H2C\r\n" + settings},
		{"TLS and h2c", "Connection: Upgrade\r\nConnection: HTTP2-Settings\r\nUpgrade: TLS/1.2, h2c\r\n" + settings},
		{"websocket with a version", "Connection: Upgrade\r\nUpgrade: websocket/13\r\n"},
		{"websocket without the Connection option", "Connection: keep-alive\r\nUpgrade: websocket\r\n"},
		{"settings alone", "Connection: HTTP2-Settings\r\n" + settings},
		{"settings that Connection does not name", settings},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := newUpstream(t)
			_, addr := serveProxy(t, u.url)
			client := dial(t, addr)
			client.send(t, "GET / HTTP/1.1\r\nHost: example.com\r\n"+c.lines+"\r\n")
			server := u.accept(t)
			header := strings.ToLower(server.rawHeader(t))
			assert.NotContains(t, header, "\r\nupgrade:")
			assert.NotContains(t, header, "http2-settings")
			assert.Contains(t, header, "\r\nconnection: close\r\n")
			server.send(t, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			assert.Equal(t, "ok", body(t, client.answer(t)))
		})
	}
}

func TestOnlyTheAllowedOneOfSeveralProtocolsIsForwarded(t *testing.T) {
	for _, lines := range []string{
		"Upgrade: websocket, h2c",
		"Upgrade: h2c, websocket",
		"Upgrade: websocket\r\nUpgrade: h2c",
		"Upgrade: h2c\r\nUpgrade: ,WebSocket,",
	} {
		t.Run(lines, func(t *testing.T) {
			u := newUpstream(t)
			_, addr := serveProxy(t, u.url)
			client := dial(t, addr)
			client.send(t, sampleWith(t, "Upgrade: websocket", lines))
			server := u.accept(t)
			header := server.rawHeader(t)
			assert.NotContains(t, strings.ToLower(header), "h2c")
			assert.Equal(t, 1, strings.Count(header, "\r\nUpgrade: websocket\r\n"), "in %s", header)
			server.send(t, sampleSwitch)
			assert.Equal(t, 101, client.answer(t).StatusCode)
		})
	}
}

// CVE-2022-31813 and CVE-2024-45410: a client named the proxy's own fields in
// Connection, and they were removed as hop-by-hop.
func TestFieldsOfTheProxyCannotBeStrippedThroughConnection(t *testing.T) {
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url, wsproxy.WithHeader("X-Gate", "open"))
	for _, plain := range []bool{false, true} {
		t.Run(fmt.Sprintf("plain=%v", plain), func(t *testing.T) {
			request := sampleWith(t, "Connection: Upgrade", "Connection: Upgrade, X-Forwarded-For, Host, Sec-WebSocket-Key, "+
				"Cookie, X-Real-IP\r\nConnection: sec-websocket-version,upgrade, Connection, X-Forwarded-Proto, X-Gate\r\n"+
				"X-Forwarded-For: 203.0.113.7\r\nCookie: a=b")
			if plain {
				request = strings.Replace(request, "Upgrade: websocket", "Upgrade: h2c", 1)
			}
			client := dial(t, addr)
			client.send(t, request)
			server := u.accept(t)
			got := server.request(t)
			assert.Equal(t, "server.example.com", got.Host)
			assert.Equal(t, []string{"203.0.113.7, 127.0.0.1"}, got.Header["X-Forwarded-For"])
			assert.Equal(t, []string{"127.0.0.1"}, got.Header["X-Real-Ip"])
			assert.Equal(t, []string{"http"}, got.Header["X-Forwarded-Proto"])
			assert.Equal(t, []string{"open"}, got.Header["X-Gate"])
			assert.Empty(t, got.Header["Cookie"], "a field that the client itself makes hop-by-hop")
			if plain {
				server.send(t, "HTTP/1.1 204 No Content\r\n\r\n")
				assert.Equal(t, 204, client.answer(t).StatusCode)
				return
			}
			assert.Equal(t, []string{"upgrade"}, got.Header["Connection"])
			assert.Equal(t, []string{"websocket"}, got.Header["Upgrade"])
			assert.Equal(t, []string{sampleKey}, got.Header["Sec-Websocket-Key"])
			assert.Equal(t, []string{"13"}, got.Header["Sec-Websocket-Version"])
			server.send(t, sampleSwitch)
			assert.Equal(t, 101, client.answer(t).StatusCode)
		})
	}
}

func TestTheRequestTargetOfAnUpgradeSurvivesToTheByte(t *testing.T) {
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url+"/base/?t=1")
	for name, target := range map[string]string{
		"encoded slashes":            "/a%2Fb/c%2fd//e/%2eE/%252e/",
		"semicolons and bad escapes": "/x?a;b=%zz&=&&c=%&d=1;2",
		"an empty query":             "/x",
		"raw bytes":                  "/x?q=\xff\xfe\"<>\\^`{|}",
		"ten thousand parameters":    "/x?" + strings.Repeat("p=v&", 10_000),
	} {
		t.Run(name, func(t *testing.T) {
			client := dial(t, addr)
			client.send(t, sampleWith(t, "/chat", target))
			line, _, _ := strings.Cut(u.accept(t).rawHeader(t), "\r\n")
			path, query, found := strings.Cut(target, "?")
			want := "GET /base" + path + "?t=1"
			if found {
				want += "&" + query
			}
			assert.Equal(t, want+" HTTP/1.1", line)
		})
	}
}

// A request target such as x:http://other/admin leaves URL.Path empty, which
// is all that rules in front of the proxy look at. What the upstream gets must
// lie under the target's path like any other request.
func TestARequestTargetWithoutAPathCannotEscapeTheTarget(t *testing.T) {
	u := newUpstream(t)
	headers := u.answers(sampleOK)
	_, addr := serveProxy(t, u.url+"/base")
	for _, target := range []string{"x:http://internal.example.com/admin", "x:admin", "http:*", "x:..%2fadmin?q"} {
		for _, request := range []string{
			sampleWith(t, "/chat", target),
			"GET " + target + " HTTP/1.1\r\nHost: example.com\r\n\r\n",
		} {
			res, _ := ask(t, addr, request)
			select {
			case header := <-headers:
				line, _, _ := strings.Cut(header, "\r\n")
				assert.True(t, strings.HasPrefix(line, "GET /base"), "%q became %q", target, line)
			default:
				assert.Equal(t, 400, res.StatusCode, "a request that is not forwarded")
			}
		}
	}
}

func TestBytesThatAreNotLegalInAHeaderGoNowhere(t *testing.T) {
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url)
	for name, line := range map[string]string{
		"a NUL in a value":             "X-A: a\x00b",
		"a control character":          "X-A: a\x01b",
		"a bare CR":                    "X-A: a\rX-Injected: 1",
		"a space in a name":            "X A: 1",
		"a space before the colon":     "X-A : 1",
		"an empty name":                ": 1",
		"a non-ASCII name":             "X-\xc3\xa4: 1",
		"a space before the length":    "Content-Length : 5",
		"two different lengths":        "Content-Length: 0\r\nContent-Length: 5",
		"a length and chunks":          "Transfer-Encoding: chunked\r\nContent-Length: 5",
		"a transfer coding of its own": "Transfer-Encoding: xchunked",
		"a second Host":                "Host: other.example.com",
	} {
		t.Run(name, func(t *testing.T) {
			res, _ := ask(t, addr, sampleAnd(line))
			assert.GreaterOrEqual(t, res.StatusCode, 400)
			assert.NotEqual(t, 502, res.StatusCode, "the client's mistake is laid at the upstream's door")
			assert.Empty(t, u.conns, "the request reached the upstream")
		})
	}

	client := dial(t, addr)
	client.send(t, sampleAnd("X-A: a\tb \xff\xc3\xa4"))
	assert.Contains(t, u.accept(t).rawHeader(t), "\r\nX-A: a\tb \xff\xc3\xa4\r\n", "bytes that are legal are changed")
}

func TestAHostThatCannotBeSentIsTheClientsMistake(t *testing.T) {
	u := newUpstream(t)
	errs := newFailures()
	_, addr := serveProxy(t, u.url, errs.option())
	for _, host := range []string{"a%zz", "a{b}", "example.com:99999", "[::1", "a@b", "a/b", "a?b", "a b"} {
		t.Run(host, func(t *testing.T) {
			res, _ := ask(t, addr, sampleWith(t, "server.example.com", host))
			assert.Equal(t, 400, res.StatusCode)
			if len(errs) > 0 { // else net/http has refused it
				assert.ErrorIs(t, errs.next(t).err, wsproxy.ErrBadHandshake)
			}
			assert.Empty(t, u.conns, "the upstream was dialed")
			for len(u.conns) > 0 {
				(<-u.conns).Close()
			}
		})
	}
}

// An empty Host means the host of the URL to httputil, whose Rewrite the
// user's function follows: ProxyRequest.SetURL itself leaves it so.
func TestAnEmptyHostMeansTheTargets(t *testing.T) {
	u := newUpstream(t)
	headers := u.answers(sampleOK)
	_, addr := serveProxy(t, u.url, wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) { pr.Out.Host = "" }))
	for _, request := range []string{sampleRequest, sampleWith(t, "Upgrade: websocket", "Upgrade: none")} {
		res, _ := ask(t, addr, request)
		if assert.Equal(t, 200, res.StatusCode) {
			assert.Contains(t, <-headers, "\r\nHost: "+u.addr+"\r\n")
		}
	}
}

// The Transport of httputil takes these from other fields of the request and
// ignores them in the header; two Hosts or a length of its own make an upgrade
// request that servers refuse, or read differently.
func TestARewriteCannotBreakTheFramingOfAnUpgrade(t *testing.T) {
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url, wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) {
		pr.Out.Header.Set("Host", "other.example.com")
		pr.Out.Header.Set("Content-Length", "7")
		pr.Out.Header.Set("Transfer-Encoding", "chunked")
		pr.Out.Header.Set("Trailer", "X-T")
		pr.Out.Header.Set("Upgrade", "h2c")
		pr.Out.Header.Set("Connection", "close")
		pr.Out.Header.Set("Sec-WebSocket-Key", "none")
		pr.Out.Header.Del("Sec-WebSocket-Version")
	}))
	client := dial(t, addr)
	client.send(t, sampleRequest)
	header := strings.ToLower(u.accept(t).rawHeader(t))
	assert.Equal(t, 1, strings.Count(header, "\r\nhost:"), "in %s", header)
	for _, name := range []string{"content-length", "transfer-encoding", "trailer", "h2c", "close", "none"} {
		assert.NotContains(t, header, name)
	}
	assert.Contains(t, header, "\r\nsec-websocket-version: 13\r\n")
}
