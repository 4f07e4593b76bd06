package wsproxy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// answerOK leaves the upstream's connection open for more.
const answerOK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// plainGet is a plain request for uri with more header lines.
func plainGet(uri string, lines ...string) string {
	return "GET " + uri + " HTTP/1.1\r\n" + strings.Join(append([]string{"Host: server.example.com"}, lines...), "\r\n") + "\r\n\r\n"
}

// upgradeGet is the sample handshake for uri with more header lines.
func upgradeGet(uri string, lines ...string) string {
	return plainGet(uri, append([]string{"Upgrade: websocket", "Connection: Upgrade",
		"Sec-WebSocket-Key: " + sampleKey, "Sec-WebSocket-Version: 13"}, lines...)...)
}

// bothKinds runs test with the maker of plain requests and with that of
// upgrades; header is what the upstream gets for one without more lines, with
// others set or, where they are nil, removed.
func bothKinds(t *testing.T, test func(t *testing.T, request func(uri string, lines ...string) string, header func(others http.Header) http.Header)) {
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
		test(t, plainGet, with(http.Header{"Connection": {"close"}}))
	})
	t.Run("an upgrade", func(t *testing.T) {
		test(t, upgradeGet, with(http.Header{"Connection": {"upgrade"}, "Upgrade": {"websocket"},
			"Sec-Websocket-Key": {sampleKey}, "Sec-Websocket-Version": {"13"}}))
	})
}

// received returns what reaches u, to the byte, for a request sent to addr.
func (u *upstream) received(t testing.TB, addr, request string) string {
	t.Helper()
	client := dial(t, addr)
	client.send(t, request)
	server := u.accept(t)
	raw := server.rawHeader(t)
	server.send(t, answerOK)
	require.Equal(t, http.StatusOK, client.answer(t).StatusCode)
	return raw
}

// receives is received, parsed.
func (u *upstream) receives(t testing.TB, addr, request string) *http.Request {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(u.received(t, addr, request))))
	require.NoError(t, err)
	return r
}

func TestByDefaultAHandshakeIsSentAsTheRecipeSendsIt(t *testing.T) {
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url)
	raw := u.received(t, addr, "GET /chat?x=1 HTTP/1.1\r\nhost: server.example.com:8080\r\nUPGRADE: WebSocket\r\nconnection: keep-alive, UPGRADE\r\n"+
		"sec-websocket-key: "+sampleKey+"\r\nSEC-WEBSOCKET-VERSION: 13\r\nsec-websocket-protocol: chat, superchat\r\nSec-Websocket-Extensions: permessage-deflate\r\n"+
		"cookie: a=1\r\norigin: http://a.example\r\nx-real-ip: 203.0.113.9\r\nx-forwarded-for: 203.0.113.9\r\n\r\n")
	require.Equal(t, "GET /chat?x=1 HTTP/1.1\r\nHost: server.example.com:8080\r\nConnection: upgrade\r\nCookie: a=1\r\nOrigin: http://a.example\r\n"+
		"Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Key: "+sampleKey+"\r\nSec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Version: 13\r\nUpgrade: websocket\r\n"+
		"X-Forwarded-For: 203.0.113.9, 127.0.0.1\r\nX-Forwarded-Host: server.example.com:8080\r\nX-Forwarded-Proto: http\r\nX-Real-Ip: 127.0.0.1\r\n\r\n", raw)
}

func TestByDefaultTheUpstreamLearnsWhatTheRecipeTellsAndNothingElse(t *testing.T) {
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url)
	bothKinds(t, func(t *testing.T, request func(string, ...string) string, header func(http.Header) http.Header) {
		r := u.receives(t, addr, request("/"))
		assert.Equal(t, header(nil), r.Header)
		assert.Equal(t, "server.example.com", r.Host)
	})
}

func TestWithKeepAliveReusesConnectionsForPlainRequests(t *testing.T) {
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url, wsproxy.WithKeepAlive())
	client := dial(t, addr)
	var server *peer
	for range 3 {
		client.send(t, plainGet("/"))
		if server == nil {
			server = u.accept(t)
		}
		raw := server.rawHeader(t)
		assert.NotContains(t, strings.ToLower(raw), "connection:")
		server.send(t, answerOK)
		assert.Equal(t, "ok", body(t, client.answer(t)))
	}
	raw := u.received(t, addr, upgradeGet("/"))
	assert.Contains(t, raw, "\r\nConnection: upgrade\r\n", "upgrades are not concerned, and have a connection of their own")
}

