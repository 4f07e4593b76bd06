// Package tunnel_test shows what crosses an open tunnel, and how and when it ends.
package tunnel_test

import (
	"testing"

	"example.com/wsproxy/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }
