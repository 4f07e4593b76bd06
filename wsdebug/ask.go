package wsdebug

import (
	"fmt"
	"net/http"
	"time"
)

// A question asks for confirmation before the page closes something.
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

// act sets the question or the report that the query of a page with WithClose
// selects.
func (h *page) act(v *view, s *state) (err error) {
	q := s.query
	if id := q.values["close"]; id != "" {
		v.Ask, err = askToClose(s, id)
	} else if addr := q.values["drain"]; addr != "" {
		v.Ask, err = askToDrain(s, addr)
	}
	if err != nil {
		return err
	}
	if v.Ask != nil {
		v.Refresh = 0 // a reload would reset the form
		v.Ask.Post, v.Ask.Cancel = q.link(""), q.link("")
	}
	if id := q.values["closed"]; id != "" {
		v.Said, err = sayClosed(s, id)
	} else if addr := q.values["drained"]; addr != "" {
		v.Said = h.close.sayDrained(s, addr)
	}
	switch { // a screen reader says the title first
	case v.Ask != nil:
		v.Title = v.Ask.Title + " · " + v.Title
	case v.Said != "":
		v.Title = v.Said + " · " + v.Title
	}
	return err
}

func askToClose(s *state, id string) (*question, error) {
	t, err := tunnel(s.Proxy, id)
	if err != nil {
		return nil, err
	}
	return &question{
		Title: "Close tunnel " + id + "?",
		Text:  fmt.Sprintf("Both ends get a Close frame with code %d and the reason “%s”. The client may connect again.", closeCode, closeReason),
		Details: []total{
			{Name: "Client", Value: clientOf(t)}, {Name: "Host", Value: visible(t.Host(), 256)},
			{Name: "Path", Value: visible(t.Path(), 1024)}, {Name: "Server", Value: visible(t.Server(), 256)},
			{Name: "Open for", Value: span(s.now.Sub(t.OpenedAt()))},
		},
		Fields: []choice{{Text: "close", Link: id}, {Text: "opened", Link: openedAt(t)}},
		Button: "Close the tunnel",
	}, nil
}

func askToDrain(s *state, addr string) (*question, error) {
	found := findServer(s.servers, addr)
	if found == nil {
		return nil, failed(http.StatusNotFound, "there is no server %s", quote(addr))
	}
	q := &question{
		Title: "Drain " + visible(addr, 2*shownName) + "?",
		Text: fmt.Sprintf("Both ends of its %s get a Close frame with code 1012 (service restart), in random order and evenly over the time. ",
			amount(found.tunnels, "tunnel")),
		Fields: []choice{{Text: "drain", Link: addr}},
		Button: "Drain the server",
	}
	if s.Upstream != nil && (found.set == nil || found.set.Down) {
		q.Text += "It gets no new tunnels."
	} else {
		q.Text += "New tunnels may still go to it: it is not marked Down."
	}
	q.Overs = []choice{{Text: "at once", Link: "0"}}
	for _, d := range []time.Duration{10 * time.Second, time.Minute, 10 * time.Minute, time.Hour} {
		q.Overs = append(q.Overs, choice{Text: "over " + span(d), Link: fmt.Sprint(d.Seconds()), Here: d == 10*time.Second})
	}
	return q, nil
}

func sayClosed(s *state, id string) (string, error) {
	switch _, err := tunnel(s.Proxy, id); {
	case err == nil:
		return fmt.Sprintf("Tunnel %s is closing: both ends get a Close frame with code %d.", id, closeCode), nil
	case statusOf(err) == http.StatusNotFound:
		return "Tunnel " + id + " is closed.", nil
	default:
		return "", err
	}
}

func (c *closer) sayDrained(s *state, addr string) string {
	left := "No tunnel to it is open."
	if found := findServer(s.servers, addr); found != nil && found.tunnels == 1 {
		left = "1 tunnel to it is open."
	} else if found != nil && found.tunnels > 1 {
		left = amount(found.tunnels, "tunnel") + " to it are open."
	}
	if over, runs := c.draining(s.shown, addr); runs {
		return fmt.Sprintf("%s is being drained over %s. %s", visible(addr, 2*shownName), span(over), left)
	}
	return fmt.Sprintf("The drain of %s has ended. %s", visible(addr, 2*shownName), left)
}

func findServer(all []server, addr string) *server {
	for i := range all {
		if all[i].addr == addr {
			return &all[i]
		}
	}
	return nil
}
