package wsdebug

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"example.com/wsproxy"
)

// A row is a tunnel as it was when the page was built.
type row struct {
	*wsproxy.Tunnel
	client                   netip.Addr
	age, idle                time.Duration
	fromClient, fromUpstream wsproxy.FlowStats
}

// newRow reads the values of a row. It takes the value that the rows are sorted by
// from e: read again, it could have changed, and the table would look unsorted.
func newRow(e entry, by column, now time.Time) row {
	t := e.t
	r := row{
		Tunnel: t, client: t.ClientIP().Unmap(), age: now.Sub(t.OpenedAt()), idle: max(now.Sub(t.LastActivity()), 0),
		fromClient: t.FromClient(), fromUpstream: t.FromUpstream(),
	}
	if by.field != nil {
		*by.field(&r) = e.value
	}
	return r
}

// A column is what tunnels can be sorted by. A column of text has compare. A column
// of numbers has read, which sets the values of all entries. They are read once, as
// they change while tunnels are open, and field is where a row keeps its value. Each
// read is a loop without a call, in which the processor waits for many tunnels at once.
type column struct {
	name, title, long string
	number            bool      // set flush right
	words             [2]string // of the order and of its reverse

	compare func(a, b *wsproxy.Tunnel) int
	read    func(all []entry, now time.Time)
	field   func(r *row) *int64
}

var (
	young   = [2]string{"youngest first", "oldest first"}
	letters = [2]string{"A to Z", "Z to A"}
	numbers = [2]string{"smallest first", "largest first"}
)

// columns has the default order first.
var columns = []column{
	{name: "age", title: "Age", long: "Age", number: true, words: young,
		read: func(all []entry, _ time.Time) { // IDs are in the order of the age, and cost less to read
			for i := range all {
				all[i].value = -int64(all[i].t.ID())
			}
		}},
	{name: "client", title: "Client", long: "Client", words: letters,
		compare: func(a, b *wsproxy.Tunnel) int { return a.ClientIP().Unmap().Compare(b.ClientIP().Unmap()) }},
	{name: "host", title: "Host", long: "Host", words: letters,
		compare: func(a, b *wsproxy.Tunnel) int { return strings.Compare(a.Host(), b.Host()) }},
	{name: "path", title: "Path", long: "Path", words: letters,
		compare: func(a, b *wsproxy.Tunnel) int { return strings.Compare(a.Path(), b.Path()) }},
	{name: "server", title: "Server", long: "Server", words: letters,
		compare: func(a, b *wsproxy.Tunnel) int { return strings.Compare(a.Server(), b.Server()) }},
	{name: "protocol", title: "Protocol", long: "Protocol", words: letters,
		compare: func(a, b *wsproxy.Tunnel) int {
			return cmp.Or(strings.Compare(a.Protocol(), b.Protocol()), strings.Compare(a.Subprotocol(), b.Subprotocol()))
		}},
	{name: "client_bytes", title: "Bytes", long: "Bytes from client", number: true, words: numbers,
		read: func(all []entry, _ time.Time) {
			for i := range all {
				all[i].value = all[i].t.FromClient().Bytes
			}
		},
		field: func(r *row) *int64 { return &r.fromClient.Bytes }},
	{name: "client_messages", title: "Messages", long: "Messages from client", number: true, words: numbers,
		read: func(all []entry, _ time.Time) {
			for i := range all {
				all[i].value = all[i].t.FromClient().Messages
			}
		},
		field: func(r *row) *int64 { return &r.fromClient.Messages }},
	{name: "upstream_bytes", title: "Bytes", long: "Bytes from upstream", number: true, words: numbers,
		read: func(all []entry, _ time.Time) {
			for i := range all {
				all[i].value = all[i].t.FromUpstream().Bytes
			}
		},
		field: func(r *row) *int64 { return &r.fromUpstream.Bytes }},
	{name: "upstream_messages", title: "Messages", long: "Messages from upstream", number: true, words: numbers,
		read: func(all []entry, _ time.Time) {
			for i := range all {
				all[i].value = all[i].t.FromUpstream().Messages
			}
		},
		field: func(r *row) *int64 { return &r.fromUpstream.Messages }},
	{name: "idle", title: "Idle for", long: "Idle time", number: true, words: [2]string{"shortest first", "longest first"},
		read: func(all []entry, now time.Time) {
			for i := range all {
				all[i].value = max(int64(now.Sub(all[i].t.LastActivity())), 0)
			}
		},
		field: func(r *row) *int64 { return (*int64)(&r.idle) }},
}

