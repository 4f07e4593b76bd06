// Package lab runs other people's programs as processes for the tests of interop.
package lab

import (
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

// Start runs cmd until the test's end, which kills it and what it started. Its
// output goes to the test's log if the test fails and cmd has no other use
// for it.
func Start(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	output, err := os.CreateTemp(t.TempDir(), "output")
	require.NoError(t, err)
	if cmd.Stdout == nil {
		cmd.Stdout = output
	}
	if cmd.Stderr == nil {
		cmd.Stderr = output
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
		output.Close()
		if said, _ := os.ReadFile(output.Name()); t.Failed() && len(said) > 0 {
			t.Logf("%s said:\n%s", cmd.Path, said)
		}
	})
}

// Listening waits until something accepts connections at addr.
func Listening(t testing.TB, addr string) {
	t.Helper()
	testkit.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}, "nobody listens at %s", addr)
}
