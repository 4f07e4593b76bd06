package frames_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A strict client and a strict server exchange messages and Pings as fast as
// they can while the proxy closes. Each end may see only the other's messages,
// in order, and the Close frame.
func TestUnderLoadBothEndsReceiveWholeMessagesAndThenTheCloseFrame(t *testing.T) {
	t.Parallel()
	var strict [2][]*strictRig // over TCP and TLS, for each compression
	for i := range strict {
		for compression := range strictCompression {
			strict[i] = append(strict[i], newStrictRig(t, i == 1, compression))
		}
	}
	for round := range testkit.Scale(20, 1000) {
		rng := rand.New(rand.NewPCG(uint64(round), 1))
		compression := rng.IntN(len(strictCompression))
		rig := strict[round%2][compression]
		t.Run(fmt.Sprint(round), func(t *testing.T) { closeUnderLoad(t, rig, compression, round, rng) })
	}
}

func closeUnderLoad(t *testing.T, rig *strictRig, compression, round int, rng *rand.Rand) {
	ended := testkit.NewEndings()
	// If an end did not reply, its tunnel would stay open for longer than the
	// test waits.
	opts := []wsproxy.Option{ended.Option(), wsproxy.WithCloseTimeout(time.Hour), wsproxy.WithReadTimeout(time.Hour)}
	if rig.tls != nil {
		opts = append(opts, wsproxy.WithTLSConfig(rig.tls))
	}
	if rng.IntN(2) == 0 {
		opts = append(opts, wsproxy.WithMaxClientMessageSize(2<<20), wsproxy.WithMaxUpstreamMessageSize(2<<20)) // which no message reaches
	}
	if rng.IntN(2) == 0 {
		opts = append(opts, wsproxy.WithPing(time.Duration(1+rng.IntN(3))*time.Millisecond, time.Hour))
	}
	p := testkit.NewProxy(t, rig.url, opts...)
	client, server := rig.tunnel(t, rig.serve(t, p), compression)
	tunnel := testkit.OnlyTunnel(t, p)

	ctx, cancel := context.WithTimeout(context.Background(), testkit.Patience)
	defer cancel()
	type side struct {
		sent, received int
		err            error
	}
	var sides [2]side
	var wg sync.WaitGroup
	for i, end := range []strictEnd{client, server} {
		own, others := uint64(2*round+i), uint64(2*round+1-i)
		wg.Go(func() { sides[i].sent = end.sendAll(ctx, newMessageMaker(own, 20), 0) })
		wg.Go(func() {
			s := &sides[i]
			s.received, s.err = end.receiveAll(ctx, newMessageMaker(others, 20))
		})
	}
	time.Sleep(time.Duration(rng.IntN(20_000)) * time.Microsecond) // the random moment
	code, text, want := 1001, "shutting down", wsproxy.ReasonShutdown
	if rng.IntN(2) == 0 {
		code, text, want = 3000+rng.IntN(2000), fmt.Sprint("round ", round), wsproxy.ReasonKilled
		require.NoError(t, tunnel.Close(code, text))
	} else {
		require.NoError(t, p.Shutdown(ctx))
	}
	ending := ended.Next(t)
	wg.Wait()

	assert.Equal(t, want.String(), ending.Reason.String())
	assert.NoError(t, ending.Err)
	for i, name := range []string{"client", "upstream"} {
		s, other := sides[i], sides[1-i]
		assert.NoError(t, s.err, "what the %s reads", name)
		heard := [2]strictEnd{client, server}[i].tap.Heard()
		assert.NoError(t, heard.Err, "the frames for the %s", name)
		assert.Equal(t, code, heard.Code, "the code for the %s", name)
		assert.Equal(t, text, heard.Reason, "the reason for the %s", name)
		assert.Equal(t, heard.Messages, s.received, "messages that the %s can read", name)
		assert.LessOrEqual(t, s.received, other.sent+1, "messages that the %s gets", name)
		from := [2]wsproxy.FlowStats{ending.FromUpstream, ending.FromClient}[i]
		assert.EqualValues(t, s.received, from.Messages, "messages toward the %s, by the ending", name)
		closed := [2]wsproxy.CloseFrame{ending.UpstreamClose, ending.ClientClose}[i]
		assert.Equal(t, code, closed.Code, "the code of the reply to the %s's peer", name)
	}
}

func TestFiveHundredBusyTunnelsDrain(t *testing.T) {
	const n = 500
	pause := 500 * time.Millisecond // 2,000 messages a second altogether
	if testkit.RaceEnabled() {
		pause = 2 * time.Second // the ends' library gives the reply to a Close frame five seconds
	}
	rig := newStrictRig(t, false, 0)
	ended := testkit.NewEndings()
	p := testkit.NewProxy(t, rig.url, ended.Option(), wsproxy.WithCloseTimeout(time.Hour))
	addr := rig.serve(t, p)
	var ends [n][2]strictEnd
	for i := range ends {
		ends[i][0], ends[i][1] = rig.tunnel(t, addr, 0)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*testkit.Patience)
	defer cancel()
	var wg sync.WaitGroup
	errs := make(chan error, 2*n)
	for i, pair := range ends {
		for j, end := range pair {
			wg.Go(func() { end.sendAll(ctx, newMessageMaker(uint64(2*i+j), 12), pause) })
			wg.Go(func() {
				_, err := end.receiveAll(ctx, newMessageMaker(uint64(2*i+1-j), 12))
				errs <- err
			})
		}
	}
	testkit.Eventually(t, func() bool {
		for tunnel := range p.Tunnels() {
			if tunnel.FromClient().Messages == 0 || tunnel.FromUpstream().Messages == 0 {
				return false
			}
		}
		return true
	}, "not every tunnel is busy")
	assert.Equal(t, n, p.Stats().Live)
	start := time.Now()
	require.NoError(t, p.Shutdown(ctx), "all tunnels end by themselves")
	t.Logf("%d busy tunnels ended after %v", n, time.Since(start))
	wg.Wait()
	for range 2 * n {
		require.NoError(t, <-errs)
	}
	for _, pair := range ends {
		for _, end := range pair {
			heard := end.tap.Heard()
			require.NoError(t, heard.Err)
			require.Equal(t, 1001, heard.Code)
		}
	}
	for range n {
		ending := ended.Next(t)
		require.Equal(t, wsproxy.ReasonShutdown, ending.Reason)
		require.Equal(t, 1001, ending.ClientClose.Code)
		require.Equal(t, 1001, ending.UpstreamClose.Code)
	}
}
