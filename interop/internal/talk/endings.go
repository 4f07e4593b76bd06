package talk

import (
	"context"
	"os/exec"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// CheckEndings checks that a script's client understands what the proxy itself
// sends: refusals, Pings, and Close frames. client returns the command that
// runs the conversation of path through f, which NewFront returns for scheme.
func CheckEndings(t *testing.T, scheme, upstream string, client func(t *testing.T, f *Front, paths ...string) *exec.Cmd) {
	for _, c := range []struct {
		name, path, result string
		opt                wsproxy.Option
		reason             wsproxy.Reason
	}{
		{"an idle tunnel", "/echo/wait", `{"code":1001,"reason":"idle for too long"}`,
			wsproxy.WithReadTimeout(time.Second), wsproxy.ReasonReadTimeout},
		{"a message that is too large", "/echo/large", `{"code":1009,"reason":"message too big"}`,
			wsproxy.WithMaxClientMessageSize(50_000), wsproxy.ReasonLimit},
	} {
		t.Run(c.name+" is closed with a code", func(t *testing.T) {
			f := NewFront(t, scheme, upstream, c.opt)
			lines := Run(t, client(t, f, c.path))
			require.NotEmpty(t, lines)
			last := lines[len(lines)-1]
			require.Empty(t, last.Error)
			assert.JSONEq(t, c.result, string(last.Result))
			assert.Equal(t, c.reason, f.Ending(t, c.path).Reason)
		})
	}

	t.Run("a drain is seen as code 1001, after pings that do no harm", func(t *testing.T) {
		f := NewFront(t, scheme, upstream, wsproxy.WithPing(20*time.Millisecond, testkit.Patience))
		p := Start(t, client(t, f, "/echo/wait"))
		require.JSONEq(t, `{"open":true}`, string(p.Next(t).Result))
		testkit.Eventually(t, func() bool {
			s := f.Stats()
			return s.FromClient.Bytes > 200 && s.FromUpstream.Bytes > 200 // a Pong is 10 or 14
		}, "no reply to the proxy's pings")
		ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
		defer cancel()
		require.NoError(t, f.Shutdown(ctx))
		require.JSONEq(t, `{"code":1001,"reason":"shutting down"}`, string(p.Next(t).Result))
		e := f.Ending(t, "/echo/wait")
		assert.Equal(t, wsproxy.ReasonShutdown, e.Reason)
		assert.NoError(t, e.Err)
		assert.Equal(t, 1001, e.ClientClose.Code, "the client's reply")
		assert.Equal(t, 1001, e.UpstreamClose.Code, "the server's reply")
	})

	for _, c := range []struct {
		name, upstream, origin, result string
	}{
		{"a page of another site", upstream, "https://evil.example", `{"status":403}`},
		{"a dead upstream", testkit.RefusingAddr(t), "https://example.com", `{"status":502}`},
	} {
		t.Run(c.name+" is refused with a status", func(t *testing.T) {
			f := NewFront(t, scheme, c.upstream, wsproxy.WithOrigins("https://example.com"))
			cmd := client(t, f, "/refuse")
			cmd.Env = append(cmd.Environ(), "ORIGIN="+c.origin)
			lines := Run(t, cmd)
			require.Len(t, lines, 1)
			require.Empty(t, lines[0].Error)
			assert.JSONEq(t, c.result, string(lines[0].Result))
		})
	}
}
