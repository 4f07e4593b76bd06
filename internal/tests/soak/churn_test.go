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
	tests := []struct {
		link   testkit.Link
		n      int
		course *course
	}{
		{link: testkit.PlainLink, n: testkit.Scale(200, 2_000)},
		{link: testkit.Link{Name: "TLS client", TLSClient: true}, n: testkit.Scale(80, 240)},
	}
	all := 0
	for i := range tests {
		all += tests[i].n
		tests[i].course = newCourse(t, tests[i].link, time.Second)
	}
	if limit := testkit.DescriptorLimit(); limit < uint64(5*all+500) {
		testkit.Missing(t, "%d tunnels at once need more descriptors than the limit of %d", all, limit)
	}
	testkit.LeavesNothing(t, func() {
		errs := make(chan error, all)
		var begun, ended sync.WaitGroup
		begun.Add(all) // so that all are open at once
		for _, test := range tests {
			test.course.runAll(t, test.n, &begun, &ended, errs)
		}
		ended.Wait()
		close(errs)
		for err := range errs {
			require.NoError(t, err)
		}
		for _, test := range tests {
			test.course.awaitEndings(t)
		}
	})
	for _, test := range tests {
		t.Run(test.link.Name, func(t *testing.T) { test.course.judge(t) })
	}
}

// runAll starts n tunnels of all ways. None ends before all have begun.
func (c *course) runAll(t *testing.T, n int, begun, ended *sync.WaitGroup, errs chan<- error) {
	var fixtures [2][]*fixture
	var paths [2][]string
	for i := range fixtures {
		fixtures[i], paths[i] = make([]*fixture, len(ways)), make([]string, len(ways))
	}
	for i := range n {
		w, detached := i%len(ways), i/len(ways)%2
		if fixtures[detached][w] == nil || ways[w].own {
			fixtures[detached][w], paths[detached][w] = c.newFixture(t, w, detached == 1)
		}
		s, path := fixtures[detached][w], paths[detached][w]
		ended.Go(func() {
			errs <- c.run(w, s, path, func() {
				begun.Done()
				begun.Wait()
			})
		})
	}
}
