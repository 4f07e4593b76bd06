package harness_test

import (
	"bytes"
	"flag"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy/internal/frame"
	. "example.com/wsproxy/wsproxytest"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write docs/what-clients-see.md")

const page = "../../docs/what-clients-see.md"

// An outcome is what a library reports.
type outcome struct {
	messages []string // after "one"
	err      error
	code     int
	took     time.Duration
	answer   string // the Close frame that it sent
}

// run runs a scenario with the library as the client or the server.
func run(t *testing.T, l library, role Side, sc scenario) (got outcome) {
	synctest.Test(t, func(t *testing.T) {
		ends, peers := make(chan conn, 1), make(chan *peer, 1)
		h := func(w *Wire, f Frame) {
			switch {
			case f.From == role && sc.stall:
				<-w.Tunnel().Done()
			case f.From != role && f.Index == 2 && sc.fault != nil:
				sc.fault(w, f)
			case f.From != role && f.Index > 2 && sc.fault != nil: // no more
			default:
				w.Send(f)
			}
		}
		serve := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if role == Server {
				c, err := l.accept(w, r)
				if err != nil {
					t.Error(err)
				}
				ends <- c
			} else {
				peers <- acceptPeer(w, r)
			}
		})
		p := New(t, serve, h)
		var c conn
		var other *peer
		if role == Server {
			other = dialPeer(t, p)
			c = <-ends
		} else {
			var err error
			c, err = l.dial(p)
			require.NoError(t, err)
			other = <-peers
		}
		go other.run()
		other.send(true, frame.OpText, "one")
		if sc.part {
			other.send(false, frame.OpText, "t")
			other.send(true, frame.OpContinuation, "wo")
		} else {
			other.send(true, frame.OpText, "two")
		}
		if sc.end != nil {
			sc.end(c)
		}
		start := time.Now()
		unblock := time.AfterFunc(time.Minute, func() {
			got.took = time.Minute
			p.Tunnel(1).Cut()
		})
		if sc.stall {
			for got.err == nil {
				got.err = c.write(make([]byte, 32<<10), 5*time.Second)
			}
		}
		for got.err == nil {
			var m string
			if m, got.err = c.read(); got.err == nil && m != "one" {
				got.messages = append(got.messages, m)
			}
		}
		unblock.Stop()
		if got.took == 0 {
			got.took = time.Since(start)
		}
		got.code = l.code(got.err)
		synctest.Wait()
		for _, r := range p.Transcript() {
			switch {
			case r.Frame.From != role:
			case r.Fate == Raw:
				got.answer = "a malformed frame"
			case r.Frame.Opcode == OpClose && r.Fate == Passed:
				got.answer = fmt.Sprint("Close ", r.Frame.CloseCode())
			}
		}
		c.close()
		if sc.end != nil {
			time.Sleep(2 * pingEvery) // until the keepalive has noticed
		}
	})
	return got
}

var addresses = regexp.MustCompile(`192\.0\.2\.[12]:\d+(->192\.0\.2\.[12]:\d+)?`)

// errorText returns an error's text in code quotes, without the parts that differ
// between runs: addresses, and which of two goroutines of coder and nhooyr reports
// a write's timeout first.
func errorText(err error) string {
	text := addresses.ReplaceAllString(err.Error(), "…")
	if before, ok := strings.CutSuffix(text, timedOut); ok && strings.Contains(text, "write frame: ") {
		return "`" + text + "` or `" + before + closedByTimeout + "`"
	}
	if before, ok := strings.CutSuffix(text, closedByTimeout); ok && strings.Contains(text, "write frame: ") {
		return "`" + before + timedOut + "` or `" + text + "`"
	}
	return "`" + text + "`"
}

const timedOut, closedByTimeout = "context deadline exceeded", "use of closed network connection"

func (o outcome) String() string {
	var b strings.Builder
	for i, m := range o.messages {
		if i == 0 {
			b.WriteString("message ")
		}
		fmt.Fprintf(&b, "%q, ", m)
	}
	if len(o.messages) > 0 {
		b.WriteString("then ")
	}
	if o.took == time.Minute {
		return b.String() + "nothing for a minute"
	}
	b.WriteString(errorText(o.err))
	if o.code != 0 {
		fmt.Fprintf(&b, ", code %d", o.code)
	}
	// The relay waits up to 50 ms for a write that may see a reset.
	if took := o.took.Truncate(100 * time.Millisecond); took > 0 {
		fmt.Fprintf(&b, ", after %v", took)
	}
	if o.answer != "" {
		fmt.Fprintf(&b, "; sends %s", o.answer)
	}
	return b.String()
}

// The codes that RFC 6455, section 7.4, lists, those of its ranges, and those
// that no end may send.
var closeCodes = []int{1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 1015,
	3000, 4999, 0, 1, 999, 1016, 2999, 5000, 65535}

func closing(code int) scenario {
	return scenario{fault: func(w *Wire, f Frame) {
		if code == 0 {
			w.Send(Close(0, ""))
			return
		}
		if code == 1 { // a payload of one byte
			w.Send(Frame{Opcode: OpClose, Fin: true, Payload: []byte{3}})
			return
		}
		w.Send(Close(code, "why"))
	}}
}

// brief is an outcome in a cell of the table of codes.
func (o outcome) brief(code int) string {
	text := ""
	switch {
	case o.took == time.Minute:
		text = "nothing"
	case o.code != 0:
		text = fmt.Sprint(o.code)
	default:
		text = errorText(o.err)
	}
	if o.answer != "" {
		text += " → " + strings.TrimPrefix(o.answer, "Close ")
	}
	return text
}

