package http2_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// A framer is a client that says what goes over the wire.
type framer struct {
	*http2.Framer
	conn    net.Conn
	next    uint32
	decoder *hpack.Decoder
	fields  map[string]string // decoded so far
}

func dialFramer(t *testing.T, addr string, settings ...http2.Setting) *framer {
	t.Helper()
	_, config := testkit.TLS()
	config = config.Clone()
	config.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", addr, config)
	require.NoError(t, err)
	return newFramer(t, conn, settings...)
}

// newFramer sends the preface.
func newFramer(t *testing.T, conn net.Conn, settings ...http2.Setting) *framer {
	t.Helper()
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(testkit.Patience))
	_, err := io.WriteString(conn, http2.ClientPreface)
	require.NoError(t, err)
	f := &framer{Framer: http2.NewFramer(conn, conn), conn: conn, next: 1, fields: map[string]string{}}
	f.decoder = hpack.NewDecoder(4096, func(field hpack.HeaderField) { f.fields[field.Name] = field.Value })
	require.NoError(t, f.WriteSettings(append(settings, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})...))
	require.NoError(t, f.WriteWindowUpdate(0, 1<<31-1-65535))
	return f
}

// connect sends an extended CONNECT with more fields and returns its stream.
func (f *framer) connect(t *testing.T, end bool, fields ...string) uint32 {
	t.Helper()
	return f.request(t, end, append([]string{":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":path", "/chat",
		":authority", "server.example.com", "sec-websocket-version", "13"}, fields...)...)
}

// request sends any fields and returns their stream.
func (f *framer) request(t *testing.T, end bool, fields ...string) uint32 {
	t.Helper()
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	id := f.next
	f.next += 2
	require.NoError(t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: end}))
	return id
}

// status returns the status of a stream's response, or 0 for a reset.
func (f *framer) status(t *testing.T, id uint32) (status string) {
	t.Helper()
	f.until(t, func(frame http2.Frame) bool {
		headers, ok := frame.(*http2.HeadersFrame)
		if ok {
			_, err := f.decoder.Write(headers.HeaderBlockFragment())
			require.NoError(t, err)
			status, f.fields = f.fields[":status"], map[string]string{}
		}
		_, reset := frame.(*http2.RSTStreamFrame)
		return (ok || reset) && frame.Header().StreamID == id
	})
	return status
}

// until reads frames until found reports true, and fails at a GOAWAY.
func (f *framer) until(t *testing.T, found func(http2.Frame) bool) {
	t.Helper()
	for {
		frame, err := f.ReadFrame()
		require.NoError(t, err)
		require.NotEqual(t, http2.FrameGoAway, frame.Header().Type, "%v", frame)
		if found(frame) {
			return
		}
	}
}

func serveFramer(t *testing.T, u *testkit.Upstream, configure func(*http.Server), opts ...wsproxy.Option) (*wsproxy.Proxy, *framer) {
	t.Helper()
	p := testkit.NewProxy(t, u.URL, opts...)
	return p, dialFramer(t, testkit.ServeHTTP2(t, p, configure))
}

// RFC 8441, section 5: the stream's end is END_STREAM, its reset RST_STREAM. The
// connection carries the next stream in each case.
func TestTheEndsOfAStreamOnTheWire(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, f := serveFramer(t, u, nil)
	opened := func(id uint32) *testkit.Peer {
		server := u.Accept(t)
		server.Switch(t, "")
		f.until(t, func(frame http2.Frame) bool {
			_, ok := frame.(*http2.HeadersFrame)
			return ok && frame.Header().StreamID == id
		})
		return server
	}

	id := f.connect(t, false)
	server := opened(id)
	server.Send(t, "bye")
	server.Close()
	require.NoError(t, f.WriteData(id, true, nil))
	var got []byte
	f.until(t, func(frame http2.Frame) bool {
		data, ok := frame.(*http2.DataFrame)
		if ok {
			got = append(got, data.Data()...)
		}
		return ok && data.StreamEnded()
	})
	assert.Equal(t, "bye", string(got))

	id = f.connect(t, false)
	server = opened(id)
	server.Reset()
	f.until(t, func(frame http2.Frame) bool {
		reset, ok := frame.(*http2.RSTStreamFrame)
		if ok {
			assert.Equal(t, http2.ErrCodeInternal, reset.ErrCode)
		}
		return ok && frame.Header().StreamID == id
	})

	id = f.connect(t, false)
	server = opened(id)
	require.NoError(t, f.WriteRSTStream(id, http2.ErrCodeCancel))
	_, err := server.Read(make([]byte, 1))
	assert.True(t, testkit.IsReset(err), "got %v, want a reset", err)

	// A client that ends its direction with the CONNECT half-closes, as a FIN
	// behind a handshake of HTTP/1.1 does.
	id = f.connect(t, true)
	server = opened(id)
	server.ExpectEOF(t, "")
	server.Close()
}

// What a client sends before the 200 waits, and is not lost.
func TestEarlyBytesOfAStreamReachTheUpstreamAfterTheSwitch(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, f := serveFramer(t, u, nil)
	id := f.connect(t, false)
	require.NoError(t, f.WriteData(id, false, []byte("early")))
	server := u.Accept(t)
	server.Switch(t, "")
	server.Expect(t, "early")
}

