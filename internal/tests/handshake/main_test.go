// Package handshake_test shows how the proxy checks and forwards a handshake,
// and what the client receives when it fails.
package handshake_test

import (
	"testing"

	"example.com/wsproxy/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }
