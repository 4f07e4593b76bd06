package wsproxy_test

import (
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
)

// makeDeaf opens a tunnel, one end of which never reads what the other sends
// without end.
func makeDeaf(t *testing.T, r *rig, deaf wsproxy.Reason) {
	t.Helper()
	client, server := r.tunnel(t)
	to, from := inOrder(deaf, client, server)
	if tcp, ok := to.socket().(*net.TCPConn); ok {
		tcp.SetReadBuffer(4 << 10)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(from, endless{})
	}()
	t.Cleanup(func() {
		abort(from)
		<-done
	})
}

func TestASocketThatIsNotReadEndsTheTunnelAtTheSendTimeout(t *testing.T) {
	const timeout = 2 * time.Second
	overLinksAtOnce(t, oneSocketOfEach, func(t *testing.T, l link) func(*testing.T) {
		deafs := []wsproxy.Reason{wsproxy.ClientClosed, wsproxy.UpstreamClosed}
		var ended []endings
		for i, deaf := range deafs {
			ended = append(ended, newEndings())
			makeDeaf(t, l.start(t, nil, ended[i].hook(), wsproxy.WithReadTimeout(0), wsproxy.WithSendTimeout(timeout)), deaf)
		}
		return func(t *testing.T) {
			for i, deaf := range deafs {
				ending := ended[i].next(t)
				assert.Equal(t, wsproxy.SendTimeout, ending.Reason, "reason where %v would come first: %v", deaf, ending.Reason)
				assert.NoError(t, ending.Err)
				assert.GreaterOrEqual(t, ending.Lifetime, timeout)
			}
		}
	})
}

func oneSocketOfEach(l link) bool { return l == plainLink || l.tlsClient != l.tlsUpstream }

func TestAPeerThatDoesNotReadCostsOneBuffer(t *testing.T) {
	overLinks(t, oneSocketOfEach, func(t *testing.T, l link) {
		r := l.start(t, nil)
		makeDeaf(t, r, wsproxy.ClientClosed)
		awaitStall(t, r.p)
		const n = 10
		before := heapInUse()
		for range n {
			makeDeaf(t, r, wsproxy.ClientClosed)
		}
		awaitStall(t, r.p)
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