func TestWithoutKeepAliveEachPlainRequestHasAConnectionOfItsOwn(t *testing.T) {
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url)
	client := dial(t, addr)
	for range 3 {
		client.send(t, plainGet("/", "Connection: keep-alive"))
		server := u.accept(t)
		assert.Contains(t, server.rawHeader(t), "\r\nConnection: close\r\n")
		server.send(t, answerOK)
		assert.Equal(t, "ok", body(t, client.answer(t)))
		server.expectEOF(t, "")
	}
}

func TestWithUpgradesReplacesTheListOfProtocols(t *testing.T) {
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url, wsproxy.WithUpgrades("tcp"), wsproxy.WithUpgrades("spdy/3.1", "websocket"))

	// Another protocol is relayed with any method and without RFC 6455's checks.
	client := dial(t, addr)
	client.send(t, "POST /exec HTTP/1.1\r\nHost: a\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n")
	server := u.accept(t)
	r := server.request(t)
	assert.Equal(t, "POST", r.Method)
	assert.Equal(t, []string{"spdy/3.1"}, r.Header["Upgrade"])
	server.send(t, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\n\r\nhello")
	require.Equal(t, http.StatusSwitchingProtocols, client.answer(t).StatusCode)
	client.expect(t, "hello")
	client.send(t, "\x00\xff")
	server.expect(t, "\x00\xff")

	tunnel(t, addr, u)
	r = u.receives(t, addr, plainGet("/", "Upgrade: tcp", "Connection: Upgrade"))
	assert.Empty(t, r.Header["Upgrade"], "the last list given replaces the others")
}

func TestWithUpgradesKeepsTheChecksOfWebSocketHoweverItIsSpelled(t *testing.T) {
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url, wsproxy.WithUpgrades("WebSocket"))
	res, _ := ask(t, addr, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
	assert.Equal(t, http.StatusMethodNotAllowed, res.StatusCode)
	r := u.receives(t, addr, upgradeGet("/", "Connection: Sec-WebSocket-Key"))
	assert.Equal(t, []string{sampleKey}, r.Header["Sec-Websocket-Key"])
}

func TestWithOriginsRefusesOtherOrigins(t *testing.T) {
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url, wsproxy.WithOrigins("evil.example"), wsproxy.WithOrigins("https://good.example", "*.good.example"))
	for _, lines := range [][]string{{"Origin: https://good.example"}, {"Origin: http://a.good.example"}, nil} {
		u.received(t, addr, upgradeGet("/", lines...))
	}
	for _, lines := range [][]string{{"Origin: https://evil.example"}, {"Origin: null"}, {"Origin:"}, {"Origin: https://good.example", "Origin: https://evil.example"}} {
		res, client := ask(t, addr, upgradeGet("/", lines...))
		assert.Equal(t, http.StatusForbidden, res.StatusCode, "%q", lines)
		assert.Contains(t, body(t, res), "origin not allowed")
		client.expectEOF(t, "")
	}
	u.received(t, addr, plainGet("/", "Origin: https://evil.example")) // plain requests are CORS's concern
	assert.Empty(t, u.conns, "a refused upgrade does not reach the upstream")
}

func TestWithHostAndWithTargetHostSayWhichHostIsSent(t *testing.T) {
	u := newUpstream(t)
	for _, test := range []struct {
		name string
		opts []wsproxy.Option
		want string
	}{
		{"WithHost", []wsproxy.Option{wsproxy.WithHost("app.example:8080")}, "app.example:8080"},
		{"WithTargetHost", []wsproxy.Option{wsproxy.WithTargetHost()}, u.addr},
		{"WithHost after WithTargetHost", []wsproxy.Option{wsproxy.WithTargetHost(), wsproxy.WithHost("app.example")}, "app.example"},
		{"WithTargetHost after WithHost", []wsproxy.Option{wsproxy.WithHost("app.example"), wsproxy.WithTargetHost()}, u.addr},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, addr := serveProxy(t, u.url, test.opts...)
			bothKinds(t, func(t *testing.T, request func(string, ...string) string, header func(http.Header) http.Header) {
				r := u.receives(t, addr, request("/"))
				assert.Equal(t, test.want, r.Host)
				assert.Equal(t, header(nil), r.Header, "X-Forwarded-Host stays the client's")
			})
		})
	}
}

func TestWithHeaderSetsRemovesAndWins(t *testing.T) {
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url, wsproxy.WithHeader("X-Set", "first"), wsproxy.WithHeader("Cookie", ""), wsproxy.WithHeader("X-Other", "1"),
		wsproxy.WithHeader("x-set", "last"), wsproxy.WithHeader("X-Forwarded-Proto", "https"), wsproxy.WithHeader("X-Real-IP", ""))
	bothKinds(t, func(t *testing.T, request func(string, ...string) string, header func(http.Header) http.Header) {
		r := u.receives(t, addr, request("/", "X-Set: client", "X-SET: client", "X_Set: alias", "Cookie: a=1", "Connection: X-Set, X-Other", "X-Kept: 1"))
		assert.Equal(t, header(http.Header{"X-Set": {"last"}, "X-Other": {"1"}, "X-Kept": {"1"}, "X-Forwarded-Proto": {"https"}, "X-Real-Ip": nil}), r.Header)
	})
}

