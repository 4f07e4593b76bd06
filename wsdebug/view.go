package wsdebug

import (
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"strconv"
	"strings"
	"time"

	"example.com/wsproxy"
)

var (
	//go:embed page.css
	styleSheet string
	//go:embed page.html
	pageHTML string
)

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{"long": long}).Parse(pageHTML))

// contentSecurityPolicy allows the page its own style sheet, by the sheet's hash,
// the icon in its header, and forms to itself. It allows no script.
var contentSecurityPolicy = func() string {
	sum := sha256.Sum256([]byte(styleSheet))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
}()

// A view is the data of the template. Text that a client or the query chose has
// passed through visible, and the template escapes it.
type view struct {
	CSS        template.CSS
	Title      string
	Error      []string // messages, in place of what follows Live
	ErrorTitle string
	Proxies    []choice
	Now        string
	Refresh    int      // seconds, 0: never
	Self       string   // the URL to load then
	Live       []choice // of Refresh
	JSON       string

	Totals  []total
	Over    string // the time of which rates are the average; empty if there are none yet
	Plots   []plot
	Closed  []tally
	Refused []tally

	Servers     []serverView
	ServersLeft int
	HasSet      bool

	Form    form
	Filters []choice // the ones in effect, with links that remove them
	Clear   string   // a link that removes all
	Pause   string
	Summary string
	Heads   []head
	Rows    []rowView
	Again   string // the link of the first reload

	Closes bool      // with WithClose
	Ask    *question // before something is closed
	Said   string    // after it
}

// long reports whether a cell's text may wrap anywhere, so that it does not push the
// other columns out of sight.
func long(text string) bool { return len(text) > 30 }

// A choice is a link among several.
type choice struct {
	Text, Link, Note string
	Here             bool
}

// A total is a count and its rate, and perhaps a related count.
type total struct {
	Name, Value, Rate string
	More              string
}

type tally struct {
	Name, Count, Class string
}

type form struct {
	Proxy, Server, IP, Path, Older, N string
	Servers                           []string
	Sorts                             []choice
}

func (h *page) frame(q *query, current *shown) view {
	v := view{CSS: template.CSS(styleSheet), Title: "wsproxy", Now: time.Now().UTC().Format("2006-01-02 15:04:05"), Form: q.form()}
	if len(h.proxies) > 1 || h.proxies != nil && h.proxies[0].Name != "" {
		for _, each := range h.proxies {
			v.Proxies = append(v.Proxies, choice{
				Text: cmp.Or(visible(each.Name, shownName), "without a name"), Link: q.link("", "proxy", each.Name, "server", ""), Here: each == current})
		}
	}
	return v
}

func (h *page) errorView(q query, posted bool, status int, err error) view {
	v := h.frame(&q, nil)
	v.Title = http.StatusText(status) + " · wsproxy"
	v.ErrorTitle = "This cannot be shown"
	if posted {
		v.ErrorTitle = "Nothing was changed"
	}
	v.Error = strings.Split(err.Error(), "\n")
	v.Clear = "?"
	return v
}

func (h *page) view(s *state) view {
	q := s.query
	v := h.frame(q, s.shown)
	for i := range v.Proxies {
		v.Proxies[i].Note = count(s.live[h.proxies[i]])
	}
	if s.Name != "" {
		v.Title = visible(s.Name, shownName) + " · wsproxy"
	}
	v.Now = s.now.UTC().Format("2006-01-02 15:04:05")
	// Browsers keep the place if the URL to load is that of the page to the byte. If it
	// has a fragment, they only scroll to that.
	v.Refresh, v.Self = q.refresh, "?"+q.raw
	v.JSON = q.link("", "format", "json", "refresh", "")
	v.Live = q.refreshChoices()
	v.Again = q.link("", "refresh", "2")
	v.Pause = q.link("tunnels", "refresh", "")

	rate := current(s.history)
	v.Totals = totals(s.stats, rate)
	if rate != nil {
		v.Over = span(rate.over)
		if rate.over < time.Minute {
			v.Over = fmt.Sprintf("%.1f\u00a0s", rate.over.Seconds())
		}
		v.Plots = plots(s.history)
	}
	for reason, n := range s.stats.ClosedByReason() {
		if n > 0 {
			v.Closed = append(v.Closed, tally{reason.String(), count(n), fmt.Sprintf("g%d", groupOf[reason])})
		}
	}
	for status, n := range s.stats.RefusedByStatus() {
		if n > 0 {
			v.Refused = append(v.Refused, tally{strings.TrimSpace(strconv.Itoa(status) + " " + http.StatusText(status)), count(n), ""})
		}
	}
	v.HasSet = s.Upstream != nil
	for i, each := range s.servers {
		if i == maxRows {
			v.ServersLeft = len(s.servers) - maxRows
			break
		}
		view := serverOf(each, q, s.now)
		if h.close != nil {
			view.Drain = q.link("ask", "drain", each.addr)
			if over, runs := h.close.draining(s.shown, each.addr); runs {
				view.Note = strings.TrimPrefix(view.Note+", draining over "+span(over), ", ")
			}
		}
		v.Servers = append(v.Servers, view)
		if i < 100 {
			v.Form.Servers = append(v.Form.Servers, each.addr)
		}
	}
	v.Filters = q.filters()
	v.Clear = q.link("tunnels", "server", "", "ip", "", "path", "", "older", "")
	v.Closes = h.close != nil
	v.Summary = summary(s)
	v.Heads = heads(q)
	v.Rows = make([]rowView, len(s.rows))
	for i := range s.rows {
		v.Rows[i] = rowOf(&s.rows[i])
		if h.close != nil {
			v.Rows[i].Close = q.link("ask", "close", v.Rows[i].ID)
		}
	}
	return v
}

func (q query) refreshChoices() (choices []choice) {
	seconds := []int{0, 2, 10}
	known := false
	for _, n := range seconds {
		known = known || n == q.refresh
	}
	if !known {
		seconds = append(seconds, q.refresh)
	}
	for _, n := range seconds {
		c := choice{Text: "off", Link: q.link("", "refresh", ""), Here: n == q.refresh}
		if n > 0 {
			c.Text, c.Link = span(time.Duration(n)*time.Second), q.link("", "refresh", strconv.Itoa(n))
		}
		choices = append(choices, c)
	}
	return choices
}

func totals(s wsproxy.Stats, r *rates) []total {
	opened := total{Name: "Opened", Value: count(s.Opened)}
	closed := total{Name: "Closed", Value: count(s.Opened - int64(s.Live))}
	fromClient := total{Name: "From clients", Value: byteCount(s.FromClient.Bytes), More: amount(s.FromClient.Messages, "message")}
	fromUpstream := total{Name: "From the upstream", Value: byteCount(s.FromUpstream.Bytes), More: amount(s.FromUpstream.Messages, "message")}
	if r != nil {
		opened.Rate, closed.Rate = perSecond(r.opened), perSecond(r.closed)
		fromClient.Rate = bytesPerSecond(r.fromClient.Bytes)
		fromClient.More += ", " + perSecond(r.fromClient.Messages)
		fromUpstream.Rate = bytesPerSecond(r.fromUpstream.Bytes)
		fromUpstream.More += ", " + perSecond(r.fromUpstream.Messages)
	}
	return []total{
		{Name: "Tunnels", Value: count(s.Live)},
		{Name: "Handshakes", Value: count(s.Handshakes), More: "under way"},
		opened, closed, fromClient, fromUpstream,
		{Name: "Retries", Value: count(s.Retries), More: "on another server"},
	}
}

func (q query) form() form {
	entered := func(name string) string { return strings.ToValidUTF8(q.values[name], "\uFFFD") }
	f := form{Proxy: entered("proxy"), Server: entered("server"), IP: entered("ip"), Path: entered("path"),
		Older: entered("older"), N: entered("n")}
	for _, c := range columns {
		for _, sign := range []string{"", "-"} {
			text := c.long + ", " + c.words[len(sign)]
			f.Sorts = append(f.Sorts, choice{Text: text, Link: sign + c.name, Here: q.sort.name == c.name && q.reverse == (sign == "-")})
		}
	}
	return f
}

func (q query) filters() (choices []choice) {
	for _, f := range []struct{ name, text string }{
		{"server", "server "}, {"ip", "client "}, {"path", "path contains "}, {"older", "open for "}} {
		if value := q.values[f.name]; value != "" {
			choices = append(choices, choice{Text: f.text + visible(value, shownName), Link: q.link("tunnels", f.name, "")})
		}
	}
	return choices
}

// summary returns how many tunnels there are, and how many of them the table has.
func summary(s *state) string {
	of := count(s.open) + " open"
	if s.query.filtered() {
		of = count(s.matched) + " that match, of " + of
	}
	if len(s.rows) < s.matched {
		return fmt.Sprintf("%s of %s", count(len(s.rows)), of)
	}
	return of
}
