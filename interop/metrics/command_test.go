package metrics_test

import (
	"bufio"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// runCommand builds cmd/wsproxy and runs it with a route to server. It returns the
// job of its metrics and a load on that route.
func runCommand(t *testing.T, server string) job {
	t.Helper()
	program := filepath.Join(t.TempDir(), "wsproxy")
	build := exec.Command(testkit.Program(t, "go"), "build", "-o", program, "./cmd/wsproxy")
	build.Dir = filepath.Join("..", "..")
	said, err := build.CombinedOutput()
	require.NoError(t, err, "%s", said)

	ours, theirs, err := os.Pipe()
	require.NoError(t, err)
	t.Cleanup(func() { ours.Close() })
	cmd := exec.Command(program, "-listen", "127.0.0.1:0", "-admin", "127.0.0.1:0", "-origin", "https://good.example",
		"-route", "/chat=http://"+server, "http://"+server)
	cmd.Stdout = theirs
	lab.Start(t, cmd)
	theirs.Close()
	lines := bufio.NewScanner(ours)
	var addrs []string // of each line's first URL
	for len(addrs) < 3 && lines.Scan() {
		for _, field := range strings.Fields(lines.Text()) {
			if u, err := url.Parse(field); err == nil && u.Scheme == "http" {
				addrs = append(addrs, u.Host)
				break
			}
		}
	}
	require.Len(t, addrs, 3, "two routes, and -admin")
	return job{"command", addrs[2], "/metrics", &load{url: "ws://" + addrs[0] + "/chat"}, "from", "code", "reason"}
}
