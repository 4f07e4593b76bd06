// Package node_test runs Node.js programs through wsproxy: ws as client and
// server, and socket.io.
package node_test

import (
	"os"
	"os/exec"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/talk"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// node returns the command that runs a script with the packages of
// package-lock.json.
func node(t *testing.T, script string, args ...string) *exec.Cmd {
	t.Helper()
	program := testkit.Program(t, "node")
	if _, err := os.Stat("node_modules"); err != nil {
		testkit.Missing(t, "there is no node_modules here: run npm ci --prefix interop/node")
	}
	return exec.Command(program, append([]string{script}, args...)...)
}

// client returns the command that runs the ws client through f.
func client(t *testing.T, f *talk.Front, paths ...string) *exec.Cmd {
	t.Helper()
	cmd := node(t, "client.mjs", append([]string{f.URL}, paths...)...)
	cmd.Env = append(cmd.Environ(), "NODE_EXTRA_CA_CERTS="+f.Certificate)
	return cmd
}

func TestWSUnderstandsWhatTheProxySends(t *testing.T) {
	talk.CheckEndings(t, "ws", talk.Listen(t, node(t, "server.mjs")), client)
}

func TestWSAsClientAndServer(t *testing.T) {
	talk.CheckPairs(t, "Node", talk.Listen(t, node(t, "server.mjs")), client)
}
