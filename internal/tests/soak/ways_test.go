package soak_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
)

const (
	soakClient = iota
	soakUpstream
	soakEither
)

// A soakWay is one way for a tunnel to end, and how the ending must look.
type soakWay struct {
	name    string
	by      int
	last    func(*soakEnd) // after the script
	act     func(*soakEnd) // called at some frame of either script
	mid     bool           // act is called in the middle of that frame
	cuts    bool           // bytes under way may be lost
	resets  bool
	byProxy bool // the proxy sends both ends a Close frame, and they stop
	code    int  // code of the Close frames in both directions; 0: none
	reason  wsproxy.Reason
	fits    func(*soakKind) bool
}

var soakWays = append(append([]soakWay{
	{name: "the proxy closes", by: soakEither, act: func(e *soakEnd) { e.of.tunnel.Load().Close(4000, "soak") },
		byProxy: true, code: 4000, reason: wsproxy.ReasonKilled},
	{name: "the request's context ends", by: soakEither, act: func(e *soakEnd) { e.of.cancel() },
		cuts: true, reason: wsproxy.ReasonContextDone, fits: func(k *soakKind) bool { return !k.detached }},
}, soakWaysOf(soakClient, wsproxy.ReasonClientClosed)...), soakWaysOf(soakUpstream, wsproxy.ReasonUpstreamClosed)...)

func soakWaysOf(by int, reason wsproxy.Reason) []soakWay {
	leave := func(e *soakEnd) { e.Socket().Close() }
	resets := func(e *soakEnd) { e.Peer.Reset() }
	// Then a stream lingers for a second, which a short soak does not spare.
	lingers := func(k *soakKind) bool { return by == soakClient || testkit.OwnSocket(k.link) || testkit.FullStress() }
	ways := []soakWay{
		{name: "sends Close", last: func(e *soakEnd) { e.sendClose(1000) }, code: 1000},
		{name: "half-closes", last: func(e *soakEnd) { e.flush(); e.CloseWrite(); e.closeSent = true },
			fits: func(k *soakKind) bool { return by == soakClient || testkit.OwnSocket(k.link) }},
		{name: "closes without a Close frame", act: leave, cuts: true, fits: lingers},
		{name: "resets", act: resets, cuts: true, resets: true},
		{name: "closes in the middle of a message", act: leave, mid: true, cuts: true, fits: lingers},
		{name: "is killed mid-message", act: resets, mid: true, cuts: true, resets: true},
		{name: "sends too large a message", last: func(e *soakEnd) { e.put(soakFrame{testkit.Binary, soakLimit + 1}, soakLimit+1) },
			byProxy: true, code: 1009, reason: wsproxy.ReasonLimit, fits: func(k *soakKind) bool { return k.framed }},
	}
	for i := range ways {
		ways[i].name = soakSides[by] + " " + ways[i].name
		ways[i].by = by
		if ways[i].reason == 0 {
			ways[i].reason = reason
		}
	}
	return ways
}

var soakSides = []string{"the client", "the upstream"}

// soakModes say which end sends.
var soakModes = []struct {
	name           string
	client, echoes bool
	upstream       bool // the upstream sends a script, too
	oneByOne       bool // the client waits for each echo
}{
	{name: "echo, one by one", client: true, echoes: true, oneByOne: true},
	{name: "echo", client: true, echoes: true},
	{name: "stream up", client: true},
	{name: "stream down", upstream: true},
	{name: "streams both ways", client: true, upstream: true},
}

// A soakKind is one kind of served proxy.
type soakKind struct {
	*testkit.Rig
	name             string
	link             testkit.Link
	detached, framed bool
}

type soakTunnel struct {
	id     uint64
	kind   *soakKind
	way    *soakWay
	by     int
	name   string
	part   float64 // how much of a frame its middle is
	ends   [2]*soakEnd
	open   chan struct{} // closed when the client has its 101
	ctx    context.Context
	cancel func()

	tunnel atomic.Pointer[wsproxy.Tunnel]
	closes atomic.Int32
	late   atomic.Bool // soakPatience has ended the client's stream, which has no deadlines
	ended  chan wsproxy.Ending
}

// partOf returns how many bytes of a frame are sent before an end acts within
// it.
func (tun *soakTunnel) partOf(f soakFrame) int { return int(float64(f.size) * tun.part) }

// plan makes a tunnel that depends only on the seed and its number.
func (s *soak) plan(id uint64) *soakTunnel {
	r := rand.New(rand.NewPCG(s.seed, id))
	tun := &soakTunnel{id: id, kind: s.kinds[r.IntN(len(s.kinds))], part: r.Float64(),
		open: make(chan struct{}), ended: make(chan wsproxy.Ending, 1)}
	for tun.way == nil || tun.way.fits != nil && !tun.way.fits(tun.kind) {
		tun.way = &soakWays[r.IntN(len(soakWays))]
	}
	if tun.by = tun.way.by; tun.by == soakEither {
		tun.by = r.IntN(2)
	}
	mode := soakModes[r.IntN(len(soakModes))]
	tun.ctx, tun.cancel = context.WithCancel(context.Background())

	const atOnce = -1 << 40
	sides, messages, leads := [2]int{1, 2}, [2]int{}, [2]int64{atOnce, atOnce}
	if mode.client {
		messages[0] = logUniform(r, 32)
	}
	if mode.upstream {
		messages[1] = logUniform(r, 32)
	}
	if mode.echoes {
		sides[1], messages[1], leads[1] = sides[0], messages[0], 1
	}
	if mode.oneByOne {
		leads[0] = 0
	}
	script := func(i int) *soakScript { return newSoakScript(s.seed, id, sides[i], messages[i]) }
	frames := [2]int64{script(0).count(), script(1).count()}
	for i := range tun.ends {
		tun.ends[i] = &soakEnd{of: tun, client: i == soakClient, out: script(i), in: script(1 - i),
			lead: leads[i], actAt: -1, stallAt: -1, dice: rand.New(rand.NewPCG(r.Uint64(), id)), narrow: r.IntN(3) == 0,
			news: make(chan struct{}, 1), gone: make(chan struct{}), done: make(chan struct{})}
	}
	if tun.way.act != nil {
		tun.ends[tun.by].actAt = r.Int64N(frames[0] + frames[1])
	}
	stalls := ""
	if r.IntN(6) == 0 {
		i := r.IntN(2)
		tun.ends[i].stallAt = r.Int64N(frames[1-i] + 1)
		tun.ends[i].stall = time.Duration(logUniform(r, 250)) * time.Millisecond
		stalls = ", " + soakSides[i] + " stalls"
	}
	tun.name = fmt.Sprintf("tunnel %d (%s; %s%s; %s; seed %d)", id, tun.kind.name, mode.name, stalls, tun.way.name, s.seed)
	return tun
}

