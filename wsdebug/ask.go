package wsdebug

import (
	"fmt"
	"net/http"
	"time"
)

// A question is what the page asks before it closes something.
type question struct {
	Title   string
	Text    string
	Details []total
	Fields  []choice // hidden: name and value
	Overs   []choice // to choose from, for a drain
	Button  string
	Post    string
	Cancel  string
}

// act sets what the query of a page with WithClose asks and tells.
func (h *page) act(v *view, s *state) error {
	q := s.query
	if id := q.values["close"]; id != "" {
		t, err := tunnel(s.Proxy, id)
		if err != nil {
			return err
		}
		v.Ask = &question{
			Title: "Close tunnel " + id + "?",
			Text:  fmt.Sprintf("Both ends get a Close frame with code %d and the reason “%s”. The client may connect again.", closeCode, closeReason),
			Details: []total{
				{Name: "Client", Value: clientOf(t)}, {Name: "Host", Value: visible(t.Host(), 256)},
				{Name: "Path", Value: visible(t.Path(), 1024)}, {Name: "Server", Value: visible(t.Server(), 256)},
				{Name: "Open for", Value: span(s.now.Sub(t.OpenedAt()))},
			},
			Fields: []choice{{Text: "close", Link: id}, {Text: "opened", Link: openedAt(t)}},
			Button: "Close the tunnel",
		}
	}
	if addr := q.values["drain"]; addr != "" {
		found := findServer(s.servers, addr)
		if found == nil {
			return failed(http.StatusNotFound, "there is no server %s", quote(addr))
		}
		v.Ask = &question{
			Title: "Drain " + visible(addr, 2*shownName) + "?",
			Text: fmt.Sprintf("Both ends of its %s get a Close frame with code 1012 (service restart), in random order and evenly over the time. ",
				tunnels(found.tunnels)),
			Fields: []choice{{Text: "drain", Link: addr}},
			Button: "Drain the server",
		}
		if s.Upstream != nil && (found.set == nil || found.set.Down) {
			v.Ask.Text += "It gets no new tunnels."
		} else {
			v.Ask.Text += "New tunnels may still go to it: it is not marked Down."
		}
		for _, d := range []time.Duration{0, 10 * time.Second, time.Minute, 10 * time.Minute, time.Hour} {
			text := "over " + span(d)
			if d == 0 {
				text = "at once"
			}
			v.Ask.Overs = append(v.Ask.Overs, choice{Text: text, Link: fmt.Sprint(int(d.Seconds())), Here: d == 10*time.Second})
		}
	}
	if v.Ask != nil {
		v.Refresh = 0 // it would take what was chosen
		v.Ask.Post, v.Ask.Cancel = q.link(""), q.link("")
	}
	if id := q.values["closed"]; id != "" {
		_, err := tunnel(s.Proxy, id)
		switch {
		case err == nil:
			v.Said = fmt.Sprintf("Tunnel %s is closing: both ends get a Close frame with code %d.", id, closeCode)
		case statusOf(err) == http.StatusNotFound:
			v.Said = "Tunnel " + id + " is closed."
		default:
			return err
		}
	}
	if addr := q.values["drained"]; addr != "" {
		left := "No tunnel to it is open."
		if found := findServer(s.servers, addr); found != nil && found.tunnels > 0 {
			left = sentence(found.tunnels)
		}
		if over, runs := h.close.draining(s.shown, addr); runs {
			v.Said = fmt.Sprintf("%s is being drained over %s. %s", visible(addr, 2*shownName), span(over), left)
		} else {
			v.Said = fmt.Sprintf("The drain of %s has ended. %s", visible(addr, 2*shownName), left)
		}
	}
	return nil
}

func findServer(all []server, addr string) *server {
	for i := range all {
		if all[i].addr == addr {
			return &all[i]
		}
	}
	return nil
}

func tunnels(n int) string {
	if n == 1 {
		return "1 tunnel"
	}
	return count(n) + " tunnels"
}

func sentence(n int) string {
	if n == 1 {
		return "1 tunnel to it is open."
	}
	return count(n) + " tunnels to it are open."
}
