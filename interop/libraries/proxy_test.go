package libraries_test

import (
	"context"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// proxysPing is the payload of the proxy's Pings.
const proxysPing = "wsproxy!"

// bothEnd checks that both ends received a Close frame, and that the proxy
// received their replies.
func bothEnd(t *testing.T, r *rig, want closing, reason wsproxy.Reason, ends ...*end) {
	t.Helper()
	for _, end := range ends {
		assert.Equal(t, want, end.ended(t), "what %s got", end.library)
	}
	e := r.ending(t)
	assert.Equal(t, reason, e.Reason)
	assert.NoError(t, e.Err)
	assert.NotZero(t, e.ClientClose.Code, "the client's reply")
	assert.NotZero(t, e.UpstreamClose.Code, "the upstream's reply")
}

func TestTheProxysCloseFrameReachesBothEnds(t *testing.T) {
	forEachPair(t, func(t *testing.T, c cell) {
		r := newRig(t, c, options{}, options{})
		for _, code := range []int{1000, 1012, 3000, 4001} {
			client, server := r.open(t)
			require.NoError(t, r.tunnel.Close(code, "maintenance"))
			bothEnd(t, r, closing{code: code, reason: "maintenance"}, wsproxy.ReasonKilled, client, server)
		}
	})
}

func TestTheProxysCloseFrameIsSentBetweenFragments(t *testing.T) {
	forEachPair(t, func(t *testing.T, c cell) {
		r := newRig(t, c, options{}, options{})
		for _, fromClient := range []bool{true, false} {
			client, server := r.open(t)
			from, to := client, server
			if !fromClient {
				from, to = server, client
			}
			tunnel := r.tunnel
			from.sendInPieces(false, [][]byte{content(10_000), content(10_000), content(10_000)}, func() {
				if tunnel != nil {
					assert.NoError(t, tunnel.Close(4001, "now"))
					tunnel = nil
				}
			}) // it may fail
			assert.Equal(t, closing{code: 4001, reason: "now"}, to.ended(t), "what %s got", to.library)
			assert.Equal(t, wsproxy.ReasonKilled, r.ending(t).Reason)
		}
	})
}

func TestShutdownSendsACloseFrameToBothEnds(t *testing.T) {
	forEachPair(t, func(t *testing.T, c cell) {
		r := newRig(t, c, options{}, options{})
		client, server := r.open(t)
		ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
		defer cancel()
		require.NoError(t, r.Shutdown(ctx))
		bothEnd(t, r, closing{code: 1001, reason: "shutting down"}, wsproxy.ReasonShutdown, client, server)
	})
}

func TestAMessageThatIsTooLargeClosesBothEnds(t *testing.T) {
	forEachPair(t, func(t *testing.T, c cell) {
		r := newRig(t, c, options{}, options{}, wsproxy.WithMaxClientMessageSize(1000), wsproxy.WithMaxUpstreamMessageSize(1000))
		for _, fromClient := range []bool{true, false} {
			client, server := r.open(t)
			from, to := client, server
			if !fromClient {
				from, to = server, client
			}
			pass(t, from, to, message{false, content(1000)})
			from.send(message{false, content(mebibyte)}) // it may fail
			for _, end := range []*end{client, server} {
				got := end.ended(t)
				assert.Equal(t, 1009, got.code, "what %s got: %v", end.library, got)
			}
			assert.Equal(t, wsproxy.ReasonLimit, r.ending(t).Reason)
		}
	})
}

func TestEveryLibraryRepliesToTheProxysPings(t *testing.T) {
	forEachPair(t, func(t *testing.T, c cell) {
		for _, deflate := range []bool{false, true} {
			o := options{deflate: deflate}
			r := newRig(t, c, o, o, wsproxy.WithPing(5*time.Millisecond, testkit.Patience))
			client, server := r.open(t)
			for _, end := range []*end{client, server} {
				end.pingedBy(t, proxysPing, 3)
			}
			for _, way := range []struct{ from, to *end }{{client, server}, {server, client}} {
				sent := make(chan error, 1)
				go func() {
					// The sender of the fragments receives Pings, too, and the
					// Pongs of the other end.
					sent <- way.from.sendInPieces(true, [][]byte{prose(20_000), prose(20_000)}, func() {
						way.to.pingedBy(t, proxysPing, 2)
					})
				}()
				expect(t, way.to, message{true, append(prose(20_000), prose(20_000)...)})
				require.NoError(t, <-sent)
			}
			require.NoError(t, server.close(4000, "enough"))
			// If a server closes with unread Pongs, the kernel resets the
			// connection, and the reset may overtake its Close frame.
			if got := client.ended(t); got.err == nil || !c.server.hangsUp() {
				assert.Equal(t, closing{code: 4000, reason: "enough"}, got)
			}
			assert.Equal(t, wsproxy.ReasonUpstreamClosed, r.ending(t).Reason)
		}
	})
}
