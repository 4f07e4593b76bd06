//lint:file-ignore SA1019 nhooyr.io/websocket is deprecated as a whole in favour of github.com/coder/websocket; it stays as one more implementation to be tested with.

package frames_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
	"nhooyr.io/websocket"
)

// echoHandler echoes every message and offers the subprotocols echo and chat.
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

// wsEcho returns an upstream that serves echoHandler.
func wsEcho(t testing.TB) string {
	t.Helper()
	return "http://" + testkit.Serve(t, http.HandlerFunc(echoHandler))
}

// wsDial connects a WebSocket client to ws://addr/.
func wsDial(t testing.TB, addr string, opts *websocket.DialOptions) *websocket.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, "ws://"+addr+"/", opts)
	require.NoError(t, err)
	conn.SetReadLimit(-1)
	t.Cleanup(func() { conn.CloseNow() })
	return conn
}

func TestAWebSocketWorksThroughTheProxy(t *testing.T) {
	p, addr := testkit.ServeProxy(t, wsEcho(t))
	conn := wsDial(t, addr, &websocket.DialOptions{
		Subprotocols:    []string{"chat", "superchat"},
		CompressionMode: websocket.CompressionContextTakeover,
	})
	require.Equal(t, "chat", conn.Subprotocol())

	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
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
	testkit.Eventually(t, func() bool { return p.Stats().Live == 0 }, "the tunnel stays open")
}

// strictCompression lists the compression modes that the ends of a strictRig
// may agree on.
var strictCompression = []websocket.CompressionMode{
	websocket.CompressionDisabled, websocket.CompressionContextTakeover, websocket.CompressionNoContextTakeover,
}

// A strictRig serves an upstream that passes each WebSocket to the test.
type strictRig struct {
	url   string
	tls   *tls.Config // of clients, nil without TLS
	conns chan strictEnd
}

func newStrictRig(t testing.TB, overTLS bool, compression int) *strictRig {
	t.Helper()
	r := &strictRig{conns: make(chan strictEnd, 1000)}
	type tapOf struct{}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		conn, err := websocket.Accept(w, req, &websocket.AcceptOptions{CompressionMode: strictCompression[compression]})
		if err == nil {
			r.conns <- strictEnd{conn, req.Context().Value(tapOf{}).(*testkit.Tap)}
		}
	}))
	s.Config.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, tapOf{}, conn)
	}
	scheme := "http://"
	if overTLS {
		var serverTLS *tls.Config
		serverTLS, r.tls = testkit.TLS()
		s.Listener, scheme = tls.NewListener(s.Listener, serverTLS), "https://"
	}
	s.Listener = testkit.WrapListener{Listener: s.Listener, Wrap: func(conn net.Conn) net.Conn { return &testkit.Tap{Conn: conn, Masked: true, Whole: compression != 0} }}
	s.Start()
	r.url = scheme + s.Listener.Addr().String()
	t.Cleanup(s.Close)
	return r
}

// serve runs p over the same kind of connection as the upstream's.
func (r *strictRig) serve(t testing.TB, p *wsproxy.Proxy) (addr string) {
	t.Helper()
	s := httptest.NewUnstartedServer(p)
	if r.tls != nil {
		serverTLS, _ := testkit.TLS()
		s.Listener = tls.NewListener(s.Listener, serverTLS)
	}
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// tunnel opens a tunnel and returns its ends.
func (r *strictRig) tunnel(t testing.TB, addr string, compression int) (client, server strictEnd) {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		if r.tls != nil {
			conn = tls.Client(conn, r.tls)
		}
		client.tap = &testkit.Tap{Conn: conn, Whole: compression != 0}
		return client.tap, nil
	}}
	t.Cleanup(transport.CloseIdleConnections)
	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, "ws://"+addr, &websocket.DialOptions{
		HTTPClient: &http.Client{Transport: transport}, CompressionMode: strictCompression[compression]})
	require.NoError(t, err)
	client.conn, server = conn, <-r.conns
	for _, end := range []strictEnd{client, server} {
		end.conn.SetReadLimit(-1)
		t.Cleanup(func() { end.conn.CloseNow() })
	}
	return client, server
}

// A strictEnd is a WebSocket of a library that reports each protocol error it
// reads, over a connection that checks for the errors the library misses.
type strictEnd struct {
	conn *websocket.Conn
	tap  *testkit.Tap
}

// A messageMaker makes the same messages for the same seed: 1 byte to 1 MiB (20
// bits), most of them short, of bytes that compress to about a half.
type messageMaker struct {
	rng  *rand.Rand
	bits int // length of the longest message, in bits
}

func newMessageMaker(seed uint64, bits int) messageMaker {
	return messageMaker{rand.New(rand.NewPCG(seed, 6455)), bits}
}

func (m messageMaker) next() (message []byte, parts int) {
	message = make([]byte, 1+m.rng.IntN(1<<m.rng.IntN(m.bits+1)))
	alphabet := m.rng.Uint64()
	for i := range message {
		if i%16 == 0 {
			alphabet = alphabet*6364136223846793005 + 1442695040888963407
		}
		message[i] = byte(alphabet >> (i % 16 * 4) & 15)
	}
	return message, max(0, m.rng.IntN(6)-1)
}

// sendAll sends messages, some in fragments, until the WebSocket closes.
func (e strictEnd) sendAll(ctx context.Context, m messageMaker, pause time.Duration) (sent int) {
	for ; ; sent++ {
		time.Sleep(pause)
		message, parts := m.next()
		if parts == 0 {
			if e.conn.Write(ctx, websocket.MessageBinary, message) != nil {
				return sent
			}
			continue
		}
		w, err := e.conn.Writer(ctx, websocket.MessageBinary)
		if err != nil {
			return sent
		}
		for size := len(message)/parts + 1; len(message) > 0; message = message[min(size, len(message)):] {
			if _, err := w.Write(message[:min(size, len(message))]); err != nil {
				return sent
			}
		}
		if w.Close() != nil {
			return sent
		}
	}
}

// receiveAll reads messages until the Close frame and returns their number. It
// returns an error if a message is not the next one that the other end sent.
func (e strictEnd) receiveAll(ctx context.Context, m messageMaker) (received int, err error) {
	for ; ; received++ {
		_, got, err := e.conn.Read(ctx)
		var closed websocket.CloseError
		switch want, _ := m.next(); {
		case errors.As(err, &closed):
			return received, nil
		case err != nil:
			return received, fmt.Errorf("message %d: %w", received, err)
		case !bytes.Equal(want, got):
			return received, fmt.Errorf("message %d is changed: %d bytes, want %d", received, len(got), len(want))
		}
	}
}
