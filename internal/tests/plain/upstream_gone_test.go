package plain_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The Transport waits for a Read of the request's body before it reports that
// the connection is closed (golang/go#78973). The client got its 502 only after
// it sent another byte.
func TestAnUpstreamThatDisconnectsDuringAStalledUploadCauses502AtOnce(t *testing.T) {
	for name, leave := range map[string]func(server *testkit.Peer){
		"in order":  func(server *testkit.Peer) { server.Close() },
		"by reset":  func(server *testkit.Peer) { server.Reset() },
		"half-open": func(server *testkit.Peer) { server.CloseWrite() },
	} {
		for body, request := range map[string]string{"by its length": stalledPost, "in chunks": stalledChunks} {
			for kept, opts := range map[string][]wsproxy.Option{"": nil, ", kept alive": {wsproxy.WithKeepAlive()}} {
				t.Run(name+", "+body+kept, func(t *testing.T) {
					errs := testkit.NewFailures()
					u := testkit.NewUpstream(t)
					_, addr := testkit.ServeProxy(t, u.URL, append(opts, errs.Option(), wsproxy.WithBodyTimeout(0))...)
					client := testkit.Dial(t, addr)
					client.Send(t, request)
					server := u.Accept(t)
					server.RawHeader(t)
					expectBody(t, server, request)
					leave(server)
					res := client.Response(t)
					assert.Equal(t, http.StatusBadGateway, res.StatusCode)
					assert.True(t, res.Close)
					err := errs.Next(t).Err
					assert.ErrorIs(t, err, wsproxy.ErrUpstream)
					assert.ErrorContains(t, err, u.Addr, "the error does not name the server")
				})
			}
		}
	}
}

func TestACompleteResponseIsForwardedWhenTheUpstreamDisconnects(t *testing.T) {
	for name, response := range map[string]string{
		"with a body":     "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig",
		"to the end":      "HTTP/1.1 413 Too Large\r\n\r\nbig",
		"without a body":  "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n",
		"with a trailer":  "HTTP/1.1 413 Too Large\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n3\r\nbig\r\n0\r\nX-Sum: 1\r\n\r\n",
		"after some 103s": strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", 3) + "HTTP/1.1 413 Too Large\r\n\r\nbig",
	} {
		t.Run(name, func(t *testing.T) {
			u := testkit.NewUpstream(t)
			_, addr := testkit.ServeProxy(t, u.URL, wsproxy.WithBodyTimeout(0))
			client := testkit.Dial(t, addr)
			client.Send(t, stalledPost)
			server := u.Accept(t)
			server.RawHeader(t)
			expectBody(t, server, stalledPost)
			server.Send(t, response)
			server.Close()
			res := client.Response(t)
			for res.StatusCode == http.StatusEarlyHints {
				res = client.Response(t)
			}
			assert.Equal(t, http.StatusRequestEntityTooLarge, res.StatusCode)
			_, err := io.ReadAll(res.Body)
			require.NoError(t, err)
		})
	}
}
