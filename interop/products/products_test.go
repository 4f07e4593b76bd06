// Package products_test runs real products behind the command wsproxy, each with its
// own client. docs/products.md has the results.
package products_test

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// TestProducts is one test, so that the products share the command and the browser.
func TestProducts(t *testing.T) {
	program := build(t)
	for _, p := range []struct {
		name string
		test func(t *testing.T, program string)
	}{
		{"Mosquitto's client stays connected and reconnects after a drain", testMosquitto},
		{"without pings a Mosquitto client is cut and its will is published", testMosquittoWithoutPings},
		{"a NATS client stays connected and reconnects after a drain", testNATS},
		{"a graphql-ws subscription stays open and is resumed after a drain if its client retries refused connections", testGraphQL},
		{"a graphql-ws subscription is resumed after a drain at a socket that stays open", testGraphQLAtAPassedSocket},
		{"Cockpit's certificate takes -target-ca and its check of Origin the client's Host", testCockpitsCertificateAndOrigin},
		{"a session of Cockpit lasts until a drain", testCockpitsSession},
		{"a Jupyter kernel's client stays connected and finds the kernel again after a drain", testJupyter},
	} {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			p.test(t, program)
		})
	}
	t.Run("in Chromium", func(t *testing.T) {
		t.Parallel()
		browser := startBrowser(t)
		t.Run("a page of Vite keeps its HMR and reloads after a drain", func(t *testing.T) {
			t.Parallel()
			testVite(t, program, browser)
		})
		t.Run("noVNC stays connected and reports a drain as a disconnect", func(t *testing.T) {
			t.Parallel()
			testNoVNC(t, program, browser)
		})
	})
}

// build builds cmd/wsproxy.
func build(t *testing.T) (program string) {
	t.Helper()
	program = filepath.Join(t.TempDir(), "wsproxy")
	cmd := exec.Command(testkit.Program(t, "go"), "build", "-o", program, "./cmd/wsproxy")
	cmd.Dir = filepath.Join("..", "..")
	said, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", said)
	return program
}

// readTimeout is the proxy's. A pong that is late on a busy machine must not exceed
// it.
const readTimeout = 4 * time.Second

// pings are flags that hold a silent tunnel open beyond the read timeout.
var pings = []string{"-read-timeout", readTimeout.String(), "-ping", "500ms"}

// A command is a process of cmd/wsproxy.
type command struct {
	program      string
	addr         string
	args         []string
	socket       *os.File // passed to each process, as by systemd, or nil
	cmd          *exec.Cmd
	access, logs *testkit.Buffer
}

// start runs the command until the test ends.
func start(t *testing.T, program string, args ...string) *command {
	t.Helper()
	c := &command{program: program, addr: lab.FreeAddr(t), args: args}
	c.restart(t)
	return c
}

// startAtSocket runs the command on a socket that stays open while no process runs.
func startAtSocket(t *testing.T, program string, args ...string) *command {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	socket, err := l.(*net.TCPListener).File()
	require.NoError(t, err)
	t.Cleanup(func() { socket.Close() })
	c := &command{program: program, addr: l.Addr().String(), args: args, socket: socket}
	c.restart(t)
	return c
}

// restart runs the command again, at the same address. The previous process has
// ended.
func (c *command) restart(t *testing.T) {
	t.Helper()
	c.access, c.logs = new(testkit.Buffer), new(testkit.Buffer)
	c.cmd = exec.Command(c.program, append([]string{"-listen", c.addr, "-drain", "5s", "-access-log", "json"}, c.args...)...)
	if c.socket != nil {
		c.cmd = exec.Command("/bin/sh", append([]string{"-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$0" "$@"`}, c.cmd.Args...)...)
		c.cmd.ExtraFiles = []*os.File{c.socket}
	}
	c.cmd.Stdout, c.cmd.Stderr = c.access, c.logs
	logs := c.logs
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("wsproxy said:\n%s", logs)
		}
	})
	lab.Start(t, c.cmd)
	lab.Listening(t, c.addr)
}

// drain ends the command with SIGTERM. Every tunnel gets Close 1001 and must end
// before the deadline of the drain.
func (c *command) drain(t *testing.T) {
	t.Helper()
	require.NoError(t, c.cmd.Process.Signal(syscall.SIGTERM))
	defer time.AfterFunc(3*testkit.Patience, func() { c.cmd.Process.Kill() }).Stop()
	require.NoError(t, c.cmd.Wait(), "%s", c.logs)
	for _, e := range c.endings(t) {
		require.Equal(t, "shutdown", e.Reason, c.access)
	}
}

// An ending is a tunnel's last line in the access log.
type ending struct {
	Msg, Path, Subprotocol, Reason string
	Lifetime                       float64
}

// endings returns the endings of tunnels so far.
func (c *command) endings(t *testing.T) (endings []ending) {
	t.Helper()
	for line := range strings.Lines(c.access.String()) {
		var e ending
		if !strings.HasPrefix(line, "{") || !strings.HasSuffix(line, "\n") {
			continue
		}
		require.NoError(t, json.Unmarshal([]byte(line), &e), line)
		if e.Msg == "tunnel closed" {
			endings = append(endings, e)
		}
	}
	return endings
}

// outlast waits until a tunnel without the peers' bytes would have reached the read
// timeout, and checks that none has ended.
func (c *command) outlast(t *testing.T) {
	t.Helper()
	time.Sleep(readTimeout + readTimeout/4)
	require.Empty(t, c.endings(t), "the pings did not hold the tunnel open")
}
