package nginx_test

import (
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

// A difference is one thing that nginx and wsproxy do differently.
type difference struct {
	title, reason string // as in docs/nginx.md

	// Each line that compare returns must match one of these entirely.
	lines []string

	// It may show in every trial, not only in those that name it.
	everywhere bool
}

// explains returns which of d.lines a line matches, or -1.
func (d difference) explains(line string) int {
	return slices.IndexFunc(d.lines, func(p string) bool {
		return regexp.MustCompile(`(?s)^(` + p + `)$`).MatchString(line)
	})
}

// A trial is one exchange that is run through both proxies.
type trial struct {
	name     string
	request  string  // what the client sends
	response string  // the upstream's response; default: fine
	reply    reply   // instead of response
	replies  []reply // instead of both, one for each upstream
	play     func(x *stage)
	differs  []string // titles of differences, all of which must show
}

// A stage is a trial with one of the proxies.
type stage struct {
	*testing.T
	side
	up   []*recorder
	seen map[string]string // observations by aspect
	n    int               // responses seen

	requestsOnly bool // compare only the number of requests at the upstreams
}

const fine = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nfine"

// note adds an observation.
func (x *stage) note(aspect string, format string, args ...any) {
	x.seen[aspect] = fmt.Sprintf(format, args...)
}

// ask sends a complete request and notes the response.
func (x *stage) ask(c *peer, request string) message {
	x.Helper()
	c.send(x, request)
	method, _, _ := strings.Cut(request, " ")
	return x.noteResponse(c, method)
}

// noteResponse notes the next response.
func (x *stage) noteResponse(c *peer, method string) message {
	x.Helper()
	x.n++
	prefix := "client: "
	if x.n > 1 {
		prefix = fmt.Sprintf("client, response %d: ", x.n)
	}
	early, m, err := c.response(method)
	if early != nil {
		x.note(prefix+"informational", "%s", strings.Join(early, ", "))
	}
	if m.start == "" {
		x.note(prefix+"response", "none, %v", err)
		return m
	}
	if err != nil {
		x.note(prefix+"body's end", "%v", err)
	}
	x.noteMessage(prefix, m)
	return m
}

func (x *stage) noteMessage(prefix string, m message) {
	version, status, _ := strings.Cut(m.start, " ")
	if strings.HasPrefix(version, "HTTP") {
		code, reason, _ := strings.Cut(status, " ")
		x.note(prefix+"version", "%s", version)
		x.note(prefix+"status", "%s", code)
		x.note(prefix+"reason", "%s", reason)
	} else {
		x.note(prefix+"request line", "%s", m.start)
	}
	var names, order []string
	for _, f := range m.fields {
		name := strings.ToLower(f[0])
		if !slices.Contains(order, name) {
			names, order = append(names, f[0]), append(order, name)
		}
		x.note(prefix+"field "+name, "%s", x.general(name, strings.Join(m.all(name), " | ")))
	}
	x.note(prefix+"names", "%s", strings.Join(names, " "))
	x.note(prefix+"body", "%q", m.body)
}

// general replaces text that differs between sides or runs.
func (x *stage) general(name, value string) string {
	if name == "date" {
		if at, err := http.ParseTime(value); err == nil && time.Since(at).Abs() < time.Hour {
			return "now"
		}
	}
	if scheme := map[bool]string{false: "http", true: "https"}[x.tls]; name == "x-forwarded-proto" && value == scheme {
		return "the client's scheme"
	}
	_, port, _ := strings.Cut(x.addr, ":")
	return strings.ReplaceAll(value, port, "PORT")
}

// tunnel returns the upstream's end of the tunnel that was just opened.
func (x *stage) tunnel() *peer {
	x.Helper()
	select {
	case c := <-x.up[0].tunnels:
		return c
	case <-time.After(testkit.Patience):
		require.FailNow(x, "the upstream has switched no connection")
		return nil
	}
}

// through runs a trial with one side and returns the observations.
func through(t *testing.T, s side, up []*recorder, tr trial) map[string]string {
	response := tr.reply
	if response == nil {
		response = respondWith(tr.response)
		if tr.response == "" {
			response = respondWith(fine)
		}
	}
	for i, r := range up {
		if tr.replies != nil {
			response = tr.replies[i]
		}
		r.begin(response)
	}
	x := &stage{T: t, side: s, up: up, seen: map[string]string{}}
	if tr.play != nil {
		tr.play(x)
	} else {
		c := x.dial(t)
		if m := x.ask(c, tr.request); m.status() != 101 && m.has("connection", "close") {
			x.note("client: end", "%s", c.rest())
		}
		c.Close()
	}
	for i, r := range x.up {
		upstream := "upstream"
		if i > 0 {
			upstream = fmt.Sprintf("upstream %d", i+1)
		}
		requests := r.recorded()
		x.note(upstream+" requests", "%d", len(requests))
		if x.requestsOnly {
			continue
		}
		for i, m := range requests {
			prefix := upstream + ": "
			if i > 0 {
				prefix = fmt.Sprintf("%s, request %d: ", upstream, i+1)
				x.note(prefix+"connection", "%d", m.conn)
			}
			x.noteMessage(prefix, m)
		}
	}
	return x.seen
}

const absent = "none"

// compare returns a line for each aspect in which the sides differ.
func compare(nginx, wsproxy map[string]string) []string {
	value := func(seen map[string]string, aspect string) string {
		if v, ok := seen[aspect]; ok {
			return v
		}
		return absent
	}
	// If the response differs or there is no request, comparing its parts is
	// pointless.
	var apart []string
	for _, seen := range []map[string]string{nginx, wsproxy} {
		for aspect := range seen {
			prefix, part, _ := strings.Cut(aspect, ": ")
			if (part == "status" || part == "request line" || part == "response") && value(nginx, aspect) != value(wsproxy, aspect) {
				if part != "request line" || value(nginx, aspect) == absent || value(wsproxy, aspect) == absent {
					apart = append(apart, prefix)
				}
			}
		}
	}
	both := maps.Clone(nginx)
	maps.Copy(both, wsproxy)
	var lines []string
	for _, aspect := range slices.Sorted(maps.Keys(both)) {
		prefix, part, _ := strings.Cut(aspect, ": ")
		if slices.Contains(apart, prefix) && part != "status" {
			continue
		}
		a, b := value(nginx, aspect), value(wsproxy, aspect)
		if part == "names" {
			lines = append(lines, compareNames(prefix, strings.Fields(a), strings.Fields(b))...)
		} else if a != b {
			lines = append(lines, fmt.Sprintf("%s: %s → %s", aspect, a, b))
		}
	}
	return lines
}

// compareNames compares the order and the case of fields that both sides have.
func compareNames(prefix string, a, b []string) (lines []string) {
	fold := func(names []string) []string {
		lower := make([]string, len(names))
		for i, name := range names {
			lower[i] = strings.ToLower(name)
		}
		return lower
	}
	inA, inB := fold(a), fold(b)
	lacks := func(other []string) func(string) bool {
		return func(name string) bool { return !slices.Contains(other, strings.ToLower(name)) }
	}
	a, b = slices.DeleteFunc(a, lacks(inB)), slices.DeleteFunc(b, lacks(inA))
	if !slices.Equal(fold(a), fold(b)) {
		lines = append(lines, fmt.Sprintf("%s: order of fields: %v → %v", prefix, fold(a), fold(b)))
	}
	slices.SortFunc(a, func(x, y string) int { return strings.Compare(strings.ToLower(x), strings.ToLower(y)) })
	slices.SortFunc(b, func(x, y string) int { return strings.Compare(strings.ToLower(x), strings.ToLower(y)) })
	for i := range a {
		if a[i] != b[i] {
			lines = append(lines, fmt.Sprintf("%s: case of fields: %s → %s", prefix, a[i], b[i]))
		}
	}
	return lines
}

// judge fails the test for an unexpected difference and for a missing expected
// one. also has differences that may show throughout the recipe. It returns by
// title which lines of which differences show.
func judge(t *testing.T, tr trial, also, lines []string) map[string][]int {
	shown := map[string][]int{}
	for _, line := range lines {
		explained := false
		for _, d := range differences {
			if !d.everywhere && !slices.Contains(slices.Concat(also, tr.differs), d.title) {
				continue
			}
			if i := d.explains(line); i >= 0 {
				explained, shown[d.title] = true, append(shown[d.title], i)
			}
		}
		if !explained {
			t.Errorf("nginx → wsproxy, not listed: %s", line)
		}
	}
	for _, title := range tr.differs {
		if shown[title] == nil {
			t.Errorf("the listed difference does not show: %s", title)
		}
	}
	return shown
}
