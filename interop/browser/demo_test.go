package browser_test

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"example.com/wsproxy/interop/internal/lab"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// build builds cmd/wsproxy.
func build(t *testing.T) (program string) {
	t.Helper()
	program = filepath.Join(t.TempDir(), "wsproxy")
	cmd := exec.Command(lab.Require(t, "go"), "build", "-o", program, "./cmd/wsproxy")
	cmd.Dir = filepath.Join("..", "..")
	said, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", said)
	return program
}

// run runs the command with its demo and returns the process and the URL of
// the page.
func run(t *testing.T, program string, flags ...string) (process *os.Process, url string) {
	t.Helper()
	ours, theirs, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { ours.Close() })
	cmd := exec.Command(program, append(flags, "-listen", "127.0.0.1:0")...)
	cmd.Stdout = theirs
	lab.Start(t, cmd)
	theirs.Close()
	line, err := bufio.NewReader(ours).ReadString('\n')
	require.NoError(t, err)
	fields := strings.Fields(line) // "wsproxy: URL -> demo upstream"
	require.Len(t, fields, 5, line)
	return cmd.Process, fields[1]
}

// selfSigned returns flags for a certificate that nobody trusts: httptest's.
func selfSigned(t *testing.T) []string {
	t.Helper()
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.StartTLS()
	defer s.Close()
	pair := s.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	require.NoError(t, err)
	return []string{
		"-tls-cert", writePEM(t, "CERTIFICATE", pair.Certificate[0]),
		"-tls-key", writePEM(t, "PRIVATE KEY", key),
	}
}

func writePEM(t *testing.T, kind string, der []byte) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
	return file
}

func testDemo(t *testing.T, browser context.Context, program string, flags ...string) {
	process, url := run(t, program, flags...)
	page := open(t, browser, url)

	proto := "http"
	if len(flags) > 0 {
		proto = "https"
	}
	page.text(t, "#state", "connected")
	page.text(t, "#fields", "X-Forwarded-Proto\t"+proto+"\n")
	page.text(t, "#last", " ms")
	page.text(t, "#rows", "/echo")

	page.do(t, chromedp.SetValue("#message", "grüße"), chromedp.Click("#send"))
	assert.Contains(t, page.text(t, "#log li", "came back after"), "grüße")

	page.do(t, chromedp.Click("#toggle"))
	page.text(t, "#close", "Closed with 1000")
	page.do(t, chromedp.Click("#toggle"))
	page.text(t, "#state", "connected")

	require.NoError(t, process.Signal(syscall.SIGTERM))
	page.text(t, "#close", "Closed with 1001 – going away, reason “shutting down”, clean.")
}
