package wsproxy_test

import (
	"fmt"
	"net/http"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// times returns a number of tunnels: the small one by default.
func times(small, full int) int {
	if os.Getenv("WSPROXY_STRESS") == "full" {
		return full
	}
	return small
}

// leavesNothing checks that the process is back where it was.
func leavesNothing(t *testing.T, test func()) {
	t.Helper()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	goroutines, descriptors := runtime.NumGoroutine(), openDescriptors()
	test()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if runtime.NumGoroutine() <= goroutines && openDescriptors() <= descriptors {
			return
		}
	}
	assert.LessOrEqual(t, runtime.NumGoroutine(), goroutines, "goroutines")
	assert.LessOrEqual(t, openDescriptors(), descriptors, "descriptors")
}

func TestTunnelsOneAfterAnotherLeaveNothingBehind(t *testing.T) {
	n := times(300, 10_000)
	for _, detached := range []bool{false, true} {
		t.Run(fmt.Sprintf("detached %t", detached), func(t *testing.T) {
			c := newCourse(t, plainLink, 10*time.Millisecond) // long enough for a handshake, as a rule
			stands, paths := make([]*stand, len(ways)), make([]string, len(ways))
			leavesNothing(t, func() {
				for i := 0; i < n/2 && c.allRight(); i++ {
					w := i % len(ways)
					if stands[w] == nil || ways[w].own {
						stands[w], paths[w] = c.newStand(t, w, detached)
					}
					require.NoError(t, c.run(w, stands[w], paths[w], func() {}), ways[w].name)
				}
				c.awaitRest(t)
			})
			c.judge(t)
		})
	}
}

func TestTunnelsSideBySideLeaveNothingBehind(t *testing.T) {
	for _, test := range []struct {
		link link
		n    int
	}{
		{plainLink, times(200, 2_000)},
		{link{name: "TLS client", tlsClient: true}, times(80, 240)},
	} {
		t.Run(test.link.name, func(t *testing.T) {
			if limit := descriptorLimit(); limit < uint64(5*test.n+500) {
				missing(t, "%d tunnels at once need more descriptors than the %d that there may be", test.n, limit)
			}
			c := newCourse(t, test.link, time.Second)
			var stands [2][]*stand
			var paths [2][]string
			for i := range stands {
				stands[i], paths[i] = make([]*stand, len(ways)), make([]string, len(ways))
			}
			leavesNothing(t, func() {
				var all, open sync.WaitGroup
				open.Add(test.n)
				errs := make(chan error, test.n)
				for i := range test.n {
					w, detached := i%len(ways), i/len(ways)%2
					if stands[detached][w] == nil || ways[w].own {
						stands[detached][w], paths[detached][w] = c.newStand(t, w, detached == 1)
					}
					s, path := stands[detached][w], paths[detached][w]
					all.Go(func() {
						errs <- c.run(w, s, path, func() {
							open.Done()
							open.Wait() // so that all are open at once
						})
					})
				}
				all.Wait()
				close(errs)
				for err := range errs {
					require.NoError(t, err)
				}
				c.awaitRest(t)
			})
			c.judge(t)
		})
	}
}
