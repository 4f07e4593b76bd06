package wsproxytest

import (
	"fmt"
	"sync"
	"time"
)

// Chain combines Handlers. The first one gets the frames, each next one gets what
// the one before it sends, and what the last one sends is forwarded. Nil Handlers
// are skipped. The delays of Latency, Throttle and Chaos add up.
func Chain(hs ...Handler) Handler {
	var chain []Handler
	for _, h := range hs {
		if h != nil {
			chain = append(chain, h)
		}
	}
	return func(w *Wire, f Frame) {
		// In a nested Chain the last Send goes to the outer Chain's next Handler.
		(&Wire{w.d, append(chain[:len(chain):len(chain)], w.rest...)}).Send(f)
	}
}

// Latency delays each frame by d plus a random time of up to jitter, drawn from
// seed. The delay counts from the frame's arrival, so a stream is delayed but not
// slowed down, unless more bytes are delayed at once than the 64 KiB that the
// connection buffers. Frames keep their order. Latency panics if d or jitter is
// negative.
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

// Throttle limits the frames to one end of each tunnel to bytesPerSecond, counted
// in bytes on the wire. A frame is forwarded when the time for all its bytes is
// over. Frames to the other end are forwarded at once. Throttle panics if
// bytesPerSecond is below 1.
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

// arrivedAt returns when the frame arrived, or now if neither end sent it.
func (f *Frame) arrivedAt() time.Time {
	if f.Time.IsZero() {
		return time.Now()
	}
	return f.Time
}

// A link sends one frame after the other.
type link struct {
	mu   sync.Mutex // a Handler before it in a Chain may Send from several goroutines
	free time.Time  // when all frames so far are sent
}

// take returns when the link has sent a frame that arrived at came and takes d.
func (l *link) take(came time.Time, d time.Duration) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	if came.Before(l.free) {
		came = l.free
	}
	l.free = came.Add(d)
	return l.free
}
