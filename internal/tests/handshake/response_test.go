package handshake_test

import (
	"io"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

// CVE-2018-1002105: a tunnel was opened although the upstream had not switched.
func TestOnlyAValid101OpensATunnel(t *testing.T) {
	for _, c := range []struct {
		name, response, says string
		closes               bool // the upstream closes after its response
	}{
		{"garbage", "SSH-2.0-OpenSSH_9.6\r\n", "SSH-2.0", false},
		{"half a status line", "HTTP/1.1 10", "EOF", true},
		{"half a header", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: web", "unexpected EOF", true},
		{"nothing", "", "EOF", true},
		{"a status of two digits", "HTTP/1.1 10 Switching Protocols\r\n\r\n", "10", false},
		{"a status below 100", "HTTP/1.1 099 Switching Protocols\r\n\r\n", "99", false},
		{"a malformed header line", "HTTP/1.1 101 Switching Protocols\r\nnonsense\r\n\r\n", "nonsense", false},
		{"no accept", testkit.SampleSwitchWith(t, "Sec-WebSocket-Accept: "+testkit.SampleAccept+"\r\n", ""), "Sec-WebSocket-Accept", false},
		{"a wrong accept", testkit.SampleSwitchWith(t, testkit.SampleAccept, "AAAAAAAAAAAAAAAAAAAAAAAAAAA="), `"AAAAAAAAAAAAAAAAAAAAAAAAAAA="`, false},
		{"an accept in another case", testkit.SampleSwitchWith(t, testkit.SampleAccept, strings.ToUpper(testkit.SampleAccept)), strings.ToUpper(testkit.SampleAccept), false},
		{"two accepts", testkit.SampleSwitchWith(t, "Upgrade: websocket\r\n", "Upgrade: websocket\r\nSec-WebSocket-Accept: "+testkit.SampleAccept+"\r\n"), "Sec-WebSocket-Accept", false},
		{"another protocol", testkit.SampleSwitchWith(t, "websocket", "h2c"), `"h2c"`, false},
		{"several protocols", testkit.SampleSwitchWith(t, "websocket", "websocket, h2c"), `"websocket, h2c"`, false},
		{"no protocol", testkit.SampleSwitchWith(t, "Upgrade: websocket\r\n", ""), `want "websocket"`, false},
		// RFC 6455, section 4.1: the client must fail the connection.
		{"no Connection", testkit.SampleSwitchWith(t, "Connection: Upgrade\r\n", ""), `Connection "", want "Upgrade"`, false},
		{"another Connection", testkit.SampleSwitchWith(t, "Connection: Upgrade", "Connection: keep-alive, upgraded"), `Connection "keep-alive, upgraded"`, false},
		{"a Connection that closes", testkit.SampleSwitchWith(t, "Connection: Upgrade", "Connection: Upgrade, Close"), `Connection "close", want "Upgrade"`, false},
		{"a Connection that closes in another line", testkit.SampleSwitchWith(t, "Connection: Upgrade", "Connection: close\r\nConnection: Upgrade"), `Connection "close", want "Upgrade"`, false},
		{"a switch in HTTP/1.0", testkit.SampleSwitchWith(t, "HTTP/1.1", "HTTP/1.0"), `"HTTP/1.0"`, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := testkit.NewUpstream(t)
			response := func(server *testkit.Peer) {
				server.Request(t)
				server.Send(t, c.response)
				if c.closes {
					server.Close()
				}
			}
			p, addr := testkit.ServeProxy(t, u.URL)
			client := testkit.Dial(t, addr)
			client.Send(t, testkit.SampleRequest+"early")
			server := u.Accept(t)
			response(server)
			testkit.WantFailure(t, client, u, 502)
			assert.Empty(t, client.Rest(t, "the client's"), "bytes after the response")
			if !c.closes {
				assert.Empty(t, server.Rest(t, "the upstream's"), "early bytes reached an upstream that did not switch")
			}
			assert.Equal(t, testkit.Counts{}, testkit.Counted(p))

			errs := testkit.NewFailures()
			_, addr = testkit.ServeProxy(t, u.URL, errs.Option())
			client = testkit.Dial(t, addr)
			client.Send(t, testkit.SampleRequest)
			response(u.Accept(t))
			err := errs.Next(t).Err
			assert.ErrorIs(t, err, wsproxy.ErrUpstream)
			assert.Equal(t, 502, wsproxy.StatusCode(err))
			assert.ErrorContains(t, err, c.says)
		})
	}
}

func TestAnEndlessHeaderIsRefusedEarly(t *testing.T) {
	t.Parallel()
	for name, part := range map[string]string{
		"of long lines":    "X-Long: " + strings.Repeat("x", 8000) + "\r\n",
		"of short lines":   strings.Repeat("A: b\r\n", 1000),
		"of one line":      strings.Repeat("x", 8000),
		"of folded lines":  " " + strings.Repeat("x", 8000) + "\r\n",
		"of empty hints":   strings.Repeat("\r\n\r\nHTTP/1.1 103 Early Hints", 100),
		"of endless hints": strings.Repeat("Link: </a>\r\n\r\nHTTP/1.1 103 Early Hints\r\n", 100),
	} {
		t.Run(name, func(t *testing.T) {
			u := testkit.NewUpstream(t)
			sent := make(chan int, 10)
			u.Script(func(server *testkit.Peer) {
				n, _ := io.WriteString(server, "HTTP/1.1 103 Early Hints\r\nX-A: ")
				for err := error(nil); err == nil && n < 100<<20; {
					var m int
					server.SetDeadline(time.Now().Add(testkit.Patience))
					m, err = io.WriteString(server, part)
					n += m
				}
				sent <- n
			})
			errs := testkit.NewFailures()
			p, addr := testkit.ServeProxy(t, u.URL, errs.Option())
			client := testkit.Dial(t, addr)
			client.Send(t, testkit.SampleRequest)
			res := client.Response(t)
			hints := 0
			for ; res.StatusCode == 103; hints++ {
				client.SetDeadline(time.Now().Add(testkit.Patience))
				res = client.Response(t)
			}
			assert.Equal(t, 502, res.StatusCode)
			assert.Less(t, hints, 50_000, "informational responses forwarded")
			assert.Less(t, <-sent, 50<<20, "bytes taken from the upstream")
			err := errs.Next(t).Err
			assert.ErrorIs(t, err, wsproxy.ErrUpstream)
			assert.ErrorContains(t, err, "larger than")
			assert.Equal(t, testkit.Counts{}, testkit.Counted(p))
		})
	}
}
