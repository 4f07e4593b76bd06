//lint:file-ignore SA1019 nhooyr.io/websocket is deprecated as a whole in favour of github.com/coder/websocket; it stays as one more implementation to be tested with.

package frame

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"nhooyr.io/websocket"
)

// A recording keeps the bytes that cross a connection.
type recording struct {
	net.Conn
	mu       sync.Mutex
	in, sent bytes.Buffer
}

func (r *recording) Read(b []byte) (int, error) {
	n, err := r.Conn.Read(b)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.in.Write(b[:n])
	return n, err
}

func (r *recording) Write(b []byte) (int, error) {
	r.mu.Lock()
	r.sent.Write(b)
	r.mu.Unlock()
	return r.Conn.Write(b)
}

// frames returns the bytes after the handshake in each direction.
func (r *recording) frames(t *testing.T) (sent, received []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, sent, ok := bytes.Cut(r.sent.Bytes(), []byte("\r\n\r\n"))
	require.True(t, ok)
	_, received, ok = bytes.Cut(r.in.Bytes(), []byte("\r\n\r\n"))
	require.True(t, ok)
	return sent, received
}

// talk makes two ends of nhooyr's library exchange n messages and Pings, and
// close with code 3210. Each message is echoed. It returns how many messages
// went in each direction: n, plus those that waited for a Pong.
func talk(t *testing.T, rng *rand.Rand, mode websocket.CompressionMode, n int) (tape *recording, messages int) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{CompressionMode: mode})
		if err != nil {
			return
		}
		defer conn.CloseNow()
		conn.SetReadLimit(-1)
		for {
			kind, message, err := conn.Read(r.Context())
			if err != nil || writeFragmented(r.Context(), conn, kind, message) != nil {
				return
			}
		}
	}))
	defer s.Close()
	transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		tape = &recording{Conn: conn}
		return tape, err
	}}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, s.URL, &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}, CompressionMode: mode})
	require.NoError(t, err)
	defer conn.CloseNow()
	conn.SetReadLimit(-1)
	for i := range n {
		message := make([]byte, rng.IntN(1<<rng.IntN(18)))
		for at := range message {
			message[at] = byte(rng.IntN(4)) // compressible
		}
		write := conn.Write
		if i%2 == 0 {
			write = func(ctx context.Context, kind websocket.MessageType, p []byte) error {
				return writeFragmented(ctx, conn, kind, p)
			}
		}
		pinged := make(chan error, 1)
		go func() { pinged <- conn.Ping(ctx) }()
		require.NoError(t, write(ctx, websocket.MessageBinary, message))
		_, back, err := conn.Read(ctx)
		require.NoError(t, err)
		require.True(t, bytes.Equal(message, back), "what comes back")
		messages++
		// A Ping after the Close frame would make the server reset the
		// connection.
		for waiting := true; waiting; {
			select {
			case err := <-pinged:
				require.NoError(t, err)
				waiting = false
			default:
				require.NoError(t, conn.Write(ctx, websocket.MessageText, nil))
				_, _, err = conn.Read(ctx)
				require.NoError(t, err)
				messages++
			}
		}
	}
	require.NoError(t, conn.Close(3210, "enough"))
	return tape, messages
}

// writeFragmented writes a message in a few frames.
func writeFragmented(ctx context.Context, conn *websocket.Conn, kind websocket.MessageType, p []byte) error {
	w, err := conn.Writer(ctx, kind)
	if err != nil {
		return err
	}
	for part := len(p)/3 + 1; len(p) > 0; p = p[min(part, len(p)):] {
		if _, err := w.Write(p[:min(part, len(p))]); err != nil {
			return err
		}
	}
	return w.Close()
}

func TestTheScannerAgreesWithAnIndependentLibrary(t *testing.T) {
	for mode, name := range map[websocket.CompressionMode]string{
		websocket.CompressionDisabled:          "plain",
		websocket.CompressionContextTakeover:   "compressed",
		websocket.CompressionNoContextTakeover: "compressed apart",
	} {
		t.Run(name, func(t *testing.T) {
			rng := rand.New(rand.NewPCG(6455, uint64(mode)))
			const n = 30
			tape, messages := talk(t, rng, mode, n)
			sent, received := tape.frames(t)
			for i, stream := range [][]byte{sent, received} {
				masked := i == 0
				whole := scanChunks(stream, masked, inOnePiece)
				assert.False(t, whole.off)
				assert.True(t, whole.closed)
				assert.Equal(t, 3210, whole.code)
				assert.EqualValues(t, messages, whole.messages)
				require.NotEmpty(t, whole.boundaries)
				assert.Greater(t, len(whole.boundaries), n+n/2, "frames of messages in several each")
				assert.Equal(t, len(stream), whole.boundaries[len(whole.boundaries)-1], "the end of the last frame")
				assert.Equal(t, whole, scanByTheBook(stream, masked))
				for range 5 {
					require.Equal(t, whole, scanChunks(stream, masked, func() int { return 1 + rng.IntN(1<<rng.IntN(16)) }))
				}
			}
		})
	}
}
