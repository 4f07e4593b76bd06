//go:build unix

package main

import (
	"bufio"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

// A file system that does not answer kept SIGTERM from a command that had got
// SIGHUP.
func TestACertificateThatCannotBeReadDelaysNoSignal(t *testing.T) {
	t.Parallel()
	certFile, keyFile, _ := certificate(t)
	c := start(t, "-tls-cert", certFile, "-tls-key", keyFile)
	require.NoError(t, os.Remove(certFile))
	require.NoError(t, syscall.Mkfifo(certFile, 0o600))
	for range 3 {
		c.signals <- syscall.SIGHUP
	}
	writer, err := os.OpenFile(certFile, os.O_WRONLY, 0) // returns when the file is being read
	require.NoError(t, err)
	defer writer.Close()
	c.signals <- syscall.SIGTERM
	require.Zero(t, c.exit(t), c.stderr)
}

// Nobody read the log, and then no signal ended the command.
func TestASecondSignalEndsACommandWhoseLogIsAFullPipe(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	defer w.Close()
	require.NoError(t, w.SetWriteDeadline(time.Now().Add(50*time.Millisecond)))
	for err == nil {
		_, err = w.Write(make([]byte, 1024)) // until it is full
	}
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	cmd := exec.Command(os.Args[0], "-listen", "127.0.0.1:0", "http://localhost")
	cmd.Env = append(os.Environ(), commandVariable+"=1")
	cmd.Stderr = w
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	exited := make(chan error, 1)
	t.Cleanup(func() { cmd.Process.Kill() })
	_, err = bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	go func() { exited <- cmd.Wait() }()
	require.Error(t, testkit.Within(t, exited, "the exit"))
	require.Equal(t, 1, cmd.ProcessState.ExitCode())
}
