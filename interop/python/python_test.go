// Package python_test makes Python's websockets talk through wsproxy, as client
// and as server.
package python_test

import (
	"io"
	"net/http"
	"os/exec"
	"sync"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/talk"
	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// interpreter finds a Python that has websockets: Debian's, or else the user's.
var interpreter = sync.OnceValue(func() string {
	for _, program := range []string{"/usr/bin/python3", "python3"} {
		if exec.Command(program, "-c", "import websockets.legacy").Run() == nil {
			return program
		}
	}
	return ""
})

// python returns the command that runs a script.
func python(t *testing.T, script string, args ...string) *exec.Cmd {
	t.Helper()
	if interpreter() == "" {
		testkit.Missing(t, "no Python here has websockets: install Debian's python3-websockets")
	}
	return exec.Command(interpreter(), append([]string{script}, args...)...)
}

// client returns the command that runs the client through f.
func client(t *testing.T, f *talk.Front, paths ...string) *exec.Cmd {
	t.Helper()
	cmd := python(t, "client.py", append([]string{f.URL}, paths...)...)
	cmd.Env = append(cmd.Environ(), "CERTIFICATE="+f.Certificate)
	return cmd
}

func TestWebsocketsAsClientAndServer(t *testing.T) {
	talk.CheckPairs(t, "Python", talk.Listen(t, python(t, "server.py")), client)
}

func TestWebsocketsUnderstandsWhatTheProxySends(t *testing.T) {
	talk.CheckEndings(t, "ws", talk.Listen(t, python(t, "server.py")), client)
}

// HAProxy makes the client's WebSockets streams of HTTP/2.
func TestWebsocketsOverHTTP2(t *testing.T) {
	f := talk.NewFront(t, "haproxy", testkit.Serve(t, talk.Server()))
	talk.Check(t, f, talk.Run(t, client(t, f)))
	talk.CheckEndings(t, "haproxy", talk.Listen(t, python(t, "server.py")), client)
}

func TestAClientsKeepaliveKeepsItsTunnelOpen(t *testing.T) {
	t.Parallel() // it only waits
	const silence = 1500 * time.Millisecond
	f := talk.NewFront(t, "ws", testkit.Serve(t, talk.Server()), wsproxy.WithReadTimeout(silence))
	p := talk.Start(t, client(t, f, "/echo/keepalive"))
	require.JSONEq(t, `{"open":true}`, string(p.Next(t).Result))
	testkit.Eventually(t, func() bool {
		for tunnel := range f.Tunnels() {
			return time.Since(tunnel.OpenedAt()) > 2*silence
		}
		return false
	}, "no tunnel lives for twice the read timeout")
	require.NoError(t, f.Shutdown(t.Context()))
	assert.JSONEq(t, `{"code":1001,"reason":"shutting down"}`, string(p.Next(t).Result))
}

// TestAClientsKeepaliveDetectsAFrozenServer also shows that the proxy does not
// reply to Pings for the server.
func TestAClientsKeepaliveDetectsAFrozenServer(t *testing.T) {
	f := talk.NewFront(t, "ws", raw(t, func(conn io.ReadWriter) {
		for {
			if h, err := ws.ReadHeader(conn); err != nil || h.OpCode == ws.OpClose {
				return
			} else if _, err := io.CopyN(io.Discard, conn, h.Length); err != nil {
				return
			}
		}
	}))
	lines := talk.Run(t, client(t, f, "/frozen"))
	require.Len(t, lines, 1)
	require.Empty(t, lines[0].Error)
	e := f.Ending(t, "/frozen")
	assert.Equal(t, wsproxy.ReasonClientClosed, e.Reason)
	assert.Equal(t, 1011, e.ClientClose.Code)
}

func TestAServerCanSendAfterTheClientsEOF(t *testing.T) {
	f := talk.NewFront(t, "ws", raw(t, func(conn io.ReadWriter) {
		said, err := wsutil.ReadClientText(conn)
		if rest, end := io.ReadAll(conn); err != nil || end != nil || len(rest) > 0 || string(said) != "that is all" {
			return
		}
		for _, word := range []string{"one", "two", "three"} {
			wsutil.WriteServerText(conn, []byte(word))
		}
	}))
	lines := talk.Run(t, client(t, f, "/half"))
	require.Len(t, lines, 1)
	require.Empty(t, lines[0].Error)
	assert.JSONEq(t, `{"texts":["one","two","three"],"code":1006}`, string(lines[0].Result))
	e := f.Ending(t, "/half")
	assert.Equal(t, wsproxy.ReasonClientClosed, e.Reason)
	assert.NoError(t, e.Err)
}

// raw runs a server that receives a connection's raw bytes.
func raw(t *testing.T, serve func(io.ReadWriter)) string {
	t.Helper()
	return testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, _, _, err := ws.UpgradeHTTP(r, w)
		if err != nil {
			return
		}
		defer conn.Close()
		serve(conn)
	}))
}
