package tunnel_test

import (
	"context"
	"io"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTheEndOfTheRequestsContextEndsABlockingTunnel(t *testing.T) {
	testkit.OverLinks(t, nil, func(t *testing.T, l testkit.Link) {
		ctx, cancel := context.WithCancelCause(context.Background())
		defer cancel(nil)
		ended := testkit.NewEndings()
		ending := endsWith(t, wsproxy.ReasonContextDone, l.Start(t, testkit.WithContext(ctx), ended.Option()), ended,
			func(_, _ *testkit.Peer) { cancel(assert.AnError) })
		assert.ErrorIs(t, ending.Err, assert.AnError)
	})
}

// These tests cover behaviours that net/http/httputil, Traefik and Kubernetes
// test in their own proxies and that no other file here covers. A test says so
// if this proxy differs.

// golang/go#35559
func TestTheEndOfTheContextClosesBothSidesOfABusyTunnel(t *testing.T) {
	t.Parallel()
	testkit.OverLinks(t, nil, func(t *testing.T, l testkit.Link) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		ended := testkit.NewEndings()
		client, server := l.Start(t, testkit.WithContext(ctx), ended.Option()).Tunnel(t)
		sent := make(chan error, 1)
		go func() {
			_, err := io.Copy(server, testkit.Zeros{})
			sent <- err
		}()
		_, err := io.CopyN(io.Discard, client, 1<<20)
		require.NoError(t, err)
		cancel()
		_, err = io.Copy(io.Discard, client)
		assert.NotErrorIs(t, err, testkit.ErrDeadline, "the client's connection stays open")
		err = testkit.Within(t, sent, "the upstream can still send")
		assert.Error(t, err)
		assert.NotErrorIs(t, err, testkit.ErrDeadline, "the upstream's connection stays open")
		assert.Equal(t, wsproxy.ReasonContextDone, ended.Next(t).Reason)
	})
}
