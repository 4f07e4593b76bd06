// Package http2_test has other people's clients open WebSockets over HTTP/2 and
// HTTP/3 through wsproxy.
package http2_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/lab"
	"example.com/wsproxy/interop/internal/talk"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// freeAddr returns an address that was free a moment ago, for programs that do
// not tell which one they took.
func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// haproxy takes clients of HTTP/1.1 and asks addr over HTTP/2, WebSockets
// included. It returns where.
func haproxy(t *testing.T, addr string) string {
	t.Helper()
	program := testkit.Program(t, "haproxy")
	front := freeAddr(t)
	config := filepath.Join(t.TempDir(), "haproxy.cfg")
	require.NoError(t, os.WriteFile(config, []byte(fmt.Sprintf(`
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout tunnel 60s
frontend front
  bind %s
  default_backend back
backend back
  http-reuse always
  server wsproxy %s proto h2 ws h2
`, front, addr)), 0o600))
	lab.Start(t, exec.Command(program, "-db", "-f", config))
	lab.Listening(t, front)
	return front
}

// haproxy/haproxy#3355 and #2244 were about its other side, HTTP/2 clients.
func TestHAProxyAsksOverHTTP2ForGosClient(t *testing.T) {
	f := talk.NewFront(t, "h2c", testkit.Serve(t, talk.Server()))
	talk.Check(t, f, talk.Go(t, "ws://"+haproxy(t, strings.TrimPrefix(f.URL, "ws://")), nil))
}

func TestHAProxyAsksOverHTTP2ForPythonsClient(t *testing.T) {
	f := talk.NewFront(t, "h2c", testkit.Serve(t, talk.Server()))
	cmd := exec.Command("/usr/bin/python3", "client.py", "ws://"+haproxy(t, strings.TrimPrefix(f.URL, "ws://")))
	cmd.Dir = "../python"
	if exec.Command("/usr/bin/python3", "-c", "import websockets.legacy").Run() != nil {
		testkit.Missing(t, "no websockets for Python: install Debian's python3-websockets")
	}
	talk.Check(t, f, talk.Run(t, cmd))
}
