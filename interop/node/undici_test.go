package node_test

import (
	"net/http"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/talk"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// newerNode returns the Node.js of package-lock.json. undici 8 needs one that is
// newer than Debian's.
func newerNode(t *testing.T) string {
	t.Helper()
	node(t, "") // or there are no packages at all
	programs, err := filepath.Glob("node_modules/node-linux-*/bin/node")
	require.NoError(t, err)
	for _, program := range programs {
		if exec.Command(program, "--version").Run() == nil {
			return program
		}
	}
	testkit.Missing(t, "there is no newer Node.js in node_modules: run npm ci --prefix interop/node")
	return ""
}

// nodejs/undici#5681: undici sends a key over HTTP/2 too and wants it accepted.
func TestUndiciOpensAWebSocketOverHTTP2(t *testing.T) {
	for name, pkg := range map[string]string{"undici 7": "undici", "undici 8": "undici8"} {
		t.Run(name, func(t *testing.T) {
			var keyed atomic.Bool
			f := talk.NewFrontWithin(t, func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					assert.Equal(t, "CONNECT HTTP/2.0", r.Method+" "+r.Proto)
					keyed.Store(r.Header.Get("Sec-Websocket-Key") != "")
					h.ServeHTTP(w, r)
				})
			}, "h2", testkit.Serve(t, talk.Server()))
			cmd := node(t, "undici.mjs", f.URL, pkg)
			if pkg == "undici8" {
				cmd = exec.Command(newerNode(t), cmd.Args[1:]...)
			}
			out, err := cmd.Output()
			require.NoError(t, err)
			assert.JSONEq(t, `{"protocol": "chat.v2", "text": "hello", "large": 1048576, "code": 4002, "reason": "my turn", "wasClean": true}`, string(out))
			assert.True(t, keyed.Load(), "it sends no key any longer")
			assert.Equal(t, 4002, f.Ending(t, "/echo/undici").ClientClose.Code)
		})
	}
}
