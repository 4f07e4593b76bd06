package products_test

import (
	"encoding/json"
	"os"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// docs/products.md names the versions of package-lock.json and go.mod. Debian chooses
// those of the other programs.
func TestThePageNamesTheVersionsThatTheTestsRun(t *testing.T) {
	read := func(name string) []byte {
		text, err := os.ReadFile(name)
		require.NoError(t, err)
		return text
	}
	page := string(read("../../docs/products.md"))
	var modules struct{ Dependencies map[string]string }
	require.NoError(t, json.Unmarshal(read("package.json"), &modules))
	versions := modules.Dependencies
	for _, module := range []string{"github.com/eclipse/paho.mqtt.golang", "github.com/nats-io/nats.go"} {
		found := regexp.MustCompile(module + ` v(\S+)`).FindSubmatch(read("../go.mod"))
		require.NotNil(t, found, module)
		versions[module] = string(found[1])
	}
	for name, version := range versions {
		assert.Contains(t, page, version, name)
	}
}
