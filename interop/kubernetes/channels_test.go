package kubernetes_test

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	coder "github.com/coder/websocket"
	gorilla "github.com/gorilla/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	xnet "golang.org/x/net/websocket"
)

// Channels of the protocols of remote commands: the first byte of a message.
const (
	stdin = iota
	stdout
	stderr
	failure
	resize
	closed = 255 // v5: the channel that the second byte names is half-closed
)

// apiserver speaks the protocols with golang.org/x/net/websocket, as the API
// server does.
func apiserver(serve func(c *xnet.Conn)) http.Handler {
	return xnet.Server{
		Handshake: func(config *xnet.Config, r *http.Request) error {
			for _, own := range []string{"v5.channel.k8s.io", "v4.base64.channel.k8s.io"} {
				if slices.Contains(config.Protocol, own) {
					config.Protocol = []string{own}
					return nil
				}
			}
			return xnet.ErrBadWebSocketProtocol
		},
		Handler: func(c *xnet.Conn) {
			c.SetDeadline(time.Now().Add(testkit.Patience))
			serve(c)
		},
	}
}

// kubectl opens a WebSocket with gorilla/websocket, as client-go does. Its
// buffers hold a whole message, because golang.org/x/net/websocket treats each
// fragment as a message.
func (f *front) kubectl(t *testing.T, protocols ...string) *gorilla.Conn {
	t.Helper()
	d := gorilla.Dialer{TLSClientConfig: f.trust, Subprotocols: protocols, HandshakeTimeout: testkit.Patience, WriteBufferSize: 33 << 10}
	c, _, err := d.Dial(f.url("ws", "/api/v1/namespaces/default/pods/web/exec?command=sh"), nil)
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	c.SetReadDeadline(time.Now().Add(testkit.Patience))
	return c
}

func TestChannelsInAWebSocketAreForwarded(t *testing.T) {
	bySocketAndTLS(t, func(t *testing.T, secure bool) {
		f := newFront(t, secure, apiserver(func(c *xnet.Conn) {
			var input []byte
			for {
				var m []byte
				if err := xnet.Message.Receive(c, &m); err != nil || len(m) == 0 {
					return
				}
				switch m[0] {
				case stdin:
					input = append(input, m[1:]...)
				case resize:
					xnet.Message.Send(c, append([]byte{stderr}, m[1:]...))
				case closed:
					xnet.Message.Send(c, append([]byte{stdout}, input...))
					xnet.Message.Send(c, append([]byte{failure}, `{"status":"Success"}`...))
					c.WriteClose(1000)
					return
				}
			}
		}))
		c := f.kubectl(t, "v5.channel.k8s.io", "v4.channel.k8s.io")
		assert.Equal(t, "v5.channel.k8s.io", c.Subprotocol())
		input := noise(1 << 20)
		for piece := range slices.Chunk(input, 32<<10) {
			require.NoError(t, c.WriteMessage(gorilla.BinaryMessage, append([]byte{stdin}, piece...)))
		}
		const size = `{"Width":80,"Height":24}`
		require.NoError(t, c.WriteMessage(gorilla.BinaryMessage, append([]byte{resize}, size...)))
		require.NoError(t, c.WriteMessage(gorilla.BinaryMessage, []byte{closed, stdin}))
		for _, want := range []string{string(rune(stderr)) + size, "\x01" + string(input), "\x03" + `{"status":"Success"}`} {
			kind, got, err := c.ReadMessage()
			require.NoError(t, err)
			assert.Equal(t, gorilla.BinaryMessage, kind)
			require.True(t, want == string(got), "a message of %d bytes on channel %d came as one of %d", len(want), want[0], len(got))
		}
		_, _, err := c.ReadMessage()
		assert.True(t, gorilla.IsCloseError(err, 1000), "the end: %v", err)
		c.Close()
		e := f.ending(t)
		assert.Equal(t, 1000, e.UpstreamClose.Code)
		assert.EqualValues(t, 32+2, e.FromClient.Messages)
		assert.EqualValues(t, 3, e.FromUpstream.Messages)
	})
}

func TestABrowsersChannelsAreForwardedInBase64(t *testing.T) {
	f := newFront(t, false, apiserver(func(c *xnet.Conn) { io.Copy(c, c) }))
	c := f.kubectl(t, "v4.base64.channel.k8s.io")
	assert.Equal(t, "v4.base64.channel.k8s.io", c.Subprotocol())
	require.NoError(t, c.WriteMessage(gorilla.TextMessage, []byte("0bHMgLWw=")))
	kind, got, err := c.ReadMessage()
	require.NoError(t, err)
	assert.Equal(t, gorilla.TextMessage, kind)
	assert.Equal(t, "0bHMgLWw=", string(got))
}

func TestKubectlFallsBackToSPDY(t *testing.T) {
	bySocketAndTLS(t, func(t *testing.T, secure bool) {
		f := newFront(t, secure, kubelet(echo)) // it does not support WebSocket
		d := gorilla.Dialer{TLSClientConfig: f.trust, Subprotocols: []string{"v5.channel.k8s.io"}, HandshakeTimeout: testkit.Patience}
		_, res, err := d.Dial(f.url("ws", "/exec"), nil)
		require.ErrorIs(t, err, gorilla.ErrBadHandshake)
		assert.Equal(t, http.StatusBadRequest, res.StatusCode)
		said, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		assert.Equal(t, "unable to upgrade: missing upgrade headers", strings.TrimSpace(string(said)))
		s := f.exec(t)
		stream := s.stream("port")
		require.NoError(t, stream.Close())
		_, err = io.ReadAll(stream)
		require.NoError(t, err)
		s.end(f)
	})
}

// Port forwarding is SPDY within a WebSocket. Its subprotocol is not a token.
func TestSPDYInsideAWebSocketIsForwarded(t *testing.T) {
	const tunneled = "SPDY/3.1+portforward.k8s.io"
	bySocketAndTLS(t, func(t *testing.T, secure bool) {
		f := newFront(t, secure, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c, err := coder.Accept(w, r, &coder.AcceptOptions{Subprotocols: []string{tunneled}})
			if err != nil {
				return
			}
			spdy(coder.NetConn(context.Background(), c, coder.MessageBinary), true, echo)
		}))
		ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
		defer cancel()
		c, _, err := coder.Dial(ctx, f.url("ws", "/portforward"), &coder.DialOptions{
			HTTPClient:   &http.Client{Transport: &http.Transport{TLSClientConfig: f.trust}},
			Subprotocols: []string{tunneled},
		})
		require.NoError(t, err)
		assert.Equal(t, tunneled, c.Subprotocol())
		s := newSession(t, coder.NetConn(ctx, c, coder.MessageBinary))
		for range 3 {
			stream := s.stream("data")
			want := noise(100_000)
			go func() {
				stream.Write(want)
				stream.Close()
			}()
			got, err := io.ReadAll(stream)
			require.NoError(t, err)
			assert.True(t, string(want) == string(got), "%d bytes of %d", len(got), len(want))
		}
		s.CloseWait() // the connection may be gone before coder's Close frame is out: its NetConn cancels its own read
		assert.Contains(t, []wsproxy.Reason{wsproxy.ReasonClientClosed, wsproxy.ReasonUpstreamClosed}, f.ending(t).Reason)
	})
}