// play opens a tunnel, plays the client's end, and returns the ending.
func (tun *soakTunnel) play() (ending wsproxy.Ending, err error) {
	defer tun.cancel()
	client, upstream := tun.ends[soakClient], tun.ends[soakUpstream]
	first, respond, release, err := tun.dial()
	if err != nil {
		return ending, err
	}
	defer release()
	var refused error
	client.run(first, func() error {
		if refused = respond(); refused == nil {
			close(tun.open)
		}
		return refused
	})
	if refused != nil {
		return ending, fmt.Errorf("handshake: %w", refused)
	}
	late := time.After(soakPatience)
	select {
	case <-upstream.done:
	case <-late:
		return ending, errors.New("the upstream's end does not end")
	}
	select {
	case ending = <-tun.ended:
		return ending, tun.judge(ending)
	case <-late:
		return ending, errors.New("no OnClose")
	}
}

// judge compares what both ends and the proxy observed with what the way
// requires.
func (tun *soakTunnel) judge(ending wsproxy.Ending) error {
	if tun.late.Load() {
		return fmt.Errorf("it was not over after %v; %d and %d messages had arrived", soakPatience, tun.ends[soakUpstream].gotMessages, tun.ends[soakClient].gotMessages)
	}
	var errs []error
	wrong := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if ending.Reason != tun.way.reason && !tun.resetUnread(ending) {
		wrong("it ended with %q (%v), want %q", ending.Reason, ending.Err, tun.way.reason)
	}
	if ending.Err != nil && (!tun.way.cuts || errors.Is(ending.Err, wsproxy.ErrCut)) {
		wrong("it ended with error %v", ending.Err)
	}
	flows := [2]wsproxy.FlowStats{ending.FromClient, ending.FromUpstream}
	closed := [2]wsproxy.CloseFrame{ending.ClientClose, ending.UpstreamClose}
	for i, e := range tun.ends {
		for _, err := range []error{e.readErr, e.writeErr} {
			var fault soakFault
			if errors.As(err, &fault) || errors.Is(err, testkit.ErrDeadline) || err != nil && err != io.EOF && !tun.way.cuts {
				wrong("%s: %w", soakSides[i], err)
			}
		}
		if e.closed.Load() != int64(tun.way.code) {
			wrong("%s got Close %d, want %d", soakSides[i], e.closed.Load(), tun.way.code)
		}
		e.judgeFlow(flows[i], closed[i], tun.ends[1-i], wrong)
	}
	return errors.Join(errs...)
}

// reset reports whether an end was reset over a link that forwards resets, and
// whether the other end saw an orderly end instead. The kernel reports a reset
// only once, to the reader or to the writer.
func (tun *soakTunnel) reset(ending wsproxy.Ending) (reset, softened bool) {
	other := tun.ends[1-tun.by]
	reset = tun.way.resets && testkit.Resettable(tun.kind.link) && !tun.resetUnread(ending)
	return reset, reset && other.readErr == io.EOF && !testkit.IsReset(other.writeErr) && !errors.Is(other.writeErr, syscall.EPIPE)
}

// judgeFlow compares what e sent with what to received. The proxy's counts must
// lie between the two.
func (e *soakEnd) judgeFlow(flow wsproxy.FlowStats, closed wsproxy.CloseFrame, to *soakEnd, wrong func(format string, args ...any)) {
	way, side := e.of.way, soakSides[soakUpstream]
	if e.client {
		side = soakSides[soakClient]
	}
	if flow.Bytes < to.got || flow.Bytes > e.sent {
		wrong("%s sent %d bytes, the proxy counted %d, and %d arrived", side, e.sent, flow.Bytes, to.got)
	}
	if flow.Messages < to.gotMessages || flow.Messages > e.sentMessages {
		wrong("%s sent %d messages, the proxy counted %d, and %d arrived", side, e.sentMessages, flow.Messages, to.gotMessages)
	}
	if closed.Code != way.code {
		wrong("%s sent Close %d, by the proxy's count, want %d", side, closed.Code, way.code)
	}
	if way.cuts || way.byProxy && (way.last == nil || e != e.of.ends[e.of.by]) {
		return
	}
	_, outLeft := e.out.next()
	_, inLeft := to.in.next()
	if outLeft || inLeft || to.gotMessages != e.sentMessages || flow.Messages != e.sentMessages {
		wrong("%s had %d messages to send, all sent: %t, the proxy counted %d, and %d arrived, all: %t",
			side, e.sentMessages, !outLeft, flow.Messages, to.gotMessages, !inLeft)
	}
	if !way.byProxy && flow.Bytes != e.sent {
		wrong("%s sent %d bytes and the proxy counted %d", side, e.sent, flow.Bytes)
	}
}
