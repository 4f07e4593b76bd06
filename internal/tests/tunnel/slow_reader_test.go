package tunnel_test

import (
	"net"
	"runtime"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

// zeros is shared by all writers, so that the heap measured below does not
// include a buffer for each.
var zeros = make([]byte, 32<<10)

// stallTunnel opens a tunnel, one end of which never reads while the other
// sends without end.
func stallTunnel(t *testing.T, r *testkit.Rig, stalled wsproxy.Reason) {
	t.Helper()
	client, server := r.Tunnel(t)
	to, from := testkit.InOrder(stalled, client, server)
	if tcp, ok := to.Socket().(*net.TCPConn); ok {
		tcp.SetReadBuffer(4 << 10)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for err := error(nil); err == nil; {
			_, err = from.Write(zeros)
		}
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
		sides := []wsproxy.Reason{wsproxy.ReasonClientClosed, wsproxy.ReasonUpstreamClosed}
		var ended []testkit.Endings
		for i, stalled := range sides {
			ended = append(ended, testkit.NewEndings())
			stallTunnel(t, l.Start(t, nil, ended[i].Option(), wsproxy.WithReadTimeout(0), wsproxy.WithSendTimeout(timeout)), stalled)
		}
		return func(t *testing.T) {
			for i, stalled := range sides {
				ending := ended[i].Next(t)
				assert.Equal(t, wsproxy.ReasonSendTimeout, ending.Reason, "reason where %v would come first: %v", stalled, ending.Reason)
				assert.ErrorIs(t, ending.Err, wsproxy.ErrCut)
				assert.GreaterOrEqual(t, ending.Lifetime, timeout)
			}
		}
	})
}

// A loop's reads, and so the buffer, grow to a sixteenth of the bytes that the
// kernel's buffers have taken: 256 KiB if these took 4 MiB. The test's ends and
// the server need some 30 kB more.
func TestAPeerThatDoesNotReadCostsOneBuffer(t *testing.T) {
	testkit.OverLinks(t, func(l testkit.Link) bool { return testkit.OneOfEachSocket(l) && testkit.OwnSocket(l) }, func(t *testing.T, l testkit.Link) {
		r := l.Start(t, nil)
		stallTunnel(t, r, wsproxy.ReasonClientClosed)
		awaitStall(t, r.Proxy)
		const n = 10
		before := heapInUse()
		for range n {
			stallTunnel(t, r, wsproxy.ReasonClientClosed)
		}
		awaitStall(t, r.Proxy)
		each := (heapInUse() - before) / n
		assert.Less(t, each, int64(300<<10), "bytes of heap for a tunnel and its test's ends")
	})
}

// heapInUse returns the bytes in use after a garbage collection with empty
// pools.
func heapInUse() int64 {
	for range 3 { // a sync.Pool keeps items for two collections
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
