package plain_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTunnelsAndPlainRequestsShareNoConnection(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL, wsproxy.WithKeepAlive())
	plain := testkit.Dial(t, addr)
	plain.Send(t, testkit.PlainGet("/1"))
	kept := u.Accept(t)
	kept.Request(t)
	kept.Send(t, testkit.ResponseOK)
	io.Copy(io.Discard, plain.Response(t).Body)

	client, server := testkit.Tunnel(t, addr, u) // a new connection
	client.Send(t, "bytes")
	server.Expect(t, "bytes")
	require.NoError(t, client.CloseWrite())
	server.ExpectEOF(t, "")

	plain.Send(t, testkit.PlainGet("/2"))
	assert.Equal(t, "/2", kept.Request(t).RequestURI)
	kept.Send(t, testkit.ResponseOK)
	assert.Equal(t, 200, plain.Response(t).StatusCode)
}

func TestPlainRequestsReuseTheirConnectionOnlyWithKeepAlive(t *testing.T) {
	for name, c := range map[string]struct {
		opts        []wsproxy.Option
		connections int
	}{"by default": {nil, 3}, "with keep-alive": {[]wsproxy.Option{wsproxy.WithKeepAlive()}, 1}} {
		t.Run(name, func(t *testing.T) {
			u := testkit.NewUpstream(t)
			used := make(chan struct{}, 10)
			u.Script(func(server *testkit.Peer) {
				used <- struct{}{}
				for {
					if _, err := http.ReadRequest(server.Reader); err != nil {
						return
					}
					io.WriteString(server, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				}
			})
			_, addr := testkit.ServeProxy(t, u.URL, c.opts...)
			client := testkit.Dial(t, addr)
			for range 3 {
				client.Send(t, testkit.PlainRequest)
				require.Equal(t, "ok", testkit.Body(t, client.Response(t)))
			}
			assert.Len(t, used, c.connections)
		})
	}
}

// When a request is canceled, the Transport keeps dialing in the background and
// saves the connection for the next request. Without keep-alive no request can
// use it.
func TestAConnectionDialedTooLateIsClosed(t *testing.T) {
	u := testkit.NewUpstream(t)
	errs := testkit.NewFailures()
	dialing, left := make(chan struct{}), make(chan struct{})
	_, addr := testkit.ServeProxy(t, u.URL, errs.Option(), wsproxy.WithDialContext(func(_ context.Context, network, addr string) (net.Conn, error) {
		close(dialing)
		<-left
		return net.Dial(network, addr)
	}))
	client := testkit.Dial(t, addr)
	client.Send(t, testkit.PlainRequest)
	<-dialing
	client.Close()
	errs.Next(t)
	close(left)
	assert.Empty(t, u.Accept(t).Rest(t, "the upstream's"))
}
