// Package tunnel_test shows how an open tunnel forwards bytes, and how and when
// it ends.
package tunnel_test

import (
	"testing"

	"example.com/wsproxy/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }
