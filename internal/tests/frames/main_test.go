// Package frames_test shows the WebSocket frames that cross a tunnel, those that the
// proxy adds, and its limits on messages and tunnels.
package frames_test

import (
	"testing"

	"example.com/wsproxy/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }
