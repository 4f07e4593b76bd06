// Package lab runs other people's programs as processes for the tests of interop.
package lab

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

// Start runs cmd and kills it, with the processes that it started, when the
// test ends. If the test fails, output of cmd that is not read otherwise goes
// to the test's log.
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

// Loopback is a loopback address that no other process uses.
var Loopback = func() string {
	n := rand.Uint32()
	return netip.AddrFrom4([4]byte{127, 1 + byte(n)%255, byte(n >> 8), 1 + byte(n>>16)%254}).String()
}()

// FreeAddr returns an address for a program that cannot listen on port 0. Its port is
// held on all addresses until the test's end, because some programs listen on all
// although they are told one: Mosquitto does for WebSockets.
func FreeAddr(t testing.TB) string {
	t.Helper()
	_, port, err := net.SplitHostPort(testkit.HeldAddr(t))
	require.NoError(t, err)
	addr := net.JoinHostPort(Loopback, port)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		testkit.Missing(t, "loopback addresses other than 127.0.0.1: %v", err)
	}
	l.Close()
	return addr
}

// Listening waits until a process accepts connections at addr.
func Listening(t testing.TB, addr string) {
	t.Helper()
	testkit.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}, "nothing listens at %s", addr)
}
