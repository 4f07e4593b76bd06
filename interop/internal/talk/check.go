package talk

import (
	"os/exec"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	byClient   = wsproxy.ReasonClientClosed
	byUpstream = wsproxy.ReasonUpstreamClosed
)

// An outcome is the expected result of a conversation, for any client and
// server: the client's result and the tunnel's ending.
type outcome struct {
	path, result     string
	reason           wsproxy.Reason // 0 if there is no tunnel
	client, upstream side
}

// A side is one direction of a tunnel.
type side struct {
	closeCode       int
	messages, bytes int64 // bytes is a maximum; 0 means any number
}

var outcomes = []outcome{
	{"/echo/text", `{"messages":304}`, byClient, side{1000, 304, 0}, side{1000, 304, 0}},
	{"/echo/binary", `{"bytes":17957114}`, byClient, side{1000, 7, 0}, side{1000, 7, 0}},
	{"/echo/deflate", `{"extension":"permessage-deflate"}`, byClient, side{1000, 1, 50_000}, side{1000, 1, 50_000}},
	{"/echo/subprotocol", `{"protocol":"chat.v2"}`, byClient, side{1000, 0, 0}, side{1000, 0, 0}},
	{"/echo/fragments", `{"text":"onetwothree"}`, byClient, side{1000, 1, 0}, side{1000, 1, 0}},
	{"/echo/ping", `{"pong":true}`, byClient, side{1000, 0, 0}, side{1000, 0, 0}},
	{"/ping", `{"text":"pong"}`, byClient, side{1000, 0, 0}, side{1000, 1, 0}},
	{"/close", `{"code":4001,"reason":"enough"}`, byUpstream, side{4001, 0, 0}, side{4001, 0, 0}},
	{"/echo/close", `{}`, byClient, side{4002, 0, 0}, side{4002, 0, 0}},
	{"/drop", `{"code":1006}`, byUpstream, side{}, side{}},
	{"/echo/abort", `{}`, byClient, side{}, side{}},
	{"/refuse", `{"status":401,"challenge":"Bearer"}`, 0, side{}, side{}},
	{"/headers", `{"host":true,"x-real-ip":"127.0.0.1","x-forwarded-for":"127.0.0.1","x-forwarded-proto":"PROTO","upgrade":"websocket"}`,
		byClient, side{1000, 0, 0}, side{1000, 1, 0}},
}

// Check checks that every conversation was held through f with the expected
// outcome.
func Check(t *testing.T, f *Front, lines []Line) {
	t.Helper()
	said := map[string]Line{}
	for _, line := range lines {
		said[line.Path] = line
	}
	for _, want := range outcomes {
		t.Run(want.path[1:], func(t *testing.T) {
			line, ok := said[want.path]
			require.True(t, ok, "the client ended before it came to this")
			require.Empty(t, line.Error)
			assert.JSONEq(t, f.expand(want.result), string(line.Result))
			if want.reason != 0 {
				e := f.Ending(t, want.path)
				assert.Equal(t, want.reason, e.Reason)
				want.client.check(t, "client", e.FromClient, e.ClientClose)
				want.upstream.check(t, "upstream", e.FromUpstream, e.UpstreamClose)
			}
		})
	}
	assert.Len(t, lines, len(outcomes))
	assert.Zero(t, f.Stats().Handshakes)
}

func (want side) check(t *testing.T, name string, got wsproxy.FlowStats, closed wsproxy.CloseFrame) {
	t.Helper()
	assert.Equal(t, want.closeCode, closed.Code, "the %s's close code", name)
	assert.Equal(t, want.messages, got.Messages, "the %s's messages", name)
	if want.bytes > 0 {
		assert.Less(t, got.Bytes, want.bytes, "the %s's bytes", name)
	}
}

// CheckPairs makes a language's client talk to the Go server, its server to the
// Go client, and both to each other. upstream is the address of its server.
func CheckPairs(t *testing.T, language, upstream string, client func(*testing.T, *Front, ...string) *exec.Cmd) {
	t.Run(language+" to Go", func(t *testing.T) {
		f := NewFront(t, "ws", testkit.Serve(t, Server()))
		Check(t, f, Run(t, client(t, f)))
	})
	t.Run("Go to "+language, func(t *testing.T) {
		f := NewFront(t, "ws", upstream)
		Check(t, f, Go(t, f.URL, f.TLS))
	})
	for _, scheme := range []string{"ws", "wss"} {
		t.Run(language+" to "+language+" over "+scheme, func(t *testing.T) {
			f := NewFront(t, scheme, upstream)
			Check(t, f, Run(t, client(t, f)))
		})
	}
}
