package wsproxytest

import (
	"fmt"
	"sync"
	"time"
)

// Chain combines Handlers: what one sends, the next one gets. Frames go to the
// first, and what the last one sends passes. A nil Handler is left out. The time
// that Latency, Throttle and the delays of Chaos take adds up.
func Chain(hs ...Handler) Handler {
	var chain []Handler
	for _, h := range hs {
		if h != nil {
			chain = append(chain, h)
		}
	}
	return func(w *Wire, f Frame) {
		// A Chain in a Chain: its last Send goes to the outer one's next.
		(&Wire{w.d, append(chain[:len(chain):len(chain)], w.rest...)}).Send(f)
	}
}

// Latency delays each frame by d, and by up to jitter more, drawn from seed. The
// delay counts from when a frame came, so a stream is delayed and not slowed
// down, as long as no more than the connection's 64 KiB are under way. Frames keep
// their order. Negative values panic.
func Latency(d, jitter time.Duration, seed uint64) Handler {
	if d < 0 || jitter < 0 {
		panic(fmt.Sprintf("wsproxytest: Latency(%v, %v), want no negative time", d, jitter))
	}
	key := new(byte)
	return func(w *Wire, f Frame) {
		state[struct{}](w, key, &seed, "Latency")
		f.Time = f.arrivedAt().Add(d + time.Duration(float64(jitter)*w.draw(seed, &f, drawLatency)))
		w.sleepUntil(f.Time)
		w.Send(f)
	}
}

// Throttle lets bytesPerSecond bytes of frames pass toward an end, for each
// tunnel. A frame passes when the time for all of its wire form is over. Frames
// toward the other end pass at once. A rate below 1 panics.
func Throttle(to Side, bytesPerSecond int) Handler {
	if bytesPerSecond < 1 {
		panic(fmt.Sprintf("wsproxytest: Throttle to %d bytes a second, want 1 or more", bytesPerSecond))
	}
	key := new(byte)
	return func(w *Wire, f Frame) {
		if w.d.from == to {
			w.Send(f)
			return
		}
		size := len(f.encode(nil, to))
		f.Time = state[link](w, key, nil, "").take(f.arrivedAt(), time.Duration(float64(size)/float64(bytesPerSecond)*float64(time.Second)))
		w.sleepUntil(f.Time)
		w.Send(f)
	}
}

// arrivedAt returns when the frame came, and now for one that no end sent.
func (f *Frame) arrivedAt() time.Time {
	if f.Time.IsZero() {
		return time.Now()
	}
	return f.Time
}

// A link sends one frame after the other.
type link struct {
	mu   sync.Mutex // a Handler before it in a Chain may Send from several goroutines
	free time.Time  // when it has sent all frames so far
}

// take returns when a frame is sent that came at a time and takes d.
func (l *link) take(came time.Time, d time.Duration) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if came.Before(l.free) {
		came = l.free
	}
	l.free = came.Add(d)
	return l.free
}
