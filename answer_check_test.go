package wsproxy_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// switchWith returns the sample 101 with one part of it replaced.
func switchWith(t testing.TB, old, replacement string) string {
	t.Helper()
	require.Contains(t, sampleSwitch, old)
	return strings.Replace(sampleSwitch, old, replacement, 1)
}

// expectFailure checks that the client got the status and no more than its
// text, which tells nothing of the upstream, and that the handler got kind.
func expectFailure(t *testing.T, c *peer, u *upstream, status int) {
	t.Helper()
	res := c.answer(t)
	assert.Equal(t, status, res.StatusCode)
	text := body(t, res)
	assert.Equal(t, http.StatusText(status)+"\n", text)
	all := fmt.Sprint(res.Header) + text
	host, port, _ := net.SplitHostPort(u.addr)
	assert.NotContains(t, all, host, "the client is told the upstream's address")
	assert.NotContains(t, all, port, "the client is told the upstream's port")
}

// CVE-2018-1002105: a tunnel stood although the upstream had not switched.
func TestAnAnswerThatIsNoSwitchNeverMakesATunnel(t *testing.T) {
	for _, c := range []struct {
		name, answer, says string
		closes             bool // the upstream closes after answer
	}{
		{"garbage", "SSH-2.0-OpenSSH_9.6\r\n", "SSH-2.0", false},
		{"half a status line", "HTTP/1.1 10", "EOF", true},
		{"half a header", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: web", "unexpected EOF", true},
		{"nothing", "", "EOF", true},
		{"a status of two digits", "HTTP/1.1 10 Switching Protocols\r\n\r\n", "10", false},
		{"a status below 100", "HTTP/1.1 099 Switching Protocols\r\n\r\n", "99", false},
		{"a header that is none", "HTTP/1.1 101 Switching Protocols\r\nnonsense\r\n\r\n", "nonsense", false},
		{"no accept", switchWith(t, "Sec-WebSocket-Accept: "+sampleAccept+"\r\n", ""), "Sec-WebSocket-Accept", false},
		{"a wrong accept", switchWith(t, sampleAccept, "AAAAAAAAAAAAAAAAAAAAAAAAAAA="), `"AAAAAAAAAAAAAAAAAAAAAAAAAAA="`, false},
		{"an accept in another case", switchWith(t, sampleAccept, strings.ToUpper(sampleAccept)), strings.ToUpper(sampleAccept), false},
		{"two accepts", switchWith(t, "Upgrade: websocket\r\n", "Upgrade: websocket\r\nSec-WebSocket-Accept: "+sampleAccept+"\r\n"), "Sec-WebSocket-Accept", false},
		{"another protocol", switchWith(t, "websocket", "h2c"), `"h2c"`, false},
		{"several protocols", switchWith(t, "websocket", "websocket, h2c"), `"websocket, h2c"`, false},
		{"no protocol", switchWith(t, "Upgrade: websocket\r\n", ""), `want "websocket"`, false},
		// RFC 6455, section 4.1: the client must fail the connection.
		{"no Connection", switchWith(t, "Connection: Upgrade\r\n", ""), `Connection "", want "Upgrade"`, false},
		{"another Connection", switchWith(t, "Connection: Upgrade", "Connection: keep-alive, upgraded"), `Connection "keep-alive, upgraded"`, false},
		{"a Connection that closes", switchWith(t, "Connection: Upgrade", "Connection: Upgrade, Close"), `Connection "close", want "Upgrade"`, false},
		{"a Connection that closes in another line", switchWith(t, "Connection: Upgrade", "Connection: close\r\nConnection: Upgrade"), `Connection "close", want "Upgrade"`, false},
		{"a switch in HTTP/1.0", switchWith(t, "HTTP/1.1", "HTTP/1.0"), `"HTTP/1.0"`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := newUpstream(t)
			answer := func(server *peer) {
				server.request(t)
				server.send(t, c.answer)
				if c.closes {
					server.Close()
				}
			}
			p, addr := serveProxy(t, u.url)
			client := dial(t, addr)
			client.send(t, sampleRequest+"early")
			server := u.accept(t)
			answer(server)
			expectFailure(t, client, u, 502)
			assert.Empty(t, client.gone(t, "the client's"), "bytes after the answer")
			if !c.closes {
				assert.Empty(t, server.gone(t, "the upstream's"), "early bytes reached an upstream that did not switch")
			}
			assert.Equal(t, wsproxy.Stats{}, p.Stats())

			errs := newFailures()
			_, addr = serveProxy(t, u.url, errs.option())
			client = dial(t, addr)
			client.send(t, sampleRequest)
			answer(u.accept(t))
			err := errs.next(t).err
			assert.ErrorIs(t, err, wsproxy.ErrUpstream)
			assert.Equal(t, 502, wsproxy.StatusCode(err))
			assert.ErrorContains(t, err, c.says)
		})
	}
}

