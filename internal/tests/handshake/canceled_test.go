package handshake_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAClientThatDisconnectsDuringTheDialCancelsIt(t *testing.T) {
	errs := testkit.NewFailures()
	dialing := make(chan struct{})
	p, addr := testkit.ServeProxy(t, "http://upstream.example.com", errs.Option(), wsproxy.WithConnectTimeout(0),
		wsproxy.WithDialContext(func(ctx context.Context, _, _ string) (net.Conn, error) {
			close(dialing)
			<-ctx.Done()
			return nil, ctx.Err()
		}))
	client := testkit.Dial(t, addr)
	client.Send(t, testkit.SampleRequest)
	<-dialing
	client.Close()
	err := errs.Next(t).Err
	assert.Equal(t, 499, wsproxy.StatusCode(err))
	assert.ErrorIs(t, err, context.Canceled)
	assert.NotErrorIs(t, err, wsproxy.ErrUpstream, "the upstream is blamed")
	assert.Equal(t, testkit.Counts{}, testkit.Counted(p))
}

func TestAClientThatDisconnectsBeforeTheResponseFreesTheUpstream(t *testing.T) {
	for name, opts := range map[string][]wsproxy.Option{
		"with timeouts":    nil,
		"without timeouts": {wsproxy.WithReadTimeout(0), wsproxy.WithSendTimeout(0), wsproxy.WithConnectTimeout(0)},
	} {
		t.Run(name, func(t *testing.T) {
			u := testkit.NewUpstream(t)
			errs := testkit.NewFailures()
			p, addr := testkit.ServeProxy(t, u.URL, append(opts, errs.Option())...)
			client := testkit.Dial(t, addr)
			client.Send(t, testkit.SampleRequest)
			server := u.Accept(t)
			server.Request(t)
			client.Close()
			assert.Empty(t, server.Rest(t, "the upstream's"))
			err := errs.Next(t).Err
			assert.Equal(t, 499, wsproxy.StatusCode(err))
			assert.NotErrorIs(t, err, wsproxy.ErrUpstream, "the upstream is blamed")
			assert.Equal(t, testkit.Counts{}, testkit.Counted(p))
		})
	}
}

func TestTheContextOfARequestEndsItsHandshake(t *testing.T) {
	reason := errors.New("quota used up")
	for _, c := range []struct {
		name   string
		end    func(context.Context) (context.Context, context.CancelFunc)
		after  time.Duration
		status int
		is     error
	}{
		{"cancelled with a cause", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancelCause(ctx)
			return ctx, func() { cancel(reason) }
		}, 0, 499, reason},
		{"past its deadline", func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			return ctx, func() { <-ctx.Done(); cancel() }
		}, 5 * time.Second, 504, wsproxy.ErrUpstreamTimeout},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				errs := testkit.NewFailures()
				ends := make(chan context.CancelFunc, 1)
				r := testkit.NewMemRig(t, &http.Server{ConnContext: func(ctx context.Context, _ net.Conn) context.Context {
					ctx, end := c.end(ctx)
					ends <- end
					return ctx
				}}, errs.Option())
				client := r.SendHandshake(t)
				server := <-r.Upstreams
				server.Request(t)
				start := time.Now()
				(<-ends)()
				assert.Empty(t, server.Rest(t, "the upstream's"))
				assert.Equal(t, c.status, client.Response(t).StatusCode)
				err := errs.Next(t).Err
				assert.Equal(t, c.status, wsproxy.StatusCode(err))
				assert.ErrorIs(t, err, c.is)
				assert.Equal(t, c.after, time.Since(start), "the handshake ends after")
			})
		})
	}
}

func TestClosingTheProxyEndsAHandshake(t *testing.T) {
	u := testkit.NewUpstream(t)
	errs := testkit.NewFailures()
	p, addr := testkit.ServeProxy(t, u.URL, errs.Option())
	client := testkit.Dial(t, addr)
	client.Send(t, testkit.SampleRequest)
	server := u.Accept(t)
	server.Request(t)
	assert.Equal(t, 1, p.Stats().Handshakes)
	require.NoError(t, p.Close())
	assert.Empty(t, server.Rest(t, "the upstream's"))
	res := client.Response(t)
	assert.Equal(t, 503, res.StatusCode)
	assert.NotEmpty(t, res.Header["Retry-After"])
	assert.ErrorIs(t, errs.Next(t).Err, wsproxy.ErrShutdown)
	assert.Equal(t, testkit.Counts{}, testkit.Counted(p))

	res, _ = testkit.Do(t, addr, testkit.SampleRequest)
	assert.Equal(t, 503, res.StatusCode)
	assert.Empty(t, u.Conns, "the upstream was dialed after Close")
}