// refusals are handshakes that fail, for clients.
var refusals = []struct {
	title  string
	status int
}{
	{"403", 403}, {"404", 404}, {"429", 429}, {"503", 503}, {"200", 200}, {"302 without Location", 302}, {"a reset", 0},
}

func refused(t *testing.T, l library, status int) (text string) {
	synctest.Test(t, func(t *testing.T) {
		p := New(t, http.NotFoundHandler(), nil)
		p.Refuse(1, status)
		_, err := l.dial(p)
		require.Error(t, err)
		text = errorText(err)
	})
	return text
}

// The page describes what the libraries do. With -update the test writes the page.
// Otherwise it fails if the page differs.
func TestThePageSaysWhatClientsAndServersSee(t *testing.T) {
	var b strings.Builder
	b.WriteString(intro(t))
	for _, sc := range scenarios {
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n| library | as a client | as a server |\n|---|---|---|\n", sc.title, sc.about)
		for _, l := range libraries {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", l.name, run(t, l, Client, sc), run(t, l, Server, sc))
		}
	}
	b.WriteString("\n## Close frames\n\nThe code that the library reports, or its error if it reports none, and after → the code of the Close frame that " +
		"it\nsends. 1005 is a frame without a code.\n")
	for _, role := range []Side{Client, Server} {
		fmt.Fprintf(&b, "\n### As a %s\n\n| code |", role)
		for _, l := range libraries {
			fmt.Fprintf(&b, " %s |", l.name)
		}
		b.WriteString("\n|" + strings.Repeat("---|", len(libraries)+1) + "\n")
		for _, code := range closeCodes {
			name := fmt.Sprint(code)
			if code == 0 {
				name = "none"
			} else if code == 1 {
				name = "a payload of one byte"
			}
			fmt.Fprintf(&b, "| %s |", name)
			for _, l := range libraries {
				fmt.Fprintf(&b, " %s |", run(t, l, role, closing(code)).brief(code))
			}
			b.WriteByte('\n')
		}
	}
	b.WriteString("\n## Refused handshakes\n\nThe error of the client's dial.\n\n| response |")
	for _, l := range libraries {
		fmt.Fprintf(&b, " %s |", l.name)
	}
	b.WriteString("\n|" + strings.Repeat("---|", len(libraries)+1) + "\n")
	for _, r := range refusals {
		fmt.Fprintf(&b, "| %s |", r.title)
		for _, l := range libraries {
			fmt.Fprintf(&b, " %s |", refused(t, l, r.status))
		}
		b.WriteByte('\n')
	}
	if *update {
		require.False(t, leftOut("gws"), "the page has gws, which this build leaves out")
		require.NoError(t, os.WriteFile(page, []byte(b.String()), 0o644))
	}
	want, err := os.ReadFile(page)
	require.NoError(t, err)
	if leftOut("gws") {
		want = without(want, "gws")
	}
	for i, line := range strings.Split(b.String(), "\n") {
		said, rest, _ := strings.Cut(string(want), "\n")
		if want = []byte(rest); said != line {
			t.Errorf("line %d is\n%s\nand the page says\n%s\n(go test -update writes it anew)", i+1, line, said)
		}
	}
}

// leftOut reports whether a build tag leaves out a library.
func leftOut(name string) bool {
	return !slices.ContainsFunc(libraries, func(l library) bool { return l.name == name })
}

// without returns the page without a library's rows and columns.
func without(page []byte, name string) []byte {
	var b bytes.Buffer
	column := 0 // of the library in the present table; 0: none
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		switch {
		case strings.HasPrefix(line, "| "+name+" |"):
			continue
		case len(cells) == 1:
			column = 0
		case column == 0:
			column = max(0, slices.Index(cells, " "+name+" "))
		}
		if column > 0 {
			cells = slices.Delete(cells, column, column+1)
		}
		b.WriteString(strings.Join(cells, "|"))
	}
	return b.Bytes()
}

func intro(t *testing.T) string {
	mod, err := os.ReadFile("../go.mod")
	require.NoError(t, err)
	var versions []string
	for _, path := range []string{"gorilla/websocket", "coder/websocket", "gobwas/ws", "lxzan/gws", "nhooyr.io/websocket"} {
		version := regexp.MustCompile(regexp.QuoteMeta(path) + ` v(\S+)`).FindSubmatch(mod)
		require.NotNil(t, version, path)
		versions = append(versions, fmt.Sprintf("%s %s", path, version[1]))
	}
	return "# What clients and servers see\n\n" +
		"This page lists what five Go libraries report when the other end dies, falls silent or breaks the protocol: the error of\n" +
		"their read, the close code that they report, and the Close frame that they send. Before the fault, each end has received\n" +
		"the message \"one\". Messages that it receives later are listed. Addresses are left out. The connections are in memory and\n" +
		"behave as TCP connections do on Linux.\n\n" +
		"[`interop/harness`](../interop/harness) writes this page with [`wsproxytest`](../wsproxytest), and fails if a library does anything else:\n\n" +
		"    cd interop && go test ./harness -update\n\n" +
		strings.Join(versions, ", ") + ".\n\n" +
		"Worth knowing:\n\n" +
		"- coder and nhooyr return the beginning of a message as a whole message if the connection ends between two fragments,\n" +
		"  and an empty message if it ends after a frame's header. Only the next read fails. Only a length or a checksum in\n" +
		"  the message reveals it.\n" +
		"- Only gorilla reports 1006 for a connection that ends without a Close frame. A reset has no code with any library.\n" +
		"- gws answers 1000 to the codes 1001 to 1013. gobwas refuses 1012 to 1014, which IANA has registered since RFC 6455,\n" +
		"  and accepts 5000 and above. As a client, its answer to a bad code is a malformed frame.\n" +
		"- gorilla, coder, gws and nhooyr do not check UTF-8 by default.\n"
}
