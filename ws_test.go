//lint:file-ignore SA1019 nhooyr.io/websocket is deprecated as a whole in favour of github.com/coder/websocket; it is the test dependency the project was asked to use.

package wsproxy_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"
	"nhooyr.io/websocket"
)

// wsEcho is an upstream that returns every message, and offers echo and chat
// as subprotocols.
func wsEcho(t testing.TB) string {
	t.Helper()
	return "http://" + serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{
			InsecureSkipVerify: true,
			Subprotocols:       []string{"echo", "chat"},
			CompressionMode:    websocket.CompressionContextTakeover,
		})
		if err != nil {
			return
		}
		defer conn.CloseNow()
		conn.SetReadLimit(-1)
		for {
			kind, message, err := conn.Read(r.Context())
			if err != nil || conn.Write(r.Context(), kind, message) != nil {
				return
			}
		}
	}))
}

// wsDial connects a WebSocket client to ws://addr/.
func wsDial(t testing.TB, addr string, opts *websocket.DialOptions) *websocket.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, "ws://"+addr+"/", opts)
	require.NoError(t, err)
	conn.SetReadLimit(-1)
	t.Cleanup(func() { conn.CloseNow() })
	return conn
}

func TestAWebSocketWorksThroughTheProxy(t *testing.T) {
	p, addr := serveProxy(t, wsEcho(t))
	conn := wsDial(t, addr, &websocket.DialOptions{
		Subprotocols:    []string{"chat", "superchat"},
		CompressionMode: websocket.CompressionContextTakeover,
	})
	require.Equal(t, "chat", conn.Subprotocol())

	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, size := range []int{0, 1, 125, 126, 65535, 65536, 1 << 20} {
		message := make([]byte, size)
		for i := range message {
			message[i] = byte(i * i >> 3)
		}
		require.NoError(t, conn.Write(ctx, websocket.MessageBinary, message))
		kind, got, err := conn.Read(ctx)
		require.NoError(t, err)
		require.Equal(t, websocket.MessageBinary, kind)
		require.Equal(t, message, got)
	}
	require.Equal(t, 1, p.Stats().Live)
	require.NoError(t, conn.Close(websocket.StatusNormalClosure, "done"))
	eventually(t, func() bool { return p.Stats().Live == 0 }, "the tunnel stays open")
}
