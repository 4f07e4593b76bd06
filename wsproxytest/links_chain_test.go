package wsproxytest_test

import (
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy/internal/frame"
	. "example.com/wsproxy/wsproxytest"
)

// Each delay counted from the frame's arrival, so a chain took only as long as its
// slowest part.
func TestTheTimesOfAChainAddUp(t *testing.T) {
	second := Latency(time.Second, 0, 1)
	rate := Throttle(Server, 7) // a frame a second
	stall := Chaos(1, Mix{Stall: 1, StallFor: time.Second})
	for name, test := range map[string]struct {
		chain Handler
		want  [3]time.Duration
	}{
		"two latencies":        {Chain(second, second), [3]time.Duration{2, 2, 2}},
		"latency and throttle": {Chain(second, rate), [3]time.Duration{2, 3, 4}},
		"throttle and latency": {Chain(rate, second), [3]time.Duration{2, 3, 4}},
		"stall and latency":    {Chain(stall, second), [3]time.Duration{2, 4, 6}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server, ends := served()
				p := New(t, server, test.chain)
				c := dial(t, p, "/")
				s := <-ends
				start := time.Now()
				for range test.want {
					c.text(t, "x")
				}
				for i, want := range test.want {
					s.want(t, frame.OpText, "x")
					if got := time.Since(start); got != want*time.Second {
						t.Errorf("frame %d comes after %v, want %v", i, got, want*time.Second)
					}
				}
			})
		})
	}
}

// It passed at once on a link that had been idle.
func TestThrottleAppliesToAFrameThatNoEndSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, ends := served()
		p := New(t, server, Chain(func(w *Wire, f Frame) { w.Send(Text(strings.Repeat("x", 94))) }, Throttle(Server, 10)))
		c := dial(t, p, "/")
		s := <-ends
		for range 2 {
			time.Sleep(time.Hour)
			start := time.Now()
			c.text(t, "x")
			s.want(t, frame.OpText, strings.Repeat("x", 94)) // 100 bytes
			if got := time.Since(start); got != 10*time.Second {
				t.Errorf("it comes after %v, want 10s", got)
			}
		}
	})
}

// A frame may be sent from any goroutine, and in a Chain the next Handler runs
// there. Throttle lost count of its rate.
func TestThrottleKeepsToItsRateWithSeveralGoroutines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, ends := served()
		var sends sync.WaitGroup
		p := New(t, server, Chain(func(w *Wire, f Frame) {
			for range 100 {
				sends.Go(func() { w.Send(f) })
			}
		}, Throttle(Server, 10)))
		c := dial(t, p, "/")
		s := <-ends
		go io.Copy(io.Discard, s.br)
		start := time.Now()
		c.text(t, "frame") // 11 bytes
		synctest.Wait()
		sends.Wait()
		if got := time.Since(start); got != 110*time.Second {
			t.Errorf("100 frames of 11 bytes take %v, want 110s", got)
		}
	})
}
