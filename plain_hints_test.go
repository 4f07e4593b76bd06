package wsproxy_test

import (
	"io"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
)

// net/http's limit of a response's header begins anew with each 1xx that is
// passed on: 363 MB of 103s crossed the proxy in 2 s. The handshake's limit is
// tested by TestAHeaderWithoutEndIsCutSoon.
func TestInformationalResponsesCountTowardTheLimitOfTheHeader(t *testing.T) {
	for name, opts := range map[string][]wsproxy.Option{"": nil, "kept alive": {wsproxy.WithKeepAlive()}} {
		t.Run(name, func(t *testing.T) {
			const hint = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
			u := newUpstream(t)
			sent := make(chan int, 10)
			u.script(func(server *peer) {
				server.rawHeader(t)
				n := 0
				for err := error(nil); err == nil && n < 100<<20; {
					var m int
					server.SetDeadline(time.Now().Add(patience))
					m, err = io.WriteString(server, strings.Repeat(hint, 1000))
					n += m
				}
				sent <- n
			})
			errs := newFailures()
			_, addr := serveProxy(t, u.url, append(opts, errs.option())...)
			client := dial(t, addr)
			client.send(t, plainRequest)
			res := client.answer(t)
			hints := 0
			for ; res.StatusCode == 103; hints++ {
				client.SetDeadline(time.Now().Add(patience))
				res = client.answer(t)
			}
			assert.Equal(t, 502, res.StatusCode)
			assert.LessOrEqual(t, hints*len(hint), 1<<20+8<<10, "bytes of informational responses")
			assert.Less(t, <-sent, 50<<20, "bytes taken from the upstream")
			err := errs.next(t).err
			assert.ErrorIs(t, err, wsproxy.ErrUpstream)
			assert.ErrorContains(t, err, "larger than")
		})
	}
}

// The limit is the header's, of each response.
func TestTheLimitOfTheHeaderIsNotThatOfBodiesOrConnections(t *testing.T) {
	hints := strings.Repeat("HTTP/1.1 103 Early Hints\r\nX: "+strings.Repeat("x", 9000)+"\r\n\r\n", 100)
	u := newUpstream(t)
	u.script(func(server *peer) {
		for range 3 {
			server.rawHeader(t)
			io.WriteString(server, hints+"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n")
			io.CopyN(server.Conn, zeros{}, 3_000_000)
		}
	})
	_, addr := serveProxy(t, u.url, wsproxy.WithKeepAlive())
	client := dial(t, addr)
	for range 3 {
		client.send(t, plainRequest)
		res := client.answer(t)
		for res.StatusCode == 103 {
			res = client.answer(t)
		}
		assert.Equal(t, 200, res.StatusCode)
		assert.Len(t, body(t, res), 3_000_000)
	}
}
