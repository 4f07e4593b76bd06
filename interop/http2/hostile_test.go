package http2_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// A query with a space is no target of HTTP/1.1, which net/http refuses there and
// lets pass here. It was a 502, as if the upstream had failed.
func TestAPathThatIsNoTargetOfHTTP1ReachesNoUpstream(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, f := serveFramer(t, u, nil)
	for path, want := range map[string]string{
		"/chat?a b":          "400",
		"/chat?x HTTP/1.1":   "400",
		"/chat?\xc2\xa0 ":    "400",
		"//evil/x":           "400",
		"http://evil/x":      "400",
		"/../admin":          "400",
		"/%2e%2e/admin":      "400",
		"*":                  "400",
		"/chat\r\nX-Evil: y": "", // a reset by net/http
		"/chat?\x00":         "",
		"/%zz":               "",
		"chat":               "",
		"":                   "",
	} {
		id := f.request(t, false, ":method", "CONNECT", ":protocol", "websocket", ":scheme", "https", ":path", path,
			":authority", "server.example.com", "sec-websocket-version", "13")
		assert.Equal(t, want, f.status(t, id), "%q", path)
	}
	assert.Empty(t, u.Conns, "the upstream was dialed")
}

// CVE-2023-44487: what a handshake will hold is reserved before the dial, and the
// dial ends with its stream.
func TestLimitsAreReservedBeforeADialThatEndsWithItsStream(t *testing.T) {
	var dials, canceled atomic.Int32
	p, f := serveFramer(t, testkit.NewUpstream(t), nil, wsproxy.WithMaxTunnels(3),
		wsproxy.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
			dials.Add(1)
			<-ctx.Done()
			canceled.Add(1)
			return nil, errors.New("late")
		}))
	var ids []uint32
	for range 40 {
		ids = append(ids, f.connect(t, false))
	}
	for refused := 0; refused < 37; {
		f.until(t, func(frame http2.Frame) bool { return frame.Header().Type == http2.FrameHeaders })
		refused++
	}
	testkit.Eventually(t, func() bool { return dials.Load() == 3 }, "a dial does not begin")
	for _, id := range ids {
		require.NoError(t, f.WriteRSTStream(id, http2.ErrCodeCancel))
	}
	testkit.Eventually(t, func() bool { return p.Stats().Handshakes == 0 && canceled.Load() == 3 }, "handshakes are left")
	assert.EqualValues(t, 3, dials.Load())
}

// A client may leave its window closed. Then neither a message nor a refusal's
// body ends, and the send timeout does.
func TestAClientWhoseWindowIsClosedHoldsNothingForLong(t *testing.T) {
	ended, u := testkit.NewEndings(), testkit.NewUpstream(t)
	p, f := serveFramer(t, u, nil, ended.Option(), wsproxy.WithSendTimeout(300*time.Millisecond))
	require.NoError(t, f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}))

	id := f.connect(t, false)
	server := u.Accept(t)
	server.Switch(t, "")
	server.Send(t, "hello")
	assert.Equal(t, "200", f.status(t, id), "a header needs no window")
	assert.Equal(t, wsproxy.ReasonSendTimeout, ended.Next(t).Reason)
	server.Rest(t, "the upstream's")

	id = f.connect(t, false)
	server = u.Accept(t)
	server.Request(t)
	server.Send(t, "HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\nbanned")
	assert.Equal(t, "403", f.status(t, id))
	server.Rest(t, "the upstream's")
	testkit.Eventually(t, func() bool { return p.Stats().Handshakes == 0 && p.Stats().Live == 0 }, "something is left")
}

// golang/go#65051: net/http ends the connection. No handler ever runs.
func TestAFloodOfCONTINUATIONReachesNoHandler(t *testing.T) {
	u := testkit.NewUpstream(t)
	p, f := serveFramer(t, u, func(s *http.Server) { s.MaxHeaderBytes = 16 << 10 })
	var block strings.Builder
	hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: "x-flood", Value: strings.Repeat("x", 8000)})
	go io.Copy(io.Discard, f.conn)
	err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(block.String())})
	for n := 0; n < 10_000 && err == nil; n++ {
		err = f.WriteContinuation(1, false, []byte(block.String()))
	}
	assert.Error(t, err, "80 MB of fields were accepted")
	assert.Zero(t, p.Stats().Handshakes)
	assert.Empty(t, u.Conns)
}

// Trailers end a stream as an END_STREAM on DATA does, and go nowhere.
func TestTrailersAreTheEndOfAStream(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, f := serveFramer(t, u, nil)
	id := f.connect(t, false, "trailer", "x-late")
	server := u.Accept(t)
	assert.NotContains(t, server.Switch(t, "").Header, "Trailer")
	assert.Equal(t, "200", f.status(t, id))
	require.NoError(t, f.WriteData(id, false, []byte("last")))
	var block strings.Builder
	hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: "x-late", Value: "1"})
	require.NoError(t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: []byte(block.String()), EndHeaders: true, EndStream: true}))
	server.ExpectEOF(t, "last")
	server.Close()
}

// The handshake clears the server's WriteTimeout. A refusal has it again, or its
// handler waits for as long as the client keeps its window closed.
func TestTheServersWriteTimeoutEndsARefusalThatIsNotRead(t *testing.T) {
	u := testkit.NewUpstream(t)
	u.Respond("HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\nbanned")
	for want, target := range map[string]string{"502": "http://" + testkit.RefusingAddr(t), "403": u.URL} {
		p := testkit.NewProxy(t, target, wsproxy.WithSendTimeout(0))
		f := dialFramer(t, testkit.ServeHTTP2(t, p, func(s *http.Server) { s.WriteTimeout = 300 * time.Millisecond }))
		require.NoError(t, f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0}))
		id := f.connect(t, false)
		require.Equal(t, want, f.status(t, id))
		f.until(t, func(frame http2.Frame) bool {
			_, reset := frame.(*http2.RSTStreamFrame)
			return reset && frame.Header().StreamID == id
		})
	}
}
