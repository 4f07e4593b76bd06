package wsproxytest

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"example.com/wsproxy/internal/frame"
)

// A Fate is what became of a frame.
type Fate int

// What becomes of frames.
const (
	Passed   Fate = iota + 1 // sent as it came
	Dropped                  // not sent before its Handler returned
	Changed                  // sent with another content
	Partial                  // sent in part
	Injected                 // no end sent it, or it was sent already: a duplicate
	Raw                      // bytes of Wire.Write, or bytes of an end that are no well-formed frame
	Ended                    // no frame: the tunnel's Cut, Reset or CloseWrite
)

var fateNames = [...]string{Passed: "passed", Dropped: "dropped", Changed: "changed", Partial: "partial",
	Injected: "injected", Raw: "raw", Ended: "ended"}

// String returns the fate in a word: "passed", "dropped".
func (f Fate) String() string {
	if f > 0 && int(f) < len(fateNames) {
		return fateNames[f]
	}
	return fmt.Sprintf("fate %d", int(f))
}

// keptPayload is how much of a payload a Record has.
const keptPayload = 64

// A Record is an entry of a Transcript.
type Record struct {
	Tunnel *Tunnel
	Frame  Frame // as it came, or as it was injected, with the first 64 bytes of its payload
	Size   int   // of the whole payload in bytes
	Fate   Fate
	Note   string // more about the fate: what it was changed to, how much of it was sent

	sum uint32 // of a payload that is longer than keptPayload
}

// newRecord keeps what a transcript needs of f.
func newRecord(f Frame, fate Fate) Record {
	r := Record{Frame: f, Size: len(f.Payload), Fate: fate}
	if r.Size > keptPayload {
		r.sum = checksum(f.Payload)
	}
	r.Frame.Payload = bytes.Clone(f.Payload[:min(r.Size, keptPayload)])
	return r
}

// describe returns the frame in words.
func (r Record) describe() string {
	f := &r.Frame
	var b strings.Builder
	b.WriteString(opcodeName(f.Opcode))
	if f.Index > 0 {
		fmt.Fprintf(&b, " %d", f.Index)
	}
	if a := f.came; a != nil && (!a.header.Fin || a.part > 1) {
		fmt.Fprintf(&b, " part %d", a.part)
	} else if a == nil && !f.Fin {
		b.WriteString(" unfinished")
	}
	if a := f.came; a != nil && f.Fin != a.header.Fin { // the Handler has changed it
		b.WriteString(map[bool]string{true: " finished", false: " unfinished"}[f.Fin])
	}
	b.WriteByte(' ')
	if f.Opcode == OpClose && (r.Size == 0 || r.Size >= 2) {
		code, reason := frame.ParseClose(f.Payload)
		fmt.Fprintf(&b, "%d %q", code, reason)
	} else {
		fmt.Fprintf(&b, "%q", f.Payload)
	}
	if r.Size > keptPayload {
		fmt.Fprintf(&b, "… %d bytes %08x", r.Size, r.sum)
	}
	return b.String()
}

// String returns the record in one line, without its time:
//
//	/chat 1 client text 3 "hello" dropped
//
// is about the third message of the client in the first tunnel to /chat.
func (r Record) String() string {
	var b strings.Builder
	if r.Tunnel != nil {
		fmt.Fprintf(&b, "%s %d ", r.Tunnel.target, r.Tunnel.nth)
	}
	switch r.Fate {
	case Ended:
		b.WriteString(r.Note)
		return b.String()
	case Raw:
		fmt.Fprintf(&b, "%s raw %s", r.Frame.From, r.Note)
		return b.String()
	}
	fmt.Fprintf(&b, "%s %s %s", r.Frame.From, r.describe(), r.Fate)
	if r.Note != "" {
		b.WriteString(" " + r.Note)
	}
	return b.String()
}

// A Transcript is what a Proxy's tunnels have carried. Its order does not depend
// on the scheduler: tunnels by their path and query, and those of the same path
// and query in the order in which they opened; of each tunnel what went to the
// server, then what went to the client, and then a Cut or Reset; of each
// direction the frames as they passed. Sort it by Frame.Time for the order in
// which frames came and were injected.
//
// A tunnel keeps the first 5,000 and the last 1,000 records of each direction.
type Transcript []Record

// String returns a line for each record. It has no times, so that the
// transcripts of two runs can be compared as text.
func (t Transcript) String() string {
	var b strings.Builder
	for _, r := range t {
		b.WriteString(r.String())
		b.WriteByte('\n')
	}
	return b.String()
}

const (
	firstRecords = 5000
	lastRecords  = 1000
)

// A journal has the records of one direction.
type journal struct {
	first []Record
	last  []Record // a ring once it is full
	next  int      // the oldest of the ring
	lost  int      // records between the two
}

func (j *journal) add(r Record) {
	switch {
	case len(j.first) < firstRecords:
		j.first = append(j.first, r)
	case len(j.last) < lastRecords:
		j.last = append(j.last, r)
	default:
		j.last[j.next] = r
		j.next = (j.next + 1) % lastRecords
		j.lost++
	}
}

func (j *journal) appendTo(t Transcript) Transcript {
	t = append(t, j.first...)
	if j.lost > 0 {
		t = append(t, Record{Tunnel: j.first[0].Tunnel, Fate: Ended, Note: fmt.Sprintf("… %d more records", j.lost)})
	}
	return append(append(t, j.last[j.next:]...), j.last[:j.next]...)
}

// transcript returns the records of tunnels in order.
func transcript(tunnels []*Tunnel) (all Transcript) {
	tunnels = slices.Clone(tunnels)
	slices.SortFunc(tunnels, func(a, b *Tunnel) int {
		return cmp.Or(strings.Compare(a.target, b.target), cmp.Compare(a.nth, b.nth))
	})
	for _, t := range tunnels {
		all = t.appendRecords(all)
	}
	return all
}
