//go:build unix

package handshake_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// nonReader requests an upgrade over a unix socket, which buffers little, and
// reads none of the many informational responses that u sends.
func nonReader(t *testing.T, p *wsproxy.Proxy, u *testkit.Upstream) (client net.Conn, server *testkit.Peer) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(testkit.SocketDir(t), "s"))
	require.NoError(t, err)
	s := &http.Server{Handler: p}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	client, err = net.Dial("unix", l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { client.Close() })
	_, err = io.WriteString(client, testkit.SampleRequest)
	require.NoError(t, err)
	server = u.Accept(t)
	server.Request(t)
	hint := "HTTP/1.1 103 Early Hints\r\nX: " + strings.Repeat("x", 9000) + "\r\n\r\n"
	io.WriteString(server, strings.Repeat(hint, 110)) // just below the limit; the proxy may stop reading
	return client, server
}

func TestAClientThatDoesNotReadInformationalResponsesIsDisconnected(t *testing.T) {
	t.Parallel()
	u := testkit.NewUpstream(t)
	p := testkit.NewProxy(t, u.URL, wsproxy.WithSendTimeout(500*time.Millisecond))
	_, server := nonReader(t, p, u)
	testkit.Eventually(t, func() bool { return testkit.Counted(p) == testkit.Counts{} }, "the handshake has not ended")
	_, err := io.Copy(io.Discard, server)
	assert.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the upstream's connection stays open")
}

func TestShutdownDoesNotWaitForAClientThatDoesNotReadInformationalResponses(t *testing.T) {
	u := testkit.NewUpstream(t)
	p := testkit.NewProxy(t, u.URL, wsproxy.WithSendTimeout(0))
	nonReader(t, p, u)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- p.Shutdown(ctx) }()
	assert.ErrorIs(t, testkit.Within(t, done, "Shutdown returns"), context.DeadlineExceeded)
}
