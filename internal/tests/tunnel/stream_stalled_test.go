package tunnel_test

import (
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// net/http cannot reset a stream while the connection takes no byte, so only the
// WriteByteTimeout of HTTP2Config ends its handler.
func TestAConnectionThatTakesNoByteDelaysShutdownUntilTheWriteByteTimeout(t *testing.T) {
	t.Parallel()
	ended := testkit.NewEndings()
	u := testkit.NewUpstream(t)
	p := testkit.NewProxy(t, u.URL, ended.Option())
	s := httptest.NewUnstartedServer(p)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.Config.HTTP2 = wsproxy.HTTP2Config()
	s.Config.HTTP2.WriteByteTimeout = 500 * time.Millisecond
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	client, err := net.Dial("tcp", s.Listener.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	const unlimited = "\x7f\xff\x00\x00"
	_, err = io.WriteString(client, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"+
		frameOf(settings, 0, 0, "\x00\x04"+unlimited)+frameOf(windowUpdate, 0, 0, unlimited)+
		frameOf(headers, endHeaders, 1, field(":method", "CONNECT")+field(":protocol", "websocket")+field(":scheme", "http")+
			field(":path", "/")+field(":authority", "server.example.com")+field("sec-websocket-version", "13")))
	require.NoError(t, err)
	server := u.Accept(t)
	server.Switch(t, "")
	go io.Copy(server, testkit.Zeros{})
	awaitStall(t, p)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	done := make(chan error, 1)
	go func() { done <- p.Shutdown(ctx) }()
	assert.ErrorIs(t, testkit.Within(t, done, "the end of Shutdown"), context.Canceled)
	assert.Equal(t, wsproxy.ReasonShutdown, ended.Next(t).Reason)
}

const (
	headers, settings, windowUpdate = 1, 4, 8 // frame types of RFC 9113
	endHeaders                      = 4
)

func frameOf(kind, flags byte, stream uint32, payload string) string {
	b := append(binary.BigEndian.AppendUint32(nil, uint32(len(payload)))[1:], kind, flags)
	return string(binary.BigEndian.AppendUint32(b, stream)) + payload
}

// field returns a header field as HPACK has it without compression.
func field(name, value string) string {
	return "\x00" + string(rune(len(name))) + name + string(rune(len(value))) + value
}

// The goroutine that reads the stream waited for the proxy's frame, which waited
// for the upstream, and the tunnel ended at the send timeout.
func TestAResetEndsAStreamWhileTheProxysOwnFrameWaits(t *testing.T) {
	ended := testkit.NewEndings()
	full := &fullConn{waits: make(chan struct{}), closed: make(chan struct{})}
	_, c, u := overHTTP2(t, nil, nil, ended.Option(), wsproxy.WithSendTimeout(0), wsproxy.WithPing(20*time.Millisecond, time.Hour),
		wsproxy.WithDialContext(func(ctx context.Context, network, addr string) (net.Conn, error) {
			var err error
			full.Conn, err = new(net.Dialer).DialContext(ctx, network, addr)
			return full, err
		}))
	client, server := c.Tunnel(t, u)
	testkit.Within(t, full.waits, "the proxy's Ping")
	client.Reset()
	assert.Equal(t, wsproxy.ReasonClientClosed, ended.Next(t).Reason)
	_, err := server.Read(make([]byte, 1))
	assert.True(t, testkit.IsReset(err), "got %v, want a reset", err)
}

// A fullConn is a connection that has no room for a Ping.
type fullConn struct {
	net.Conn
	once, over    sync.Once
	waits, closed chan struct{} // closed when a write waits, and when it need not any longer
}

func (c *fullConn) Write(p []byte) (int, error) {
	if p[0] != testkit.Ping {
		return c.Conn.Write(p)
	}
	c.once.Do(func() { close(c.waits) })
	<-c.closed
	return 0, net.ErrClosed
}

func (c *fullConn) SetLinger(sec int) error { return c.Conn.(*net.TCPConn).SetLinger(sec) }

func (c *fullConn) Close() error {
	c.over.Do(func() { close(c.closed) })
	return c.Conn.Close()
}
