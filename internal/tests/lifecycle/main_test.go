// Package lifecycle_test shows how a Proxy shuts down, and what it reports in
// Stats, Tunnels and its log.
package lifecycle_test

import (
	"testing"

	"example.com/wsproxy/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }
