//go:build unix

package tunnel_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// dialBlocking is a dialer that sets socket options the usual way: through a
// duplicate, whose Fd makes the file description that both share blocking.
func dialBlocking(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	file, err := conn.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		return nil, err
	}
	defer file.Close()
	file.Fd()
	return conn, nil
}

// blockingVariable tells a test of this file to run in this process, which it
// can freeze.
const blockingVariable = "WSPROXY_TEST_BLOCKING"

// inChild runs the calling test again in a process of its own, and reports
// whether this process is that one.
func inChild(t *testing.T) bool {
	t.Helper()
	if os.Getenv(blockingVariable) != "" {
		return true
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*testkit.Patience)
	defer cancel()
	child := exec.CommandContext(ctx, os.Args[0], "-test.run=^"+t.Name()+"$")
	child.Env = append(os.Environ(), blockingVariable+"=1")
	output, err := child.CombinedOutput()
	require.NoError(t, ctx.Err(), "the process is frozen\n%s", output)
	require.NoError(t, err, "%s", output)
	return false
}

// A loop's send to a blocking socket blocked its thread and kept its processor,
// and the next garbage collection waited for that processor for ever. With the
// portable relay, Close did not end the tunnel.
func TestADialerCanReturnBlockingConnections(t *testing.T) {
	t.Parallel()
	if !inChild(t) {
		return
	}
	testkit.OverLinks(t, func(l testkit.Link) bool { return !l.Wrapped }, func(t *testing.T, l testkit.Link) {
		ended := testkit.NewEndings()
		r := l.Start(t, nil, wsproxy.WithDialContext(dialBlocking), wsproxy.WithCloseTimeout(100*time.Millisecond), ended.Option())
		client, server := r.Tunnel(t)
		const size = 32 << 20 // more than all buffers
		sent := make(chan error, 1)
		go func() {
			_, err := io.Copy(client, io.LimitReader(testkit.Zeros{}, size))
			sent <- err
		}()
		awaitStall(t, r.Proxy)
		runtime.GC()
		n, err := io.CopyN(io.Discard, server, size)
		require.NoError(t, err, "after %d bytes", n)
		require.NoError(t, <-sent)
		server.Send(t, "hello")
		client.Expect(t, "hello")
		runtime.GC() // while the relay waits for bytes
		require.NoError(t, testkit.OnlyTunnel(t, r.Proxy).Close(1001, ""))
		assert.Equal(t, wsproxy.ReasonKilled, ended.Next(t).Reason)
	})
}

// A read timeout is a deadline, which a blocking socket does not have.
func TestAnUpstreamThatDoesNotRespondTimesOutOverABlockingConnection(t *testing.T) {
	t.Parallel()
	if !inChild(t) {
		return
	}
	for _, request := range []string{testkit.SampleRequest, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"} {
		u := testkit.NewUpstream(t)
		_, addr := testkit.ServeProxy(t, u.URL, wsproxy.WithDialContext(dialBlocking), wsproxy.WithReadTimeout(100*time.Millisecond))
		res, _ := testkit.Do(t, addr, request)
		assert.Equal(t, http.StatusGatewayTimeout, res.StatusCode, strings.SplitN(request, " ", 3)[1])
	}
}
