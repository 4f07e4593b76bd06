// Package soak_test runs many tunnels that end in every way, and checks that each byte
// arrives and that nothing is left behind.
package soak_test

import (
	"testing"

	"example.com/wsproxy/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }
