package wsdebug

import (
	"cmp"
	"container/heap"
	"net/netip"
	"slices"
	"strings"
	"time"

	"example.com/wsproxy"
)

// A row is a tunnel as it was when the page was built. What changes is read once,
// so that the rows are in the order of the values that they show.
type row struct {
	*wsproxy.Tunnel
	client                   netip.Addr
	age, idle                time.Duration
	fromClient, fromUpstream wsproxy.FlowStats
}

func newRow(t *wsproxy.Tunnel, now time.Time) row {
	return row{
		Tunnel: t, client: t.ClientIP().Unmap(),
		age: now.Sub(t.OpenedAt()), idle: max(now.Sub(t.LastActivity()), 0),
		fromClient: t.FromClient(), fromUpstream: t.FromUpstream(),
	}
}

// A column is what tunnels can be sorted by.
type column struct {
	name, title, long string
	right             bool      // numbers, which are set flush right
	words             [2]string // of the order and of its reverse
	number            bool      // what is looked for is the largest
	compare           func(a, b *row) int
}

var (
	young   = [2]string{"youngest first", "oldest first"}
	az      = [2]string{"A to Z", "Z to A"}
	numbers = [2]string{"smallest first", "largest first"}
)

// columns has the default order first.
var columns = []column{
	{"age", "Age", "Age", true, young, false, func(a, b *row) int { return cmp.Compare(a.age, b.age) }},
	{"client", "Client", "Client", false, az, false, func(a, b *row) int { return a.client.Compare(b.client) }},
	{"host", "Host", "Host", false, az, false, func(a, b *row) int { return strings.Compare(a.Host(), b.Host()) }},
	{"path", "Path", "Path", false, az, false, func(a, b *row) int { return strings.Compare(a.Path(), b.Path()) }},
	{"server", "Server", "Server", false, az, false, func(a, b *row) int { return strings.Compare(a.Server(), b.Server()) }},
	{"protocol", "Protocol", "Protocol", false, az, false, func(a, b *row) int {
		return cmp.Or(strings.Compare(a.Protocol(), b.Protocol()), strings.Compare(a.Subprotocol(), b.Subprotocol()))
	}},
	{"client_bytes", "Bytes", "Bytes from client", true, numbers, true,
		func(a, b *row) int { return cmp.Compare(a.fromClient.Bytes, b.fromClient.Bytes) }},
	{"client_messages", "Messages", "Messages from client", true, numbers, true,
		func(a, b *row) int { return cmp.Compare(a.fromClient.Messages, b.fromClient.Messages) }},
	{"upstream_bytes", "Bytes", "Bytes from upstream", true, numbers, true,
		func(a, b *row) int { return cmp.Compare(a.fromUpstream.Bytes, b.fromUpstream.Bytes) }},
	{"upstream_messages", "Messages", "Messages from upstream", true, numbers, true,
		func(a, b *row) int { return cmp.Compare(a.fromUpstream.Messages, b.fromUpstream.Messages) }},
	{"idle", "Idle for", "Idle time", true, [2]string{"shortest first", "longest first"}, true,
		func(a, b *row) int { return cmp.Compare(a.idle, b.idle) }},
}

// matches reports whether q asks for t.
func (q *query) matches(t *wsproxy.Tunnel, now time.Time) bool {
	return (q.server == "" || t.Server() == q.server) &&
		(!q.ip.IsValid() || q.ip.Contains(t.ClientIP().Unmap().WithZone(""))) &&
		(q.older == 0 || now.Sub(t.OpenedAt()) >= q.older) &&
		(q.path == "" || strings.Contains(t.Path(), q.path))
}

// order compares rows as q asks. Equal ones are in the order of their numbers.
func (q *query) order(a, b *row) int {
	c := q.sort.compare(a, b)
	if q.reverse {
		c = -c
	}
	return cmp.Or(c, cmp.Compare(a.ID(), b.ID()))
}

// A listing is what one pass over the tunnels of a proxy finds.
type listing struct {
	rows     []row // the first q.n, in order
	matched  int
	open     int
	byServer map[string]int // open tunnels
}

// list visits each tunnel once and keeps at most q.n of them, so that it costs
// little more than counting them.
func list(p *wsproxy.Proxy, q *query, now time.Time) listing {
	l := listing{byServer: make(map[string]int)}
	kept := top{q: q}
	for t := range p.Tunnels() {
		l.open++
		l.byServer[t.Server()]++
		if !q.matches(t, now) {
			continue
		}
		l.matched++
		if q.n > 0 {
			kept.offer(newRow(t, now))
		}
	}
	l.rows = kept.rows
	slices.SortFunc(l.rows, func(a, b row) int { return q.order(&a, &b) })
	return l
}

// A top is a heap of the q.n first rows in q's order, the last of them on top.
type top struct {
	q    *query
	rows []row
}

func (h *top) offer(r row) {
	if len(h.rows) < h.q.n {
		heap.Push(h, r)
	} else if h.q.order(&r, &h.rows[0]) < 0 {
		h.rows[0] = r
		heap.Fix(h, 0)
	}
}

func (h *top) Len() int           { return len(h.rows) }
func (h *top) Less(i, j int) bool { return h.q.order(&h.rows[i], &h.rows[j]) > 0 }
func (h *top) Swap(i, j int)      { h.rows[i], h.rows[j] = h.rows[j], h.rows[i] }
func (h *top) Push(r any)         { h.rows = append(h.rows, r.(row)) }
func (h *top) Pop() any           { panic("wsdebug: a top only grows") }