func TestWithTrustedProxiesBelievesNamedPeersAlone(t *testing.T) {
	u := newUpstream(t)
	claims := []string{"X-Real-IP: 203.0.113.1", "X-Forwarded-For: 203.0.113.2, 203.0.113.3", "X-Forwarded-For: 10.0.0.1",
		"X-Forwarded-Proto: https", "X-Forwarded-Host: public.example", "X-Forwarded-Port: 443", "Forwarded: for=203.0.113.4"}
	_, trusting := serveProxy(t, u.url, wsproxy.WithTrustedProxies("10.0.0.0/8", "127.0.0.1"))
	_, distrusting := serveProxy(t, u.url, wsproxy.WithTrustedProxies("10.0.0.0/8"))
	bothKinds(t, func(t *testing.T, request func(string, ...string) string, header func(http.Header) http.Header) {
		assert.Equal(t, header(http.Header{"X-Real-Ip": {"203.0.113.3"}, "X-Forwarded-For": {"203.0.113.2, 203.0.113.3, 10.0.0.1, 127.0.0.1"},
			"X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"public.example"}, "X-Forwarded-Port": {"443"}, "Forwarded": {"for=203.0.113.4"}}),
			u.receives(t, trusting, request("/", claims...)).Header)
		assert.Equal(t, header(nil), u.receives(t, distrusting, request("/", claims...)).Header)
	})
}

func TestWithForwardedAddsRFC7239s(t *testing.T) {
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url, wsproxy.WithForwarded())
	bothKinds(t, func(t *testing.T, request func(string, ...string) string, header func(http.Header) http.Header) {
		assert.Equal(t, header(http.Header{"Forwarded": {"for=203.0.113.4, for=127.0.0.1;host=server.example.com;proto=http"}}),
			u.receives(t, addr, request("/", "Forwarded: for=203.0.113.4", "Connection: Forwarded")).Header)
	})
}

func TestWithRewriteRunsLastAndCannotLeadAstray(t *testing.T) {
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url+"/base", wsproxy.WithHeader("X-Set", "option"), wsproxy.WithHost("app.example"),
		wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) {
			pr.Out.Header.Set("X-Saw", pr.Out.Header.Get("X-Set")+" "+pr.Out.Header.Get("X-Real-IP")+" "+pr.Out.Host+" "+pr.Out.URL.Path+" "+pr.In.URL.Path)
			pr.Out.Header.Set("X-Set", "rewrite")
			pr.Out.Header.Del("X-Forwarded-For")
			pr.Out.URL.Scheme, pr.Out.URL.Host = "https", "evil.example:1"
			pr.Out.URL.Path, pr.Out.URL.RawQuery = "/rewritten", "q"
			pr.Out.Host = "rewritten.example"
			if pr.Out.Header.Get("Upgrade") != "" {
				pr.Out.Header.Set("Sec-WebSocket-Key", "bad")
				pr.Out.Header.Del("Sec-WebSocket-Version")
				pr.Out.Header.Set("Upgrade", "h2c")
				pr.Out.Header.Set("Connection", "close")
			}
		}))
	bothKinds(t, func(t *testing.T, request func(string, ...string) string, header func(http.Header) http.Header) {
		r := u.receives(t, addr, request("/path?a"))
		assert.Equal(t, header(http.Header{"X-Saw": {"option 127.0.0.1 app.example /base/path /path"}, "X-Set": {"rewrite"}, "X-Forwarded-For": nil}), r.Header)
		assert.Equal(t, "/rewritten?q", r.RequestURI)
		assert.Equal(t, "rewritten.example", r.Host)
	})
}

func TestWithDialContextConnectsToTheUpstream(t *testing.T) {
	u := newUpstream(t)
	var mu sync.Mutex
	var dialed []string
	dialer := func(ctx context.Context, network, addr string) (net.Conn, error) {
		_, limited := ctx.Deadline()
		mu.Lock()
		defer mu.Unlock()
		dialed = append(dialed, fmt.Sprint(network, " ", addr, " ", limited))
		return new(net.Dialer).DialContext(ctx, "tcp", u.addr)
	}
	for target, want := range map[string]string{
		"http://app.example":           "tcp app.example:80 true",
		"ws://[2001:db8::1]:8080":      "tcp [2001:db8::1]:8080 true",
		"http://unix:/run/app.sock:/x": "unix /run/app.sock true",
	} {
		_, addr := serveProxy(t, target, wsproxy.WithDialContext(dialer))
		bothKinds(t, func(t *testing.T, request func(string, ...string) string, _ func(http.Header) http.Header) {
			u.received(t, addr, request("/"))
			mu.Lock()
			defer mu.Unlock()
			assert.Equal(t, []string{want}, dialed)
			dialed = nil
		})
	}
}

