//lint:file-ignore SA1019 nhooyr.io/websocket is deprecated as a whole in favour of github.com/coder/websocket; it is the test dependency the project was asked to use.

package wsproxy_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	"nhooyr.io/websocket"
)

// echoHandler returns every message, and offers echo and chat as subprotocols.
func echoHandler(w http.ResponseWriter, r *http.Request) {
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
}

// wsEcho is an upstream with the echoHandler.
func wsEcho(t testing.TB) string {
	t.Helper()
	return "http://" + serve(t, http.HandlerFunc(echoHandler))
}

// newEchoServer is wsEcho for the examples.
func newEchoServer() *httptest.Server {
	return httptest.NewServer(http.HandlerFunc(echoHandler))
}

// echo sends a message to the WebSocket behind url, for the examples, and
// returns what comes back, or what went wrong.
func echo(url, message string) string {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, res, err := websocket.Dial(ctx, url, nil)
	if err != nil {
		return "refused with " + res.Status
	}
	defer conn.CloseNow()
	if err := conn.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
		return err.Error()
	}
	_, got, err := conn.Read(ctx)
	if err != nil {
		return err.Error()
	}
	conn.Close(websocket.StatusNormalClosure, "")
	return string(got)
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
