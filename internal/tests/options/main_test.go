// Package options_test shows the effect of each option, and the mistakes that New
// reports.
package options_test

import (
	"testing"

	"example.com/wsproxy/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }
