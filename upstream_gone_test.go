package wsproxy_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The Transport waits for a Read of the request's body before it says that the
// connection is gone (golang/go#78973): the client got its 502 with the next
// byte of its own.
func TestAnUpstreamThatGoesAwayWhileTheBodyStallsIsA502AtOnce(t *testing.T) {
	for name, leave := range map[string]func(server *peer){
		"in order":  func(server *peer) { server.Close() },
		"by reset":  func(server *peer) { server.reset() },
		"half-open": func(server *peer) { server.CloseWrite() },
	} {
		for body, request := range map[string]string{"by its length": stalledPost, "in chunks": stalledChunks} {
			for kept, opts := range map[string][]wsproxy.Option{"": nil, ", kept alive": {wsproxy.WithKeepAlive()}} {
				t.Run(name+", "+body+kept, func(t *testing.T) {
					errs := newFailures()
					u := newUpstream(t)
					_, addr := serveProxy(t, u.url, append(opts, errs.option(), wsproxy.WithBodyTimeout(0))...)
					client := dial(t, addr)
					client.send(t, request)
					server := u.accept(t)
					server.rawHeader(t)
					server.expectBody(t, request)
					leave(server)
					res := client.answer(t)
					assert.Equal(t, http.StatusBadGateway, res.StatusCode)
					assert.True(t, res.Close)
					err := errs.next(t).err
					assert.ErrorIs(t, err, wsproxy.ErrUpstream)
					assert.ErrorContains(t, err, u.addr, "the operator is not told which server")
				})
			}
		}
	}
}

func TestAResponseThatIsWholeIsNoUpstreamThatGoesAway(t *testing.T) {
	for name, answer := range map[string]string{
		"with a body":     "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig",
		"to the end":      "HTTP/1.1 413 Too Large\r\n\r\nbig",
		"without a body":  "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n",
		"with a trailer":  "HTTP/1.1 413 Too Large\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nbig\r\n0\r\nX-Sum: 1\r\n\r\n",
		"after some 103s": strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 3) + "HTTP/1.1 413 Too Large\r\n\r\nbig",
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			_, addr := serveProxy(t, u.url, wsproxy.WithBodyTimeout(0))
			client := dial(t, addr)
			client.send(t, stalledPost)
			server := u.accept(t)
			server.rawHeader(t)
			server.expectBody(t, stalledPost)
			server.send(t, answer)
			server.Close()
			res := client.answer(t)
			for res.StatusCode == http.StatusEarlyHints {
				res = client.answer(t)
			}
			assert.Equal(t, http.StatusRequestEntityTooLarge, res.StatusCode)
			_, err := io.ReadAll(res.Body)
			require.NoError(t, err)
		})
	}
}