// matches reports whether q asks for t.
func (q *query) matches(t *wsproxy.Tunnel, now time.Time) bool {
	return (q.server == "" || t.Server() == q.server) &&
		(!q.ip.IsValid() || q.ip.Contains(t.ClientIP().Unmap().WithZone(""))) &&
		(q.older == 0 || now.Sub(t.OpenedAt()) >= q.older) &&
		(q.path == "" || strings.Contains(t.Path(), q.path))
}

// A listing is the result of one pass over the tunnels of a proxy.
type listing struct {
	rows    []row // the first q.n, in order
	matched int
	open    int
}

// list visits each tunnel once and keeps at most q.n of them, so that it costs little
// more than counting them. about is how many tunnels to expect.
//
// The tunnels come nearly in the order of their IDs. In that order each could precede
// all others so far, and go to the heap. So list takes them with a stride, with which
// few do.
func list(p *wsproxy.Proxy, q *query, about int, now time.Time) listing {
	var l listing
	if q.n == 0 || q.filtered() {
		about = 0
	}
	entries := make([]entry, 0, about)
	for t := range p.Tunnels() {
		l.open++
		if q.filtered() && !q.matches(t, now) {
			continue
		}
		l.matched++
		if q.n > 0 {
			entries = append(entries, entry{t: t})
		}
	}
	if q.sort.read != nil {
		q.sort.read(entries, now)
	}

	first := top{q: q}
	stride := 7919 // a prime, and so each entry has its turn
	if len(entries)%stride == 0 {
		stride = 1
	}
	for i, n := 0, 0; n < len(entries); n++ {
		first.offer(entries[i])
		i = (i + stride) % len(entries)
	}
	slices.SortFunc(first.heap, q.order)
	l.rows = make([]row, len(first.heap))
	for i, e := range first.heap {
		l.rows[i] = newRow(e, q.sort, now)
	}
	return l
}

// An entry is a tunnel with its value in the column that the table is sorted by.
type entry struct {
	t     *wsproxy.Tunnel
	value int64
}

// order compares entries as q asks. Equal ones are in the order of their numbers.
func (q *query) order(a, b entry) int {
	c := cmp.Compare(a.value, b.value)
	if q.sort.compare != nil {
		c = q.sort.compare(a.t, b.t)
	}
	switch {
	case c == 0:
		return cmp.Compare(a.t.ID(), b.t.ID())
	case q.reverse:
		return -c
	}
	return c
}

// A top has the q.n first entries in q's order, as a heap: none comes after its
// parent, and the last is at the root.
type top struct {
	q    *query
	heap []entry
}

func (h *top) offer(e entry) {
	switch {
	case len(h.heap) < h.q.n:
		h.heap = append(h.heap, e)
		h.up(len(h.heap) - 1)
	case h.q.order(e, h.heap[0]) < 0:
		h.heap[0] = e
		h.down()
	}
}

func (h *top) up(i int) {
	for i > 0 && h.q.order(h.heap[i], h.heap[(i-1)/2]) > 0 {
		h.heap[i], h.heap[(i-1)/2] = h.heap[(i-1)/2], h.heap[i]
		i = (i - 1) / 2
	}
}

func (h *top) down() {
	for i := 0; ; {
		last := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(h.heap); child++ {
			if h.q.order(h.heap[child], h.heap[last]) > 0 {
				last = child
			}
		}
		if last == i {
			return
		}
		h.heap[i], h.heap[last] = h.heap[last], h.heap[i]
		i = last
	}
}
