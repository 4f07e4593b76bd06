package node_test

import (
	"net/http"
	"sync/atomic"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/talk"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// nodejs/undici#5681: it sends a key over HTTP/2 too and wants it accepted.
func TestUndiciOpensAWebSocketOverHTTP2(t *testing.T) {
	var keyed atomic.Bool
	f := talk.NewFrontWithin(t, func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			assert.Equal(t, "CONNECT HTTP/2.0", r.Method+" "+r.Proto)
			keyed.Store(r.Header.Get("Sec-Websocket-Key") != "")
			h.ServeHTTP(w, r)
		})
	}, "h2", testkit.Serve(t, talk.Server()))
	out, err := node(t, "undici.mjs", f.URL).Output()
	require.NoError(t, err)
	assert.JSONEq(t, `{"protocol": "chat.v2", "text": "hello", "large": 1048576, "code": 4002, "reason": "my turn", "wasClean": true}`, string(out))
	assert.True(t, keyed.Load(), "it sends no key any longer")
	assert.Equal(t, 4002, f.Ending(t, "/echo/undici").ClientClose.Code)
}
