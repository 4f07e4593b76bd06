package soak_test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

func TestTunnelsOneAfterAnotherLeaveNothingBehind(t *testing.T) {
	n := testkit.Scale(300, 10_000)
	for _, detached := range []bool{false, true} {
		t.Run(fmt.Sprintf("detached %t", detached), func(t *testing.T) {
			c := newCourse(t, testkit.PlainLink, 10*time.Millisecond) // usually long enough for a handshake
			fixtures, paths := make([]*fixture, len(ways)), make([]string, len(ways))
			testkit.LeavesNothing(t, func() {
				for i := 0; i < n/2 && c.allRight(); i++ {
					w := i % len(ways)
					if fixtures[w] == nil || ways[w].own {
						fixtures[w], paths[w] = c.newFixture(t, w, detached)
					}
					require.NoError(t, c.run(w, fixtures[w], paths[w], func() {}), ways[w].name)
				}
				c.awaitEndings(t)
			})
			c.judge(t)
		})
	}
}

func TestTunnelsSideBySideLeaveNothingBehind(t *testing.T) {
	for _, test := range []struct {
		link testkit.Link
		n    int
	}{
		{testkit.PlainLink, testkit.Scale(200, 2_000)},
		{testkit.Link{Name: "TLS client", TLSClient: true}, testkit.Scale(80, 240)},
	} {
		t.Run(test.link.Name, func(t *testing.T) {
			if limit := testkit.DescriptorLimit(); limit < uint64(5*test.n+500) {
				testkit.Missing(t, "%d tunnels at once need more descriptors than the limit of %d", test.n, limit)
			}
			c := newCourse(t, test.link, time.Second)
			var fixtures [2][]*fixture
			var paths [2][]string
			for i := range fixtures {
				fixtures[i], paths[i] = make([]*fixture, len(ways)), make([]string, len(ways))
			}
			testkit.LeavesNothing(t, func() {
				var all, open sync.WaitGroup
				open.Add(test.n)
				errs := make(chan error, test.n)
				for i := range test.n {
					w, detached := i%len(ways), i/len(ways)%2
					if fixtures[detached][w] == nil || ways[w].own {
						fixtures[detached][w], paths[detached][w] = c.newFixture(t, w, detached == 1)
					}
					s, path := fixtures[detached][w], paths[detached][w]
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
				c.awaitEndings(t)
			})
			c.judge(t)
		})
	}
}
