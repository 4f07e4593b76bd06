package wsproxytest_test

import (
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy/internal/frame"
	. "example.com/wsproxy/wsproxytest"
)

func TestLatencyDelaysAStreamAndDoesNotSlowItDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, ends := served()
		p := New(t, server, Latency(time.Second, 0, 1))
		c := dial(t, p, "/")
		s := <-ends
		start := time.Now()
		go func() {
			for range 10 {
				c.text(t, "x")
				time.Sleep(10 * time.Millisecond)
			}
		}()
		for i := range 10 {
			s.want(t, frame.OpText, "x")
			if got, want := time.Since(start), time.Second+time.Duration(i)*10*time.Millisecond; got != want {
				t.Errorf("frame %d comes after %v, want %v", i, got, want)
			}
		}
		s.text(t, "back")
		c.want(t, frame.OpText, "back")
		if got := time.Since(start); got != 2*time.Second+90*time.Millisecond {
			t.Errorf("the answer comes after %v", got)
		}
	})
}

func TestJitterIsDrawnFromTheSeed(t *testing.T) {
	arrivals := func(seed uint64) (at []time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			server, ends := served()
			p := New(t, server, Latency(time.Second, time.Second, seed))
			c := dial(t, p, "/")
			s := <-ends
			start := time.Now()
			for range 20 {
				c.text(t, "x")
				s.want(t, frame.OpText, "x")
				at = append(at, time.Since(start))
				start = time.Now()
			}
		})
		return at
	}
	a, b, c := arrivals(1), arrivals(1), arrivals(2)
	same := true
	for i := range a {
		if a[i] != b[i] || a[i] < time.Second || a[i] > 2*time.Second {
			t.Errorf("delays %v and %v, want the same one from 1s to 2s", a[i], b[i])
		}
		same = same && a[i] == c[i]
	}
	if same {
		t.Error("another seed has the same delays")
	}
}

func TestThrottleKeepsToItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, ends := served()
		p := New(t, server, Throttle(Client, 1000))
		c := dial(t, p, "/")
		s := <-ends
		start := time.Now()
		for range 2 { // both frames of 998+4 bytes wait in the buffers at once
			s.text(t, strings.Repeat("x", 996))
		}
		for i := range 2 {
			c.want(t, frame.OpText, strings.Repeat("x", 996))
			if got, want := time.Since(start), time.Duration(i+1)*time.Second; got != want {
				t.Errorf("frame %d comes after %v, want %v", i, got, want)
			}
		}
		start = time.Now()
		c.text(t, "the other way")
		s.want(t, frame.OpText, "the other way")
		if got := time.Since(start); got != 0 {
			t.Errorf("a frame to the server takes %v, want no time", got)
		}
	})
}

func TestAChainPassesWhatEachHandlerSends(t *testing.T) {
	add := func(s string) Handler {
		return func(w *Wire, f Frame) {
			f.Payload = append(f.Payload, s...)
			w.Send(f)
		}
	}
	twice := func(w *Wire, f Frame) {
		w.Send(f)
		w.Send(f)
	}
	server, ends := served()
	p := New(t, server, Chain(add("a"), nil, Chain(twice, add("b")), add("c")))
	c := dial(t, p, "/")
	s := <-ends
	c.text(t, "-")
	s.want(t, frame.OpText, "-abc")
	s.want(t, frame.OpText, "-abc")
	if got, want := p.Transcript().String(), `/ 1 client text 1 "-" changed to text 1 "-abc"
/ 1 client text 1 "-" injected to text 1 "-abc"
`; got != want {
		t.Errorf("transcript\n%swant\n%s", got, want)
	}
	if New(t, server, Chain()) == nil {
		t.Error("no Proxy")
	}
}

