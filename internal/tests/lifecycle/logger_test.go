package lifecycle_test

import (
	"context"
	"log/slog"
	"net/http"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

// A brokenHandler is a slog.Handler that panics at one message.
type brokenHandler struct {
	slog.Handler
	message string
}

func (h brokenHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h brokenHandler) Handle(_ context.Context, r slog.Record) error {
	if r.Message == h.message {
		panic("no space left")
	}
	return nil
}

// No caller recovers from a panic in the proxy's own goroutines.
func TestALoggerThatPanicsFailsOnlyItsTunnel(t *testing.T) {
	for message, want := range map[string]wsproxy.Reason{
		"tunnel opened": wsproxy.ReasonFailed,
		"hook failed":   wsproxy.ReasonFailed,
		"tunnel closed": wsproxy.ReasonClientClosed,
	} {
		for _, opts := range [][]wsproxy.Option{nil, {wsproxy.WithDetached()}} {
			ended := testkit.NewEndings()
			hook := testkit.OnOpen(func(*wsproxy.Tunnel, *http.Request) {
				if message == "hook failed" {
					panic("boo")
				}
			})
			u := testkit.NewUpstream(t)
			p, addr := testkit.ServeProxy(t, u.URL, append(opts, hook, ended.Option(),
				wsproxy.WithLogger(slog.New(brokenHandler{slog.DiscardHandler, message})))...)
			client := testkit.Dial(t, addr)
			client.Send(t, testkit.SampleRequest)
			server := u.Accept(t)
			server.Request(t)
			server.Send(t, testkit.SampleSwitch)
			if message == "tunnel closed" {
				assert.Equal(t, 101, client.Response(t).StatusCode)
				client.Close()
			}
			server.Rest(t, "the upstream's")
			server.Close()
			assert.Equal(t, want, ended.Next(t).Reason, message)
			testkit.Eventually(t, func() bool { return p.Stats().Live == 0 }, "the tunnel is still counted")
		}
	}
}
