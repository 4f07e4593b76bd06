package tunnel_test

import (
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

// makeDeaf opens a tunnel, one end of which never reads what the other sends
// without end.
func makeDeaf(t *testing.T, r *testkit.Rig, deaf wsproxy.Reason) {
	t.Helper()
	client, server := r.Tunnel(t)
	to, from := testkit.InOrder(deaf, client, server)
	if tcp, ok := to.Socket().(*net.TCPConn); ok {
		tcp.SetReadBuffer(4 << 10)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(from, testkit.Zeros{})
	}()
	t.Cleanup(func() {
		from.Reset()
		<-done
	})
}

func TestASocketThatIsNotReadEndsTheTunnelAtTheSendTimeout(t *testing.T) {
	t.Parallel()
	const timeout = 2 * time.Second
	testkit.OverLinksAtOnce(t, testkit.OneOfEachSocket, func(t *testing.T, l testkit.Link) func(*testing.T) {
		deafs := []wsproxy.Reason{wsproxy.ReasonClientClosed, wsproxy.ReasonUpstreamClosed}
		var ended []testkit.Endings
		for i, deaf := range deafs {
			ended = append(ended, testkit.NewEndings())
			makeDeaf(t, l.Start(t, nil, ended[i].Option(), wsproxy.WithReadTimeout(0), wsproxy.WithSendTimeout(timeout)), deaf)
		}
		return func(t *testing.T) {
			for i, deaf := range deafs {
				ending := ended[i].Next(t)
				assert.Equal(t, wsproxy.ReasonSendTimeout, ending.Reason, "reason where %v would come first: %v", deaf, ending.Reason)
				assert.NoError(t, ending.Err)
				assert.GreaterOrEqual(t, ending.Lifetime, timeout)
			}
		}
	})
}

func TestAPeerThatDoesNotReadCostsOneBuffer(t *testing.T) {
	testkit.OverLinks(t, testkit.OneOfEachSocket, func(t *testing.T, l testkit.Link) {
		r := l.Start(t, nil)
		makeDeaf(t, r, wsproxy.ReasonClientClosed)
		awaitStall(t, r.Proxy)
		const n = 10
		before := heapInUse()
		for range n {
			makeDeaf(t, r, wsproxy.ReasonClientClosed)
		}
		awaitStall(t, r.Proxy)
		each := (heapInUse() - before) / n
		assert.Less(t, each, int64(300<<10), "bytes of heap for a tunnel and its test's ends")
	})
}

// heapInUse is what the garbage collector finds in use, pools emptied.
func heapInUse() int64 {
	for range 3 { // a sync.Pool keeps things for two collections
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