func TestPseudoFieldsThatAreWrongReachNoUpstream(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, f := serveFramer(t, u, nil)
	for _, fields := range [][]string{
		{"content-length", "5"},
		{"connection", "upgrade", "upgrade", "websocket"},
		{":protocol", "websocket"},
	} {
		id := f.connect(t, false, fields...)
		f.until(t, func(frame http2.Frame) bool {
			_, headers := frame.(*http2.HeadersFrame)
			_, reset := frame.(*http2.RSTStreamFrame)
			return (headers || reset) && frame.Header().StreamID == id
		})
	}
	assert.Empty(t, u.Conns)
}

// net/http cannot end a handler whose connection takes no bytes. HTTP2Config has
// it close that, after 30 seconds.
func TestAClientThatStopsReadingItsConnectionEndsItsTunnels(t *testing.T) {
	u, ended := testkit.NewUpstream(t), testkit.NewEndings()
	p, f := serveFramer(t, u, func(s *http.Server) { s.HTTP2.WriteByteTimeout = 300 * time.Millisecond }, ended.Option())
	for range 3 {
		f.connect(t, false)
		server := u.Accept(t)
		server.Switch(t, "")
		go io.Copy(server, testkit.Zeros{})
	}
	for range 3 {
		assert.Equal(t, wsproxy.ReasonClientClosed, ended.Next(t).Reason)
	}
	testkit.Eventually(t, func() bool { return p.Stats().Live == 0 }, "tunnels are left")
}

// CVE-2023-44487, from a client that does not wait for anything.
func TestAStormOfConnectsAndResetsLeavesNothing(t *testing.T) {
	u := testkit.NewUpstream(t)
	u.Script(func(server *testkit.Peer) { io.Copy(io.Discard, server) })
	p, f := serveFramer(t, u, nil, wsproxy.WithMaxTunnels(20))
	go io.Copy(io.Discard, f.conn)
	for range 2000 {
		id := f.connect(t, false)
		if f.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
			break // net/http has had enough
		}
	}
	testkit.Eventually(t, func() bool { return p.Stats().Handshakes == 0 }, "handshakes are left")
}

// http.Server.Shutdown sends GOAWAY, which refuses new streams and ends none. The
// tunnel ends by Proxy.Shutdown, and Shutdown of the server after it.
func TestAGOAWAYEndsNoTunnel(t *testing.T) {
	t.Parallel() // net/http waits a second before it closes the connection
	u, ended := testkit.NewUpstream(t), testkit.NewEndings()
	var s *http.Server
	p := testkit.NewProxy(t, u.URL, ended.Option())
	f := dialFramer(t, testkit.ServeHTTP2(t, p, func(server *http.Server) { s = server }))
	id := f.connect(t, false)
	server := testkit.End{Peer: u.Accept(t)}
	server.Switch(t, "")
	require.Equal(t, "200", f.status(t, id))

	done := make(chan error, 1)
	go func() { done <- s.Shutdown(context.Background()) }()
	for goneAway := false; !goneAway; {
		frame, err := f.ReadFrame()
		require.NoError(t, err)
		_, goneAway = frame.(*http2.GoAwayFrame)
	}
	hello := testkit.Frame{First: testkit.Text, Masked: true, Payload: "hello"}.String()
	require.NoError(t, f.WriteData(id, false, []byte(hello)))
	server.ExpectFrame(t, testkit.Text, "hello")
	f.connect(t, false) // is ignored, or reset
	assert.Empty(t, done)

	go p.Shutdown(context.Background())
	server.ExpectClose(t, 1001)
	server.SendFrame(t, testkit.Close, testkit.ClosePayload(1001, ""))
	server.Close()
	answer := testkit.Frame{First: testkit.Close, Masked: true, Payload: testkit.ClosePayload(1001, "")}.String()
	require.NoError(t, f.WriteData(id, true, []byte(answer)))
	go io.Copy(io.Discard, f.conn)
	assert.Equal(t, wsproxy.ReasonShutdown, ended.Next(t).Reason)
	assert.NoError(t, testkit.Within(t, done, "the end of the server's Shutdown"))
	assert.Empty(t, u.Conns, "a stream was opened after the GOAWAY")
}

// RFC 9113, section 5.1: net/http resets the stream. What came before the end has
// arrived, and nothing after it.
func TestBytesAfterTheEndOfAStreamReachNobody(t *testing.T) {
	u, ended := testkit.NewUpstream(t), testkit.NewEndings()
	p, f := serveFramer(t, u, nil, ended.Option())
	id := f.connect(t, false)
	server := u.Accept(t)
	server.Switch(t, "")
	require.Equal(t, "200", f.status(t, id))
	require.NoError(t, f.WriteData(id, true, []byte("before")))
	server.Expect(t, "before")
	require.NoError(t, f.WriteData(id, false, []byte("after")))
	f.until(t, func(frame http2.Frame) bool {
		reset, ok := frame.(*http2.RSTStreamFrame)
		return ok && reset.ErrCode == http2.ErrCodeStreamClosed
	})
	assert.Empty(t, server.Rest(t, "the upstream's"))
	assert.Equal(t, wsproxy.ReasonClientClosed, ended.Next(t).Reason)
	testkit.Eventually(t, func() bool { return p.Stats().Live == 0 }, "the tunnel is left")
}