func TestAFailingDialIsABadGatewayThatWrapsItsError(t *testing.T) {
	broken := errors.New("broken")
	errs := make(chan error, 1)
	_, addr := serveProxy(t, "http://app.example",
		wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) { return nil, broken }),
		wsproxy.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, err error) {
			errs <- err
			w.WriteHeader(wsproxy.StatusCode(err))
		}))
	bothKinds(t, func(t *testing.T, request func(string, ...string) string, _ func(http.Header) http.Header) {
		res, _ := ask(t, addr, request("/"))
		assert.Equal(t, http.StatusBadGateway, res.StatusCode)
		err := <-errs
		assert.ErrorIs(t, err, broken)
		assert.ErrorIs(t, err, wsproxy.ErrUpstream)
	})
}

func TestWithPlainHandlerGetsPlainRequestsAsTheyCame(t *testing.T) {
	u := newUpstream(t)
	requests := make(chan *http.Request, 1)
	_, addr := serveProxy(t, u.url+"/base", wsproxy.WithPlainHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests <- r
		w.WriteHeader(http.StatusTeapot)
	})))
	res, _ := ask(t, addr, plainGet("/a%2Fb?x=%zz", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk", "Connection: Upgrade, HTTP2-Settings, X-Hop", "X-Hop: 1", "X-Real-IP: 203.0.113.9"))
	assert.Equal(t, http.StatusTeapot, res.StatusCode)
	r := <-requests
	assert.Equal(t, http.Header{"Connection": {"X-Hop"}, "X-Hop": {"1"}, "X-Real-Ip": {"203.0.113.9"}}, r.Header, "less an upgrade that is not to be forwarded")
	assert.Equal(t, "/a%2Fb?x=%zz", r.RequestURI)
	assert.Equal(t, "/a%2Fb", r.URL.EscapedPath())
	tunnel(t, addr, u)
}

// unixListener listens on a socket whose path is short enough everywhere.
func unixListener(t testing.TB) (net.Listener, string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "ws")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	return l, path
}

func TestPeersAndTargetsMayBeOnUnixSockets(t *testing.T) {
	upstreamListener, upstreamPath := unixListener(t)
	frontListener, frontPath := unixListener(t)
	requests := make(chan *http.Request, 1)
	upstream := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { requests <- r })}
	p := newProxy(t, "http://unix:"+upstreamPath+":/base?k=1", wsproxy.WithTrustedProxies("unix:"), wsproxy.WithForwarded())
	targetHost := newProxy(t, "http://unix:"+upstreamPath, wsproxy.WithTargetHost())
	mux := http.NewServeMux()
	mux.Handle("/", p)
	mux.Handle("/host/", targetHost)
	front := &http.Server{Handler: mux, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)}
	for server, l := range map[*http.Server]net.Listener{upstream: upstreamListener, front: frontListener} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			server.Serve(l)
		}()
		t.Cleanup(func() {
			server.Close()
			<-done
		})
	}
	send := func(t *testing.T, request string) *http.Request {
		conn, err := net.Dial("unix", frontPath)
		require.NoError(t, err)
		defer conn.Close()
		client := newPeer(conn)
		client.send(t, request)
		require.Equal(t, http.StatusOK, client.answer(t).StatusCode)
		return <-requests
	}
	bothKinds(t, func(t *testing.T, request func(string, ...string) string, header func(http.Header) http.Header) {
		r := send(t, request("/a%2Fb?x", "X-Forwarded-For: 203.0.113.2, 203.0.113.3", "X-Forwarded-Proto: https"))
		assert.Equal(t, header(http.Header{"X-Real-Ip": {"203.0.113.3"}, "X-Forwarded-For": {"203.0.113.2, 203.0.113.3, unknown"},
			"X-Forwarded-Proto": {"https"}, "Forwarded": {"for=unknown;host=server.example.com;proto=http"}}), r.Header)
		assert.Equal(t, "/base/a%2Fb?k=1&x", r.RequestURI)
		assert.Equal(t, "server.example.com", r.Host)

		r = send(t, request("/host/", "X-Real-IP: 203.0.113.2"))
		assert.Equal(t, header(http.Header{"X-Real-Ip": nil, "X-Forwarded-For": {"unknown"}}), r.Header, "not named, not trusted")
		assert.Equal(t, "localhost", r.Host)
	})
}
