package wsproxytest

import (
	"crypto/rand"
	"fmt"
	"net"
	"slices"
	"time"
)

// A Wire is one direction of a tunnel. A Handler gets the Wire of its frame and
// sends on it. [Tunnel.To] returns both. The methods of a Wire may be called from
// any goroutine. They block while the end does not read. After the tunnel has
// ended they do nothing.
type Wire struct {
	d    *direction
	rest []Handler // of a Chain, which see what is sent first
}

// Send sends a frame, with the masking that the direction requires. It neither
// changes nor keeps the payload.
func (w *Wire) Send(f Frame) {
	if len(w.rest) > 0 {
		w.rest[0].handle(&Wire{w.d, w.rest[1:]}, f)
		return
	}
	w.d.send(f, -1)
}

// SendPart sends the first n bytes of a frame as on the wire: header, masking key
// and payload. The receiver reads the next bytes as the rest of that frame. In a
// Chain the next Handler is not called.
func (w *Wire) SendPart(f Frame, n int) { w.d.send(f, max(n, 0)) }

// Write sends bytes unchanged, which need not be a frame. It returns an error if
// the tunnel has ended or the receiver is gone. In a Chain the next Handler is not
// called.
func (w *Wire) Write(p []byte) (int, error) {
	if !w.d.acquire() {
		return 0, net.ErrClosed
	}
	defer w.d.release()
	if w.d.closed {
		return 0, net.ErrClosed
	}
	w.d.record(Record{Frame: Frame{From: w.d.from, Payload: slices.Clone(p[:min(len(p), keptPayload)])}, Size: len(p),
		Fate: Raw, Note: fmt.Sprintf("wrote %d bytes %q", len(p), p[:min(len(p), keptPayload)])})
	return w.d.put(p)
}

// Sleep waits for d, or until the tunnel has ended.
func (w *Wire) Sleep(d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w.d.t.done:
	}
}

// sleepUntil is like Sleep, but waits until a time.
func (w *Wire) sleepUntil(t time.Time) { w.Sleep(time.Until(t)) }

// Tunnel returns the tunnel of w.
func (w *Wire) Tunnel() *Tunnel { return w.d.t }

// A stateKey identifies the state that a Handler keeps for a direction.
type stateKey struct {
	handler any
	to      Side
}

// state returns the state that a Handler keeps for the direction. The first call
// makes it.
func state[T any](w *Wire, handler any, seed *uint64, name string) *T {
	t, key := w.d.t, stateKey{handler, w.d.from.other()}
	t.mu.Lock()
	s, ok := t.states[key].(*T)
	if !ok {
		if t.states == nil {
			t.states = map[stateKey]any{}
		}
		s = new(T)
		t.states[key] = s
	}
	t.mu.Unlock()
	if !ok && seed != nil && t.owner.proxy != nil {
		t.owner.proxy.noteSeed(name, *seed)
	}
	return s
}

// newKey returns a masking key, which must be unpredictable (RFC 6455, section
// 10.3).
func newKey() (key [4]byte) {
	rand.Read(key[:])
	return key
}
