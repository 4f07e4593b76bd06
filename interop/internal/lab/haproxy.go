package lab

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

// HAProxy runs HAProxy in front of the server at addr and returns its address. It
// accepts clients of HTTP/1.1 and makes each of their WebSockets a stream of
// HTTP/2, without TLS.
func HAProxy(t testing.TB, addr string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	listener, err := l.(*net.TCPListener).File()
	require.NoError(t, err)
	defer listener.Close()
	config := filepath.Join(t.TempDir(), "haproxy.cfg")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `
global
  nbthread 1
  maxconn 200
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout tunnel 60s
frontend front
  bind fd@3
  default_backend back
backend back
  http-reuse always
  server wsproxy %s proto h2 ws h2
`, addr), 0o600))
	cmd := exec.Command(testkit.Program(t, "haproxy"), "-db", "-f", config)
	cmd.ExtraFiles = []*os.File{listener}
	Start(t, cmd)
	return l.Addr().String()
}
