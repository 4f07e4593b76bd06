// Package upstream_test shows how the proxy chooses among several servers,
// finds them by DNS, and what it does when some of them fail.
package upstream_test

import (
	"os"
	"testing"

	"example.com/wsproxy/internal/testkit"
)

func TestMain(m *testing.M) {
	if addr := os.Getenv(backendVariable); addr != "" {
		runBackend(addr) // the test binary as a server, for a test in another process
	}
	testkit.Main(m)
}
