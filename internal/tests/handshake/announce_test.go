package handshake_test

import (
	"bytes"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// golang/go#71128: net/http reads GODEBUG once, when the program starts. This
// program imports wsproxy/http2, as testkit does; the variable in the environment
// turns that off, as a path that sorts too late would.
func TestNewWarnsIfTheImportForHTTP2HadNoEffect(t *testing.T) {
	if os.Getenv("WSPROXY_TEST_ANNOUNCE") != "" {
		_, err := wsproxy.New("http://localhost", wsproxy.WithLogger(slog.New(slog.NewTextHandler(os.Stdout, nil))))
		require.NoError(t, err)
		return
	}
	for setting, warns := range map[string]bool{"": false, "http2xconnect=1": false, "http2xconnect=0": true, "http2debug=0": false} {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), "WSPROXY_TEST_ANNOUNCE=1", "GODEBUG="+setting)
		out, err := cmd.Output()
		require.NoError(t, err, "%s", out)
		assert.Equal(t, warns, bytes.Contains(out, []byte("level=WARN")), "GODEBUG=%s: %s", setting, out)
		if warns {
			assert.Equal(t, 1, strings.Count(string(out), "GODEBUG=http2xconnect=1"))
		}
	}
}
