package lifecycle_test

import (
	"bufio"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

// Hooks and an admin page use everything at once.
func TestTheProxyCanBeAskedEverythingWhileTunnelsComeAndGo(t *testing.T) {
	for name, opts := range map[string][]wsproxy.Option{"blocking": nil, "detached": {wsproxy.WithDetached()}} {
		t.Run(name, func(t *testing.T) {
			var p atomic.Pointer[wsproxy.Proxy]
			var opened, closed, refused atomic.Int64
			ask := func(tunnel *wsproxy.Tunnel) {
				p := p.Load()
				found, ok := p.Tunnel(tunnel.ID())
				if ok {
					assert.Same(t, tunnel, found)
				}
				s := p.Stats()
				s.LogValue()
				tunnel.LogValue()
				for other := range p.Tunnels() {
					other.LastActivity()
				}
			}
			var others sync.WaitGroup
			hooks := wsproxy.Hooks{OnOpen: func(tunnel *wsproxy.Tunnel, _ *http.Request) func(wsproxy.Ending) {
				opened.Add(1)
				ask(tunnel)
				switch rand.N(6) {
				case 0:
					tunnel.Cut()
				case 1:
					tunnel.Close(1000, "")
				case 2:
					others.Go(func() {
						p.Load().Drain(context.Background(), time.Millisecond, func(o *wsproxy.Tunnel) bool { return o == tunnel })
					})
				}
				return func(e wsproxy.Ending) {
					ask(tunnel)
					e.LogValue()
					tunnel.Cut()
					tunnel.Close(1000, "")
					closed.Add(1)
				}
			}, OnRefuse: func(*http.Request, int, error) { refused.Add(1); p.Load().Stats() }}
			upstream := testkit.ServeTCP(t, func(conn net.Conn) {
				defer conn.Close()
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
					io.WriteString(conn, testkit.SampleSwitch)
					time.Sleep(rand.N(20 * time.Millisecond))
				}
			})
			proxy, addr := testkit.ServeProxy(t, "http://"+upstream, append(opts, wsproxy.WithHooks(hooks), wsproxy.WithMaxTunnels(20),
				wsproxy.WithCloseTimeout(50*time.Millisecond), wsproxy.WithMaxLifetime(200*time.Millisecond))...)
			p.Store(proxy)
			var clients sync.WaitGroup
			for range 300 {
				clients.Add(1)
				go func() {
					defer clients.Done()
					time.Sleep(rand.N(300 * time.Millisecond))
					c := testkit.Dial(t, addr)
					c.Send(t, testkit.SampleRequest)
					time.Sleep(rand.N(20 * time.Millisecond))
					c.Close()
				}()
			}
			drained := make(chan error, 1)
			go func() { drained <- proxy.Drain(context.Background(), 200*time.Millisecond, nil) }()
			clients.Wait()
			assert.NoError(t, <-drained)
			proxy.Shutdown(context.Background())
			others.Wait() // no hook is under way any more that could add to others
			testkit.Eventually(t, func() bool {
				s := proxy.Stats()
				return s.Opened+sumRefused(s) == 300 && refused.Load() >= sumRefused(s) // OnRefuse comes after the count
			}, "some of the 300 upgrades are in no count")
			s := proxy.Stats()
			assert.Equal(t, s.Opened, opened.Load())
			assert.Equal(t, s.Opened, closed.Load())
			assert.Equal(t, sumRefused(s), refused.Load())
		})
	}
}
