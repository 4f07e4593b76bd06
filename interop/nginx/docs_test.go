package nginx_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func documentation(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/nginx.md")
	require.NoError(t, err)
	return string(text)
}

func TestTheDocumentationListsEachDifferenceWithItsReasonAndNoOther(t *testing.T) {
	_, section, found := strings.Cut(documentation(t), "\n## Differences\n")
	require.True(t, found, "docs/nginx.md has no section Differences")
	section, _, _ = strings.Cut(section, "\n## ")
	reasons := map[string]string{}
	for line := range strings.Lines(section) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if title, ok := strings.CutPrefix(cells[0], "| **"); ok {
			reasons[strings.TrimSuffix(title, "**")] = strings.TrimSuffix(cells[len(cells)-1], " |")
		}
	}
	tested := map[string]string{}
	for _, d := range differences {
		tested[d.title] = d.reason
	}
	assert.Equal(t, tested, reasons)
}

func TestTheDocumentedRecipesAreTheOnesThatRun(t *testing.T) {
	files, err := filepath.Glob("testdata/*.conf")
	require.NoError(t, err)
	var run strings.Builder
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		run.Write(text)
	}
	blocks := strings.Split(documentation(t), "```nginx\n")[1:]
	require.NotEmpty(t, blocks)
	for _, block := range blocks {
		block, _, _ = strings.Cut(block, "```")
		assert.Contains(t, run.String(), block)
	}
}