func TestASwitchThatNobodyAskedForIsRefused(t *testing.T) {
	for name, answer := range map[string]string{
		"to websocket":           sampleSwitch,
		"to nothing":             "HTTP/1.1 101 Switching Protocols\r\n\r\n",
		"to h2c":                 "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
		"with Connection: close": "HTTP/1.1 101 Switching Protocols\r\nConnection: close\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			for _, request := range []string{
				"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n",
				"GET / HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
			} {
				errs := newFailures()
				_, addr := serveProxy(t, u.url, errs.option(), wsproxy.WithKeepAlive())
				client := dial(t, addr)
				client.send(t, request)
				server := u.accept(t)
				server.request(t)
				server.send(t, answer)
				assert.Equal(t, 502, client.answer(t).StatusCode)
				assert.Empty(t, server.gone(t, "the upstream's"))
				err := errs.next(t).err
				assert.ErrorIs(t, err, wsproxy.ErrUpstream)
				assert.ErrorContains(t, err, "101")
			}
		})
	}
}

func TestAnUpstreamThatIsDownIsABadGateway(t *testing.T) {
	u := &upstream{addr: refusing(t)}
	p, addr := serveProxy(t, "http://"+u.addr)
	client := dial(t, addr)
	client.send(t, sampleRequest)
	expectFailure(t, client, u, 502)
	assert.Empty(t, client.gone(t, "the client's"))
	assert.Equal(t, wsproxy.Stats{}, p.Stats())

	errs := newFailures()
	_, addr = serveProxy(t, "http://"+u.addr, errs.option())
	ask(t, addr, sampleRequest)
	err := errs.next(t).err
	assert.ErrorIs(t, err, wsproxy.ErrUpstream)
	var dialing *net.OpError
	assert.ErrorAs(t, err, &dialing, "the dial's own error is not wrapped")
	assert.ErrorContains(t, err, u.addr, "the operator is not told which upstream")
}

func TestAnUpstreamThatHangsIsAGatewayTimeout(t *testing.T) {
	for name, part := range map[string]string{
		"before its answer":            "",
		"in its status line":           "HTTP/1.1 1",
		"in its header":                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: webs",
		"after an informational":       "HTTP/1.1 103 Early Hints\r\n\r\n",
		"in the header of a refusal":   "HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n",
		"before the end of the header": strings.TrimSuffix(sampleSwitch, "\n"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := &upstream{addr: "upstream.example:3000"}
				r := newMemRigTo(t, "http://"+u.addr, nil, wsproxy.WithReadTimeout(5*time.Second))
				client := r.ask(t)
				server := <-r.upstreams
				server.request(t)
				start := time.Now()
				server.send(t, part)
				if strings.Contains(part, "103") {
					require.Equal(t, 103, client.answer(t).StatusCode)
				}
				expectFailure(t, client, u, 504)
				assert.Equal(t, 5*time.Second, time.Since(start), "the answer comes after")
				assert.Empty(t, client.gone(t, "the client's"))
				assert.Empty(t, server.gone(t, "the upstream's"))
				assert.Equal(t, wsproxy.Stats{}, r.p.Stats())

				errs := newFailures()
				r = newMemRigTo(t, "http://"+u.addr, nil, wsproxy.WithReadTimeout(5*time.Second), errs.option())
				r.ask(t)
				(<-r.upstreams).send(t, part)
				err := errs.next(t).err
				assert.ErrorIs(t, err, wsproxy.ErrUpstreamTimeout)
				assert.NotErrorIs(t, err, wsproxy.ErrUpstream)
				assert.ErrorContains(t, err, u.addr, "the operator is not told which upstream")
			})
		})
	}
}

func TestAHeaderWithoutEndIsCutSoon(t *testing.T) {
	for name, part := range map[string]string{
		"of long lines":    "X-Long: " + strings.Repeat("x", 8000) + "\r\n",
		"of short lines":   strings.Repeat("A: b\r\n", 1000),
		"of one line":      strings.Repeat("x", 8000),
		"of folded lines":  " " + strings.Repeat("x", 8000) + "\r\n",
		"of empty hints":   strings.Repeat("\r\n\r\nHTTP/1.1 103 Early Hints", 100),
		"of endless hints": strings.Repeat("Link: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\n", 100),
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			sent := make(chan int, 10)
			u.script(func(server *peer) {
				n, _ := io.WriteString(server, "HTTP/1.1 103 Early Hints\r\nX-A: ")
				for err := error(nil); err == nil && n < 100<<20; {
					var m int
					server.SetDeadline(time.Now().Add(patience))
					m, err = io.WriteString(server, part)
					n += m
				}
				sent <- n
			})
			errs := newFailures()
			p, addr := serveProxy(t, u.url, errs.option())
			client := dial(t, addr)
			client.send(t, sampleRequest)
			res := client.answer(t)
			hints := 0
			for ; res.StatusCode == 103; hints++ {
				client.SetDeadline(time.Now().Add(patience))
				res = client.answer(t)
			}
			assert.Equal(t, 502, res.StatusCode)
			assert.Less(t, hints, 50_000, "informational answers passed on")
			assert.Less(t, <-sent, 50<<20, "bytes taken from the upstream")
			err := errs.next(t).err
			assert.ErrorIs(t, err, wsproxy.ErrUpstream)
			assert.ErrorContains(t, err, "larger than")
			assert.Equal(t, wsproxy.Stats{}, p.Stats())
		})
	}
}

