// Package plain_test shows how the proxy forwards ordinary requests.
package plain_test

import (
	"testing"

	"example.com/wsproxy/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }
