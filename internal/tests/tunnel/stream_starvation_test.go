package tunnel_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// golang/go#54330: by default a stream's window is as large as its connection's.
func TestATunnelWhoseUpstreamDoesNotReadLeavesTheOthersAlone(t *testing.T) {
	t.Parallel()
	for name, config := range map[string]*http.HTTP2Config{"net/http's windows": nil, "HTTP2Config": wsproxy.HTTP2Config()} {
		t.Run(name, func(t *testing.T) {
			p, c, u := overHTTP2(t, nil, func(s *http.Server) { s.HTTP2 = config }, wsproxy.WithDialContext(dialNarrow))
			other, otherServer := c.Tunnel(t, u)
			for range 63 { // as many as HTTP2Config's doc says
				client, server := c.Tunnel(t, u)
				server.Socket().(*net.TCPConn).SetReadBuffer(4 << 10)
				go io.Copy(client, testkit.Zeros{})
			}
			awaitStall(t, p)
			exchange := func() error {
				if _, err := io.WriteString(other, "hello"); err != nil {
					return err
				}
				_, err := io.ReadFull(otherServer, make([]byte, 5))
				return err
			}
			arrived := make(chan error, 1)
			if config != nil {
				go func() { arrived <- exchange() }()
				require.NoError(t, testkit.Within(t, arrived, "a message past the blocked tunnels"))
				return
			}
			testkit.Eventually(t, func() bool {
				go func() { arrived <- exchange() }()
				select {
				case <-arrived: // the stall was none
					return false
				case <-time.After(200 * time.Millisecond):
					other.Reset()
					otherServer.Close()
					<-arrived
					return true
				}
			}, "net/http's windows let every message pass: HTTP2Config need not have its own")
		})
	}
}

// dialNarrow makes the proxy soon wait for an upstream that does not read.
func dialNarrow(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err == nil {
		conn.(*net.TCPConn).SetWriteBuffer(4 << 10)
	}
	return conn, err
}

// A value that http.HTTP2Config calls invalid may become the default in another
// release of Go. A stream's buffer must also hold what a client may send before
// it has read the settings: net/http resets a stream that exceeds it.
func TestHTTP2ConfigsBuffersAreValid(t *testing.T) {
	config := wsproxy.HTTP2Config()
	assert.GreaterOrEqual(t, config.MaxReceiveBufferPerConnection, 64<<10)
	assert.Less(t, config.MaxReceiveBufferPerConnection, 4<<20)
	assert.GreaterOrEqual(t, config.MaxReceiveBufferPerStream, 65535)
	assert.Less(t, config.MaxReceiveBufferPerStream, 4<<20)
	assert.NotSame(t, config, wsproxy.HTTP2Config())
}

// Without them nothing ends the handler of a client that is gone or does not read.
func TestHTTP2ConfigHasTheLimitsOfItsDoc(t *testing.T) {
	config := wsproxy.HTTP2Config()
	assert.Equal(t, 250, config.MaxConcurrentStreams)
	assert.Equal(t, 30*time.Second, config.SendPingTimeout)
	assert.Equal(t, 15*time.Second, config.PingTimeout)
	assert.Equal(t, 30*time.Second, config.WriteByteTimeout)
}