func TestInformationalAnswersArePassedOn(t *testing.T) {
	u := newUpstream(t)
	p := newProxy(t, u.url)
	addr := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Middleware", "here")
		p.ServeHTTP(w, r)
	}))
	client := dial(t, addr)
	client.send(t, sampleRequest)
	server := u.accept(t)
	server.request(t)
	for range 100 {
		server.send(t, "HTTP/1.1 100 Continue\r\n\r\n")
	}
	server.send(t, "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nLink: </b.js>\r\n"+
		"Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\r\n"+sampleSwitch)
	for range 100 {
		res := client.answer(t)
		require.Equal(t, 100, res.StatusCode)
		require.Empty(t, res.Header)
	}
	res := client.answer(t)
	assert.Equal(t, 103, res.StatusCode)
	assert.Equal(t, http.Header{"Link": {"</a.css>; rel=preload", "</b.js>"}}, res.Header)
	res = client.answer(t)
	assert.Equal(t, 101, res.StatusCode)
	assert.Equal(t, []string{"here"}, res.Header["X-Middleware"], "a field that middleware set is lost")
	assert.Empty(t, res.Header["Link"], "a field of an informational answer in the final one")
	server.send(t, "bytes")
	client.expect(t, "bytes")
}

func TestTheSwitchCarriesNothingHopByHop(t *testing.T) {
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url)
	client := dial(t, addr)
	client.send(t, sampleRequest)
	server := u.accept(t)
	server.request(t)
	server.send(t, switchWith(t, "Connection: Upgrade", "connection: keep-alive, UPGRADE, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n"+
		"Proxy-Authenticate: Basic\r\nTrailer: X\r\nTE: trailers\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n"+
		"Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: permessage-deflate\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-End: kept")+"glued")
	assert.Equal(t, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: "+sampleAccept+"\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"+
		"Sec-WebSocket-Protocol: chat\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-End: kept\r\n\r\n", client.rawHeader(t))
	client.expect(t, "glued")
}

// net/http reads such a line and never writes one.
func TestTheSwitchCarriesNoFieldThatIsNotLegal(t *testing.T) {
	for _, line := range []string{"X Y: 1", "Connection : X-End", "Transfer-Encoding : chunked", "X-A: a\rX-Injected: 1"} {
		t.Run(line, func(t *testing.T) {
			u := newUpstream(t)
			_, addr := serveProxy(t, u.url)
			client := dial(t, addr)
			client.send(t, sampleRequest)
			server := u.accept(t)
			server.request(t)
			server.send(t, switchWith(t, "Connection: Upgrade", "Connection: Upgrade\r\n"+line))
			header := client.rawHeader(t)
			assert.NotContains(t, header, line)
			assert.NotContains(t, strings.ReplaceAll(header, "\r\n", ""), "\r")
		})
	}
}

func TestAModifiedSwitchIsWhatTheClientGets(t *testing.T) {
	u := newUpstream(t)
	broken := errors.New("broken rule")
	errs := newFailures()
	_, addr := serveProxy(t, u.url, errs.option(), wsproxy.WithModifyResponse(func(res *http.Response) error {
		switch res.Header.Get("X-Do") {
		case "fail":
			return broken
		case "status":
			res.StatusCode = 200
		}
		res.Header.Set("X-Modified", "1")
		res.Header.Set("Connection", "X-End")
		res.Body = io.NopCloser(bytes.NewReader([]byte("no body")))
		return nil
	}))
	for do, status := range map[string]int{"pass": 101, "fail": 502, "status": 502} {
		client := dial(t, addr)
		client.send(t, sampleRequest)
		server := u.accept(t)
		server.request(t)
		server.send(t, switchWith(t, "Upgrade: websocket", "Upgrade: websocket\r\nX-Do: "+do))
		res := client.answer(t)
		require.Equal(t, status, res.StatusCode, "for %s", do)
		if do == "pass" {
			assert.Equal(t, []string{"1"}, res.Header["X-Modified"])
			server.send(t, "next")
			client.expect(t, "next")
			continue
		}
		err := errs.next(t).err
		assert.ErrorIs(t, err, wsproxy.ErrUpstream)
		assert.Equal(t, do == "fail", errors.Is(err, broken))
		assert.Empty(t, client.gone(t, "the client's"))
		assert.Empty(t, server.gone(t, "the upstream's"))
	}
}
