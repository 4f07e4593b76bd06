package wsproxytest

import (
	"crypto/rand"
	"fmt"
	"net"
	"slices"
	"time"
)

// A Wire is one direction of a tunnel. A Handler gets the one on which its
// frame came and sends on it; [Tunnel.To] returns each. Its methods may be called
// from any goroutine. They block while the end does not read, and do nothing once
// the tunnel has ended.
type Wire struct {
	d    *direction
	rest []Handler // of a Chain, which see what is sent first
}

// Send sends a frame, masked as its direction needs. The payload is not
// changed or kept.
func (w *Wire) Send(f Frame) {
	if len(w.rest) > 0 {
		w.rest[0].handle(&Wire{w.d, w.rest[1:]}, f)
		return
	}
	w.d.send(f, -1)
}

// SendPart sends the first n bytes of a frame's wire form: header, masking key
// and payload. The receiver takes what is sent next for the rest of the frame. In
// a Chain it does not go to the next Handler.
func (w *Wire) SendPart(f Frame, n int) { w.d.send(f, max(n, 0)) }

// Write sends bytes as they are, for what is no frame. It returns an error if
// the tunnel has ended or its end is gone. In a Chain it does not go to the
// next Handler.
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

// sleepUntil is Sleep until a time.
func (w *Wire) sleepUntil(t time.Time) { w.Sleep(time.Until(t)) }

// Tunnel returns the tunnel that w is a direction of.
func (w *Wire) Tunnel() *Tunnel { return w.d.t }

// A stateKey is for what a Handler keeps of a direction.
type stateKey struct {
	handler any
	to      Side
}

// state returns what a Handler keeps of the direction, made at the first call.
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
