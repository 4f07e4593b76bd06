// Package frames_test shows how the proxy handles WebSocket frames: the ones it
// forwards, the Ping and Close frames it adds, and its limits on messages and
// tunnels.
package frames_test

import (
	"testing"

	"example.com/wsproxy/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }
