//go:build unix

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

const deployPage = "../../docs/deploy.md"

// units returns the systemd units of docs/deploy.md by name.
func units(t *testing.T) map[string]string {
	t.Helper()
	page, err := os.ReadFile(deployPage)
	require.NoError(t, err)
	found := map[string]string{}
	for _, m := range regexp.MustCompile("(?s)`/etc/systemd/system/([a-z.]+)`:\n\n```ini\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		found[m[1]] = m[2]
	}
	require.Len(t, found, 2)
	return found
}

func TestTheUnitsOfTheDeployPageAreValid(t *testing.T) {
	t.Parallel()
	analyze := testkit.Program(t, "systemd-analyze")
	const binary = "/usr/local/bin/wsproxy"
	dir := t.TempDir()
	args := []string{"verify", "--man=no"}
	for name, text := range units(t) {
		file := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(file, []byte(strings.ReplaceAll(text, binary, os.Args[0])), 0o600))
		args = append(args, file)
	}
	out, err := exec.Command(analyze, args...).CombinedOutput()
	require.NoError(t, err, string(out))
	require.Empty(t, string(out), "a warning, such as for an unknown key")
}

func TestTheCommandLinesOfTheDeployPageAreValid(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(deployPage)
	require.NoError(t, err)
	for _, pattern := range []string{`(?m)^ExecStart=/usr/local/bin/wsproxy (.*)$`, `(?m)podman run .* wsproxy (.*)$`} {
		line := regexp.MustCompile(pattern).FindStringSubmatch(string(page))
		require.NotNil(t, line, pattern)
		s, err := parse(strings.Fields(line[1]))
		require.NoError(t, err, line[0])
		require.NoError(t, s.bad)
		require.Len(t, s.targets, 1)
	}
}
