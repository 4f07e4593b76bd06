package plain_test

import (
	"io"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

// net/http restarts its limit on the response header at each forwarded 1xx: 363
// MB of 103s crossed the proxy in 2 s. The limit of the handshake is tested by
// TestAnEndlessHeaderIsRefusedEarly.
func TestInformationalResponsesCountTowardTheHeaderLimit(t *testing.T) {
	for name, opts := range map[string][]wsproxy.Option{"": nil, "kept alive": {wsproxy.WithKeepAlive()}} {
		t.Run(name, func(t *testing.T) {
			const hint = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
			u := testkit.NewUpstream(t)
			sent := make(chan int, 10)
			u.Script(func(server *testkit.Peer) {
				server.RawHeader(t)
				n := 0
				for err := error(nil); err == nil && n < 100<<20; {
					var m int
					server.SetDeadline(time.Now().Add(testkit.Patience))
					m, err = io.WriteString(server, strings.Repeat(hint, 1000))
					n += m
				}
				sent <- n
			})
			errs := testkit.NewFailures()
			_, addr := testkit.ServeProxy(t, u.URL, append(opts, errs.Option())...)
			client := testkit.Dial(t, addr)
			client.Send(t, testkit.PlainRequest)
			res := client.Response(t)
			hints := 0
			for ; res.StatusCode == 103; hints++ {
				client.SetDeadline(time.Now().Add(testkit.Patience))
				res = client.Response(t)
			}
			assert.Equal(t, 502, res.StatusCode)
			assert.LessOrEqual(t, hints*len(hint), 1<<20+8<<10, "bytes of informational responses")
			assert.Less(t, <-sent, 50<<20, "bytes taken from the upstream")
			err := errs.Next(t).Err
			assert.ErrorIs(t, err, wsproxy.ErrUpstream)
			assert.ErrorContains(t, err, "larger than")
		})
	}
}

// The limit applies to the header of each response.
func TestTheHeaderLimitDoesNotApplyToBodiesOrConnections(t *testing.T) {
	hints := strings.Repeat("HTTP/1.1 103 Early Hints\r\nX: "+strings.Repeat("x", 9000)+"\r\n\r\n", 100)
	u := testkit.NewUpstream(t)
	u.Script(func(server *testkit.Peer) {
		for range 3 {
			server.RawHeader(t)
			io.WriteString(server, hints+"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n")
			io.CopyN(server.Conn, testkit.Zeros{}, 3_000_000)
		}
	})
	_, addr := testkit.ServeProxy(t, u.URL, wsproxy.WithKeepAlive())
	client := testkit.Dial(t, addr)
	for range 3 {
		client.Send(t, testkit.PlainRequest)
		res := client.Response(t)
		for res.StatusCode == 103 {
			res = client.Response(t)
		}
		assert.Equal(t, 200, res.StatusCode)
		assert.Len(t, testkit.Body(t, res), 3_000_000)
	}
}
