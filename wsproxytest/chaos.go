package wsproxytest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// A Mix sets the probability, from 0 to 1, of each thing that [Chaos] does to a
// frame. Their sum is at most 1. All other frames are forwarded.
type Mix struct {
	Drop      float64 // the frame is lost
	Duplicate float64 // the frame is sent twice
	Cut       float64 // a random part of the frame is sent, and then the tunnel ends
	Reset     float64 // as Cut, and the frame's sender sees a reset
	Stall     float64 // the frame's direction stalls for StallFor
	Delay     float64 // the frame and those after it are late

	StallFor time.Duration // zero means until the tunnel ends
	MaxDelay time.Duration // the longest delay; zero means one second
}

func (m Mix) check() error {
	sum := 0.0
	for _, p := range []float64{m.Drop, m.Duplicate, m.Cut, m.Reset, m.Stall, m.Delay} {
		if !(p >= 0) {
			return fmt.Errorf("probability %v, want 0 to 1", p)
		}
		sum += p
	}
	if sum > 1+1e-9 {
		return fmt.Errorf("probabilities with a sum of %v, want at most 1", sum)
	}
	if m.StallFor < 0 || m.MaxDelay < 0 {
		return fmt.Errorf("StallFor %v and MaxDelay %v, want no negative time", m.StallFor, m.MaxDelay)
	}
	return nil
}

// Chaos breaks frames at random, with the probabilities of m. The same seed gives
// the same transcript as long as both ends send the same frames. What happens to
// a frame depends only on the seed, the path and query of its tunnel, the number
// of earlier tunnels with these, the frame's sender, its opcode, its Index and its
// number among the fragments of its message. It does not depend on time, on how
// bytes arrive, or on other tunnels. Frames that neither end sent are forwarded.
//
// A Cut or Reset does not destroy frames in the other direction, because which
// ones would depend on the scheduler. The frame's receiver reads an end of stream
// in the middle of the frame. Frames that it has sent are still forwarded. When it
// has closed, or after five seconds, the frame's sender reads an end of stream or
// a reset.
//
// Chaos panics if a probability is negative or if their sum is above 1.
func Chaos(seed uint64, m Mix) Handler {
	if err := m.check(); err != nil {
		panic("wsproxytest: Chaos: " + err.Error())
	}
	if m.MaxDelay == 0 {
		m.MaxDelay = time.Second
	}
	key := new(byte)
	return func(w *Wire, f Frame) {
		state[struct{}](w, key, &seed, "Chaos")
		if f.came == nil {
			w.Send(f)
			return
		}
		amount := w.draw(seed, &f, drawAmount)
		switch draw := w.draw(seed, &f, drawFate); {
		case take(&draw, m.Drop):
		case take(&draw, m.Duplicate):
			w.Send(f)
			w.Send(f)
		case take(&draw, m.Cut):
			w.SendPart(f, int(amount*float64(f.wireSize())))
			w.sever("cut", (*end).cut)
		case take(&draw, m.Reset):
			w.SendPart(f, int(amount*float64(f.wireSize())))
			w.sever("reset", (*end).reset)
		case take(&draw, m.Stall):
			if m.StallFor == 0 {
				<-w.Tunnel().Done()
				return
			}
			w.Sleep(m.StallFor)
			f.Time = time.Now()
			w.Send(f)
		case take(&draw, m.Delay):
			f.Time = f.Time.Add(time.Duration(amount * float64(m.MaxDelay)))
			w.sleepUntil(f.Time)
			w.Send(f)
		default:
			w.Send(f)
		}
	}
}

// take reports whether draw is below p. If not, it subtracts p from draw.
func take(draw *float64, p float64) bool {
	if *draw < p {
		return true
	}
	*draw -= p
	return false
}

func (f *Frame) wireSize() int { return len(f.encode(nil, f.From.other())) }

// sever ends the direction. The tunnel ends when the other direction has ended.
func (w *Wire) sever(how string, stop func(*end)) {
	d := w.d
	if !d.acquire() {
		return
	}
	defer d.release()
	if d.closed {
		return
	}
	d.closed = true
	d.record(Record{Fate: Ended, Note: how + " by the " + d.from.String() + "'s frame"})
	d.severed.Store(&stop)
	d.dst().closeWrite()
}

// reactWithin is how long the receiver of a severed direction may take to close.
const reactWithin = 5 * time.Second

// afterSever discards what the source of a severed direction still sends.
func (d *direction) afterSever(stop func(*end)) {
	go func() {
		timer := time.NewTimer(reactWithin)
		defer timer.Stop()
		select {
		case <-d.t.to[d.from].finished:
		case <-timer.C:
		case <-d.t.done:
		}
		d.t.end("", stop)
	}()
	b := make([]byte, 4096)
	for {
		if _, err := d.in.src.Read(b); err != nil {
			return
		}
	}
}

// The random numbers of a frame. Each is drawn separately.
const (
	drawFate = iota
	drawAmount
	drawLatency
)

// draw returns a number from 0 to 1 that depends only on its arguments and the
// position of the frame.
func (w *Wire) draw(seed uint64, f *Frame, what uint64) float64 {
	h := mix(seed)
	for _, b := range []byte(w.d.t.target) {
		h = mix(h ^ uint64(b))
	}
	opcode, part := uint64(0), uint64(0) // a message's is not known from its fragments
	if f.Control() {
		opcode = uint64(f.Opcode)
	}
	if f.came != nil {
		part = uint64(f.came.part)
	}
	for _, v := range []uint64{uint64(w.d.t.nth), uint64(w.d.from), opcode, uint64(f.Index), part, what} {
		h = mix(h ^ v)
	}
	return float64(h>>11) / (1 << 53)
}

// mix is the finalizer of SplitMix64.
func mix(h uint64) uint64 {
	h += 0x9e3779b97f4a7c15
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

// Seed returns a random seed, or that of the environment variable
// WSPROXYTEST_SEED. If the test fails, it logs the seed.
func Seed(t testing.TB) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if text := os.Getenv("WSPROXYTEST_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("wsproxytest: WSPROXYTEST_SEED=%q, want a number from 0 to 2^64-1", text)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("wsproxytest: WSPROXYTEST_SEED=%d runs this test with the same seed", seed)
		}
	})
	return seed
}
