//go:build unix

package lifecycle_test

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The README had two snippets, a server and a shutdown, which contradicted each
// other: a program made of both exited with 1, and its clients saw 1006.
func TestTheMainOfTheREADMESends1001OnSIGTERMAndExitsWith0(t *testing.T) {
	t.Parallel()
	root, err := filepath.Abs("../../..")
	require.NoError(t, err)
	source := readmeMain(t, filepath.Join(root, "README.md"))
	u := testkit.NewUpstream(t)
	addr := testkit.HeldAddr(t)
	for old, fresh := range map[string]string{`"http://localhost:3000"`: `"` + u.URL + `"`, `":8080"`: `"` + addr + `"`} {
		require.Equal(t, 1, strings.Count(source, old), "times that README's main has %s", old)
		source = strings.Replace(source, old, fresh, 1)
	}
	program := buildOffline(t, root, source)

	said := &testkit.Buffer{}
	cmd := exec.Command(program)
	cmd.Stdout, cmd.Stderr = said, said
	require.NoError(t, cmd.Start())
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	t.Cleanup(func() { cmd.Process.Kill() })
	testkit.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil || len(exited) > 0
	}, "the program does not listen")
	require.Empty(t, exited, "the program exits: %s", said)

	client := testkit.Dial(t, addr)
	client.Send(t, testkit.SampleRequestWith(t, "/chat", "/websocket"))
	server := u.Accept(t)
	server.Request(t)
	server.Send(t, testkit.SampleSwitch)
	client.WantSwitch(t)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	c, s := testkit.Ends(client, server)
	testkit.AnswerClose(t, 1001, c, s)
	client.Close()
	server.Close()
	assert.NoError(t, testkit.Within(t, exited, "the program exits"), "%s", said)
	assert.Empty(t, said.String())
}

// readmeMain returns the program in a README: its first block of Go.
func readmeMain(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(text), "```go\n")
	require.True(t, found, "the README has no block of Go")
	source, _, _ := strings.Cut(rest, "```\n")
	require.Contains(t, source, "func main() {")
	return source
}

// buildOffline builds a program that imports wsproxy and returns its path. The
// library needs the standard library alone, so nothing has to be fetched.
func buildOffline(t *testing.T, root, source string) (program string) {
	t.Helper()
	tool := testkit.Program(t, "go")
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(source), 0o600))
	run := func(args ...string) {
		cmd := exec.Command(tool, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS=-mod=mod", "GOPROXY=off", "GOWORK=off")
		said, err := cmd.CombinedOutput()
		require.NoError(t, err, "go %s: %s", strings.Join(args, " "), said)
	}
	run("mod", "init", "readme")
	run("mod", "edit", "-require", "example.com/wsproxy@v0.0.0", "-replace", "example.com/wsproxy="+root)
	run("build", "-o", "program", ".")
	return filepath.Join(dir, "program")
}