// With httptest.NewTestServer (Go 1.27) a sender never blocks, because its buffers
// are unlimited.
func TestAStalledDirectionFillsAndBlocksItsSenderAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, ends := served()
		p := New(t, server, func(w *Wire, f Frame) {
			if f.From == Client {
				w.Sleep(time.Hour)
			}
			w.Send(f)
		})
		c := dial(t, p, "/")
		s := <-ends
		var sent atomic.Int64
		go func() {
			for c.write(true, frame.OpBinary, strings.Repeat("x", 1016)) == nil { // 1 KiB with its header
				sent.Add(1)
			}
		}()
		synctest.Wait()
		// 64 KiB in the connection, and up to 4 KiB that the parser has read.
		before := sent.Load()
		if before < 64 || before > 69 {
			t.Errorf("%d KiB are sent before the sender blocks, want 64 to 69", before)
		}
		for range 1000 {
			s.text(t, "the other direction")
			c.want(t, frame.OpText, "the other direction")
		}
		time.Sleep(8 * time.Hour)
		synctest.Wait()
		if more := sent.Load() - before; more < 4 || more > 12 { // it reads 4 KiB at a time
			t.Errorf("8 frames that pass let %d more in", more)
		}
		c.Close()
	})
}

// A bubble's clock stops while a goroutine waits for a mutex. So a frame that the
// test sends during a blocked write must not wait for a mutex.
func TestATestsOwnFrameWaitsForTheFrameThatIsBeingSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, ends := served()
		p := New(t, server, nil)
		c := dial(t, p, "/")
		s := <-ends
		large := strings.Repeat("x", 1<<20)
		go s.write(true, frame.OpBinary, large)
		synctest.Wait()
		go p.Tunnel(1).To(Client).Send(Ping([]byte("own")))
		time.Sleep(time.Minute)
		c.want(t, frame.OpBinary, large)
		c.want(t, frame.OpPing, "own")
	})
}

// wsproxy's timeouts of a minute would end a stall.
func TestAStallOutlivesTheProxysDefaultTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, ends := served()
		p := New(t, server, func(w *Wire, f Frame) {
			w.Sleep(24 * time.Hour)
			w.Send(f)
		})
		c := dial(t, p, "/")
		s := <-ends
		c.text(t, "patience")
		s.want(t, frame.OpText, "patience")
		c.closeWrite()
		s.wantEnd(t, "", isEOF)
		time.Sleep(time.Hour)
		s.text(t, "half-closed")
		c.want(t, frame.OpText, "half-closed")
	})
}

// A stall must not leave anything running when both ends have closed.
func TestATunnelEndsTenSecondsAfterBothEndsHaveClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, ends := served()
		p := New(t, server, func(w *Wire, f Frame) { <-w.Tunnel().Done() })
		c := dial(t, p, "/")
		s := <-ends
		c.text(t, "x")
		s.text(t, "x")
		synctest.Wait()
		c.Close()
		time.Sleep(time.Minute)
		s.Close()
		start := time.Now()
		<-p.Tunnel(1).Done()
		if got := time.Since(start); got != 10*time.Second {
			t.Errorf("the tunnel ends after %v, want 10s", got)
		}
	})
}

// Frames that are on their way when both ends close still arrive.
func TestLatencyDelaysTheEndOfAStreamToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, ends := served()
		p := New(t, server, Latency(5*time.Second, 0, 1))
		c := dial(t, p, "/")
		s := <-ends
		s.closeWrite()
		c.text(t, "last words")
		c.Close()
		s.want(t, frame.OpText, "last words")
		s.wantEnd(t, "", isEOF)
		<-p.Tunnel(1).Done()
	})
}

// After a Cut the server reads an end of stream. A second later its writes fail,
// as if the client's machine answered with resets.
func TestACutReachesAServerThatOnlyWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, ends := served()
		p := New(t, server, nil)
		c := dial(t, p, "/")
		s := <-ends
		p.Tunnel(1).Cut()
		c.wantEnd(t, "", isEOF)
		start := time.Now()
		for s.write(true, frame.OpText, "x") == nil {
			time.Sleep(100 * time.Millisecond)
		}
		if got := time.Since(start); got < time.Second || got > 1200*time.Millisecond {
			t.Errorf("the server writes for %v, want a second", got)
		}
		io.Copy(io.Discard, s.br)
	})
}
