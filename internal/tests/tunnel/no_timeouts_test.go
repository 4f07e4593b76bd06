package tunnel_test

import (
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Without timeouts the sweeper does not run until the proxy has sent a Close
// frame and waits for replies.
func TestWithoutOtherTimeoutsTheCloseTimeoutStillApplies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil, wsproxy.WithReadTimeout(0), wsproxy.WithSendTimeout(0), wsproxy.WithCloseTimeout(0))
		r.Tunnel(t)
		r.Tunnel(t)
		time.Sleep(time.Hour)
		start := time.Now()
		for tunnel := range r.Proxy.Tunnels() {
			require.NoError(t, tunnel.Close(1000, ""))
			time.Sleep(4 * time.Second) // the second Close must not extend the first one's timeout
		}
		for i := range 2 {
			ending := <-r.Ended
			assert.Equal(t, unanswered+time.Duration(i)*4*time.Second, time.Since(start))
			assert.ErrorIs(t, ending.Err, wsproxy.ErrCut)
		}
	})
}
