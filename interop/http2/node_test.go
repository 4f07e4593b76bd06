package http2_test

import (
	"os/exec"
	"strings"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/talk"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestNodesHTTP2Client(t *testing.T) {
	f := talk.NewFront(t, "h2", testkit.Serve(t, talk.Server()))
	out, err := exec.Command(testkit.Program(t, "node"), "client.mjs", "https"+strings.TrimPrefix(f.URL, "wss")).Output()
	require.NoError(t, err)
	assert.JSONEq(t, `{"announced": true, "status": 200, "protocol": "chat.v2", "got": "810568656c6c6f880203e8", "reset": 0}`, string(out))
	assert.Equal(t, 1000, f.Ending(t, "/echo/node").ClientClose.Code)
}
