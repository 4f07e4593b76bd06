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

// The fates of frames.
const (
	Passed   Fate = iota + 1 // sent unchanged
	Dropped                  // not sent before its Handler returned
	Changed                  // sent with different content
	Partial                  // sent in part
	Injected                 // sent by neither end, or sent again
	Raw                      // not a frame: bytes of Wire.Write, or malformed bytes of an end
	Ended                    // not a frame: a Cut, Reset or CloseWrite of the tunnel
)

var fateNames = [...]string{Passed: "passed", Dropped: "dropped", Changed: "changed", Partial: "partial",
	Injected: "injected", Raw: "raw", Ended: "ended"}

// String returns the fate as one word, such as "passed".
func (f Fate) String() string {
	if f > 0 && int(f) < len(fateNames) {
		return fateNames[f]
	}
	return fmt.Sprintf("fate %d", int(f))
}

// keptPayload is how many bytes of a payload a Record keeps.
const keptPayload = 64

// A Record is an entry of a Transcript.
type Record struct {
	Tunnel *Tunnel
	Frame  Frame // as it arrived or was injected, with the first 64 bytes of its payload
	Size   int   // size of the whole payload in bytes
	Fate   Fate
	Note   string // details of the fate, such as the new content or the bytes sent

	sum uint32 // of a payload that is longer than keptPayload
}

// newRecord returns the record of f. It copies what it keeps of the payload.
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

// String returns the record in one line, without its time. For the client's third
// message in the first tunnel to /chat it is
//
//	/chat 1 client text 3 "hello" dropped
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

// A Transcript lists the frames of a Proxy's tunnels. Its order does not depend on
// the scheduler. Tunnels are sorted by path and query, and then in the order in
// which they opened. For each tunnel it lists the frames to the server, the frames
// to the client, and then a Cut or Reset. The frames of each direction are in the
// order in which they were sent. For the order in which frames arrived or were
// injected, sort the Transcript by Frame.Time.
//
// A tunnel keeps the first 5,000 and the last 1,000 records of each direction.
type Transcript []Record

// String returns one line for each record, without times, so that the transcripts
// of two runs can be compared as text.
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

// A journal holds the records of one direction.
type journal struct {
	first []Record
	last  []Record // a ring when it is full
	next  int      // index of the oldest record in the ring
	lost  int      // number of records between the first and the last
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
