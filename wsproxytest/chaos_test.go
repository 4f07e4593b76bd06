package wsproxytest_test

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy/internal/frame"
	"example.com/wsproxy/internal/testkit"
	. "example.com/wsproxy/wsproxytest"
)

var allFaults = Mix{Drop: 0.02, Duplicate: 0.05, Cut: 0.03, Reset: 0.03, Stall: 0.02, Delay: 0.05,
	StallFor: 30 * time.Millisecond, MaxDelay: 10 * time.Millisecond}

// chaoticRun runs three clients at once, each on its own URL. Each sends messages
// without waiting for their echo, in pieces of the sizes that chunk returns, and
// connects again when its tunnel ends.
func chaoticRun(t *testing.T, dial func(testing.TB, *Proxy, string) *peer, seed uint64, chunk func() int) string {
	p := New(t, serve(echo), Chaos(seed, allFaults))
	var clients sync.WaitGroup
	for i := range 3 {
		clients.Go(func() {
			for range 3 {
				c := dial(t, p, fmt.Sprintf("/chat?user=%d", i))
				echoed := make(chan struct{})
				go func() {
					io.Copy(io.Discard, c.br)
					close(echoed)
				}()
				var all []byte
				for n := range 15 {
					all = append(all, c.wire(n%3 != 1, opcodeAt(n), fmt.Sprint("message ", n))...)
				}
				all = append(all, c.wire(true, frame.OpClose, "\x03\xe8")...)
				for len(all) > 0 {
					n := min(chunk(), len(all))
					if _, err := c.Conn.Write(all[:n]); err != nil {
						break
					}
					all = all[n:]
				}
				c.closeWrite()
				<-echoed
				c.Close()
			}
		})
	}
	clients.Wait()
	for n := range 9 {
		<-p.Tunnel(n + 1).Done()
	}
	return p.Transcript().String()
}

// without returns the lines of a that are not in b.
func without(a, b string) (only string) {
	for line := range strings.Lines(a) {
		if !strings.Contains(b, line) {
			only += line
		}
	}
	return only
}

// opcodeAt makes every third message one of two fragments.
func opcodeAt(n int) byte {
	if n%3 == 2 {
		return frame.OpContinuation
	}
	return frame.OpText
}

func TestTheSameSeedGivesTheSameTranscript(t *testing.T) {
	runs := testkit.Scale(33, 100)
	var want string
	check := func(t *testing.T, i int, got string) {
		t.Helper()
		if want == "" {
			want = got
			for _, fate := range []string{"dropped", "injected", "partial", "cut", "reset", "passed"} {
				if !strings.Contains(got, fate) {
					t.Fatalf("no frame is %s, want a seed that does everything:\n%s", fate, got)
				}
			}
		}
		if got != want {
			t.Fatalf("run %d differs: it has\n%s\nwhere the first has\n%s", i, without(got, want), without(want, got))
		}
	}
	chunks := func(i int) func() int { // from single bytes to everything at once
		return func() int { return 1 << (i % 11) }
	}
	const seed = 3
	t.Run("in a bubble", func(t *testing.T) {
		for i := range runs {
			synctest.Test(t, func(t *testing.T) { check(t, i, chaoticRun(t, dial, seed, chunks(i))) })
		}
	})
	for name, dial := range map[string]func(testing.TB, *Proxy, string) *peer{"in memory": dial, "on loopback": dialURL} {
		t.Run(name, func(t *testing.T) {
			got := make([]string, runs)
			var each sync.WaitGroup
			turns := make(chan struct{}, 10) // with more, a busy machine exceeds the harness's real timeouts
			for i := range runs {
				turns <- struct{}{}
				each.Go(func() {
					defer func() { <-turns }()
					t.Run("", func(t *testing.T) { got[i] = chaoticRun(t, dial, seed, chunks(i)) })
				})
			}
			each.Wait()
			for i := range runs {
				check(t, i, got[i])
			}
		})
	}
}

func TestDifferentSeedsTargetsTunnelsAndSidesDiffer(t *testing.T) {
	fates := func(seed uint64, target string) (text string) {
		synctest.Test(t, func(t *testing.T) {
			p := New(t, serve(echo), Chaos(seed, Mix{Drop: 0.5}))
			for range 2 {
				c := dial(t, p, target)
				go io.Copy(io.Discard, c.br)
				for range 30 {
					c.text(t, "x")
				}
				synctest.Wait()
				p.Tunnel(1).Cut()
			}
			for _, r := range p.Transcript() {
				if r.Fate == Ended {
					continue
				}
				text += fmt.Sprint(r.Tunnel.N, r.Frame.From, r.Frame.Index, r.Fate, "\n")
			}
		})
		return text
	}
	a := fates(1, "/a")
	if b := fates(1, "/a"); b != a {
		t.Errorf("the same seed differs:\n%s\n%s", a, b)
	}
	if b := fates(2, "/a"); b == a {
		t.Error("another seed is the same")
	}
	if b := fates(1, "/a?x"); b == a {
		t.Error("another query is the same")
	}
	first, second, _ := strings.Cut(a, "2client")
	if strings.ReplaceAll(second, "2server", "1server") == strings.TrimPrefix(first, "1client") {
		t.Error("the second tunnel is the same")
	}
}

func TestChaosDoesWhatTheMixSays(t *testing.T) {
	const n = 4000
	for name, test := range map[string]struct {
		mix  Mix
		fate Fate
		p    float64
	}{
		"nothing":   {Mix{}, Passed, 1},
		"drop":      {Mix{Drop: 0.25}, Dropped, 0.25},
		"duplicate": {Mix{Duplicate: 0.1}, Injected, 0.1},
		"delay":     {Mix{Delay: 1}, Passed, 1},
		"all drop":  {Mix{Drop: 1}, Dropped, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server, ends := served()
				p := New(t, server, Chaos(7, test.mix))
				c := dial(t, p, "/")
				s := <-ends
				go io.Copy(io.Discard, s.br)
				for range n {
					c.text(t, "x")
				}
				time.Sleep(2 * time.Hour)
				got := 0
				for _, r := range p.Transcript() {
					if r.Fate == test.fate {
						got++
					}
				}
				if want := test.p * n; math.Abs(float64(got)-want) > 4*math.Sqrt(n)/2 {
					t.Errorf("%d of %d frames are %v, want about %v", got, n, test.fate, want)
				}
			})
		})
	}
}

func TestAStallLastsAsLongAsTheMixSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, ends := served()
		p := New(t, server, Chaos(7, Mix{Stall: 1, StallFor: 3 * time.Minute}))
		c := dial(t, p, "/")
		s := <-ends
		start := time.Now()
		c.text(t, "x")
		s.want(t, frame.OpText, "x")
		if got := time.Since(start); got != 3*time.Minute {
			t.Errorf("%v, want 3m", got)
		}
	})
}

func TestAWrongMixPanics(t *testing.T) {
	for _, m := range []Mix{{Drop: -0.1}, {Drop: 0.6, Cut: 0.6}, {Reset: 1.1}, {Delay: math.NaN()}, {StallFor: -1}, {MaxDelay: -1}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%+v does not panic", m)
				}
			}()
			Chaos(1, m)
		}()
	}
}

var _ http.Handler = (*Proxy)(nil)
