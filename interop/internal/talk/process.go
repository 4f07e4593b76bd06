// Package talk makes clients and servers in several languages hold the same
// conversations through a proxy. The Go client and server are in this package.
// The others are scripts that print JSON lines.
package talk

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// A Line is a client's result of one conversation.
type Line struct {
	Path   string          `json:"path"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  string          `json:"error,omitempty"`
}

// Run runs a client's script to its end and returns its lines.
func Run(t testing.TB, cmd *exec.Cmd) []Line {
	t.Helper()
	p := Start(t, cmd)
	var lines []Line
	for line, more := p.next(t); more; line, more = p.next(t) {
		lines = append(lines, line)
	}
	return lines
}

// A Process is a running script.
type Process struct {
	*exec.Cmd
	lines chan []byte
}

// Start runs a script until the test ends.
func Start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	ours, theirs, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { ours.Close() })
	cmd.Stdout = theirs
	lab.Start(t, cmd)
	theirs.Close()
	p := &Process{Cmd: cmd, lines: make(chan []byte)}
	go p.read(t.Context(), ours)
	return p
}

func (p *Process) read(ctx context.Context, r io.Reader) {
	defer close(p.lines)
	for lines := bufio.NewReader(r); ; {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		select {
		case p.lines <- line:
		case <-ctx.Done():
			return
		}
	}
}

// next returns the script's next line, or false at its end.
func (p *Process) next(t testing.TB) (line Line, ok bool) {
	t.Helper()
	select {
	case said, ok := <-p.lines:
		if ok {
			require.NoError(t, json.Unmarshal(said, &line), "%s", said)
		}
		return line, ok
	case <-time.After(3 * testkit.Patience):
		require.Fail(t, "the script says no more")
		return line, false
	}
}

// Next returns the script's next line. The test fails if there is none.
func (p *Process) Next(t testing.TB) Line {
	t.Helper()
	line, ok := p.next(t)
	require.True(t, ok, "the script has ended")
	return line
}

// Listen starts a server's script and returns the address that it prints first.
func Listen(t testing.TB, cmd *exec.Cmd) (addr string) {
	t.Helper()
	require.NoError(t, json.Unmarshal(Start(t, cmd).Next(t).Result, &addr))
	return addr
}

// certificate writes the certificate of a testkit.ServeTLS server to a file,
// for programs that need a file of trusted certificates.
func certificate(t testing.TB, addr string, client *tls.Config) (file string) {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, client)
	require.NoError(t, err)
	defer conn.Close()
	block := pem.Block{Type: "CERTIFICATE", Bytes: conn.ConnectionState().PeerCertificates[0].Raw}
	file = filepath.Join(t.TempDir(), "certificate.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&block), 0o600))
	return file
}
