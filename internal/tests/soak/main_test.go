// Package soak_test runs many tunnels that end in every way. It checks that
// each byte arrives and that no goroutine, descriptor or memory is left behind.
package soak_test

import (
	"testing"

	"example.com/wsproxy/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }
