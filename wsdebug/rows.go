package wsdebug

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"example.com/wsproxy"
)

type serverView struct {
	Addr, Link           string
	State, Note, Class   string
	Tunnels, Max, Weight string
	Opened               string
	Fails, Failed        string
	Drain                string // a link
	Here                 bool
}

type head struct {
	Title, Link, Sort, Arrow, Class string
}

type rowView struct {
	ID, Close                       string
	Client, Host, Path, Server      string
	Protocol                        string
	Opened, Age, Idle               string
	ClientBytes, ClientMessages     string
	UpstreamBytes, UpstreamMessages string
}

// How many characters of a name the table shows.
const (
	shownPath = 120
	shownName = 64
)

func serverOf(s server, q *query, now time.Time) serverView {
	v := serverView{Addr: visible(s.addr, 2*shownName), Tunnels: count(s.tunnels), Here: q.server == s.addr,
		Link: q.link("tunnels", "server", s.addr)}
	if s.set == nil {
		v.State, v.Class = "", "off"
		return v
	}
	v.Opened, v.Failed = count(s.set.Opened), count(s.set.Failed)
	v.Weight = strconv.Itoa(s.set.Weight)
	v.Fails = strconv.Itoa(s.set.Fails)
	if s.set.MaxFails != wsproxy.NeverDown {
		v.Fails += " of " + strconv.Itoa(s.set.MaxFails)
	}
	if s.set.MaxTunnels > 0 {
		v.Max = count(s.set.MaxTunnels)
	}
	switch {
	case s.set.Down:
		v.State, v.Note, v.Class = "marked down", "no new requests", "off"
	case s.set.DownUntil.After(now):
		v.State, v.Class = "down", "bad"
		v.Note = fmt.Sprintf("until %s, in %s", s.set.DownUntil.UTC().Format("15:04:05"), span(s.set.DownUntil.Sub(now)+time.Second-1))
	case !s.set.DownUntil.IsZero():
		v.State, v.Class, v.Note = "down", "bad", "one request tries it again"
	case s.set.MaxTunnels > 0 && s.set.Tunnels >= s.set.MaxTunnels:
		v.State, v.Class, v.Note = "full", "wait", "no new tunnels"
	default:
		v.State, v.Class = "up", "good"
	}
	if s.set.Backup {
		v.Note = strings.TrimPrefix(v.Note+", backup", ", ")
	}
	return v
}

// heads returns the column heads, with links that sort. A first click on a column of
// numbers puts the largest first. A click on the current column reverses the order.
func heads(q *query) (all []head) {
	for _, c := range columns {
		h := head{Title: c.title}
		reverse := c.number && c.name != "age"
		if c.name == q.sort.name {
			h.Sort, h.Arrow, reverse = "ascending", "▲", !q.reverse
			if q.reverse {
				h.Sort, h.Arrow = "descending", "▼"
			}
		}
		name := c.name
		if reverse {
			name = "-" + name
		}
		if c.number {
			h.Class = "number"
		}
		h.Link = q.link("tunnels", "sort", name)
		all = append(all, h)
	}
	return all
}

func rowOf(t *row) rowView {
	v := rowView{
		ID: strconv.FormatUint(t.ID(), 10), Client: clientOf(t.Tunnel),
		Host: visible(t.Host(), shownName), Path: visible(t.Path(), shownPath), Server: visible(t.Server(), 2*shownName),
		Protocol: visible(t.Protocol(), shownName), Opened: t.OpenedAt().UTC().Format(time.RFC3339),
		Age: span(t.age), Idle: span(t.idle),
		ClientBytes: byteCount(t.fromClient.Bytes), ClientMessages: count(t.fromClient.Messages),
		UpstreamBytes: byteCount(t.fromUpstream.Bytes), UpstreamMessages: count(t.fromUpstream.Messages),
	}
	if sub := t.Subprotocol(); sub != "" {
		v.Protocol = visible(sub, shownName)
		if t.Protocol() != "websocket" {
			v.Protocol = visible(t.Protocol(), shownName) + ": " + v.Protocol
		}
	}
	return v
}

// clientOf returns the client's address. A client on a unix socket has none.
func clientOf(t *wsproxy.Tunnel) string {
	if ip := t.ClientIP().Unmap(); ip.IsValid() {
		return visible(ip.String(), shownName)
	}
	return "–"
}
