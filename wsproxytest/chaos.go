package wsproxytest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// A Mix says how often Chaos does what, as probabilities from 0 to 1 for each
// frame. Their sum is at most 1. The rest passes.
type Mix struct {
	Drop      float64 // the frame is lost
	Duplicate float64 // it passes twice
	Cut       float64 // a drawn number of its bytes pass, and then the tunnel ends
	Reset     float64 // likewise, and its sender sees a reset
	Stall     float64 // its direction stalls for StallFor
	Delay     float64 // it passes late, and what is behind it too

	StallFor time.Duration // 0: until the tunnel ends
	MaxDelay time.Duration // delays are drawn from 0 to MaxDelay; 0: a second
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

// Chaos does to frames what m says. What happens to a frame depends on the seed,
// on the path and query of its tunnel, on how many tunnels to these were opened
// before, on its end, and on its opcode, its Index and its number among the
// fragments of its message: not on time, on how bytes arrived, or on other
// tunnels. The same seed therefore gives the same transcript, as long as the ends
// send the same. Frames that no end sent pass.
//
// A Cut or Reset does not destroy what is under way in the other direction,
// which would depend on the scheduler. The frame's receiver reads an end of
// stream in the middle of the frame. What it has sent still passes. Once it has
// closed, five seconds later at the latest, the frame's sender reads an end of
// stream, or a reset.
//
// A Mix with a negative probability, or with a sum above 1, panics.
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

// take reports whether draw is below p, and takes p off if not.
func take(draw *float64, p float64) bool {
	if *draw < p {
		return true
	}
	*draw -= p
	return false
}

func (f *Frame) wireSize() int { return len(f.encode(nil, f.From.other())) }

// sever ends the direction, and has the tunnel end once the other one has.
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

// What is drawn for a frame, each apart.
const (
	drawFate = iota
	drawAmount
	drawLatency
)

// draw returns a number from 0 to 1 that depends on nothing but its arguments and
// where the frame is.
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
