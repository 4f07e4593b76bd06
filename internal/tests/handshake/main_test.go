// Package handshake_test shows what a handshake needs on its way through the proxy,
// and what the client gets when it fails.
package handshake_test

import (
	"testing"

	"example.com/wsproxy/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }
