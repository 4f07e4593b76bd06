package wsproxytest

import (
	"fmt"
	"time"
)

// Chain combines Handlers: what one sends, the next one gets. Frames go to the
// first, and what the last one sends passes. A nil Handler is left out.
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
// down. Frames keep their order. Negative values panic.
func Latency(d, jitter time.Duration, seed uint64) Handler {
	if d < 0 || jitter < 0 {
		panic(fmt.Sprintf("wsproxytest: Latency(%v, %v), want no negative time", d, jitter))
	}
	key := new(byte)
	return func(w *Wire, f Frame) {
		state[struct{}](w, key, &seed, "Latency")
		at := f.Time
		if at.IsZero() {
			at = time.Now()
		}
		w.sleepUntil(at.Add(d + time.Duration(float64(jitter)*w.draw(seed, &f, drawLatency))))
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
		free := state[time.Time](w, key, nil, "") // when the link has sent all before f
		at := f.Time
		if at.IsZero() || at.Before(*free) {
			at = *free
		}
		size := len(f.encode(nil, to))
		*free = at.Add(time.Duration(float64(size) / float64(bytesPerSecond) * float64(time.Second)))
		w.sleepUntil(*free)
		w.Send(f)
	}
}
