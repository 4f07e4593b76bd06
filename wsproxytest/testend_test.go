package wsproxytest_test

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy/internal/frame"
	. "example.com/wsproxy/wsproxytest"
)

// If a test fails, the harness must not hang, and must say why.
func TestAHandlerThatNeverReturnsIsReportedWithItsStack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var tb fakeTB
		start := time.Now()
		log := tb.run(func(t testing.TB) {
			p := New(t, serve(echo), func(w *Wire, f Frame) { blockFor(release) })
			dial(t, p, "/stuck").text(t, "x")
			synctest.Wait()
		})
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("the test's end took %v, want 5s", took)
		}
		tb.wantLog(t, log, "/stuck 1: the Handler for the client's frames has not returned 5s after the end of the test", "blockFor")
		close(release)
	})
}

func blockFor(ch chan struct{}) { <-ch }

func TestATunnelThatNeverComesFailsTheTest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tb fakeTB
		start := time.Now()
		log := tb.run(func(t testing.TB) {
			refuse := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/no" {
					http.Error(w, "no", http.StatusForbidden)
					return
				}
				serve(echo).ServeHTTP(w, r)
			})
			p := New(t, refuse, nil)
			c := dial(t, p, "/yes")
			c.text(t, "hello")
			c.want(t, frame.OpText, "hello")
			conn, _ := p.Dial(context.Background(), "", "")
			connect(conn, "/no")
			conn.Close()
			p.Refuse(1, 503)
			conn, _ = p.Dial(context.Background(), "", "")
			connect(conn, "/yes")
			conn.Close()
			p.Tunnel(2)
			t.Errorf("Tunnel returns")
		})
		if took := time.Since(start); took != 10*time.Second {
			t.Errorf("Tunnel waits %v, want 10s", took)
		}
		tb.wantLog(t, log, "no tunnel 2 within 10s: 1 opened, 2 handshakes failed: 403 503; the transcript so far",
			`/yes 1 client text 1 "hello" passed`)
	})
}

func TestMistakesFailTheTest(t *testing.T) {
	for want, test := range map[string]func(t testing.TB){
		"New without a server":                                      func(t testing.TB) { New(t, nil, nil) },
		`target "nowhere" has no scheme`:                            func(t testing.TB) { NewURL(t, "nowhere", nil) },
		"Tunnel(0), want a number from 1":                           func(t testing.TB) { New(t, serve(echo), nil).Tunnel(0) },
		"Refuse with status 101, want 0 for a reset, or 200 to 599": func(t testing.TB) { New(t, serve(echo), nil).Refuse(1, 101) },
		"WSPROXYTEST_SEED=\"x\", want a number": func(tb testing.TB) {
			t.Setenv("WSPROXYTEST_SEED", "x")
			Seed(tb)
		},
	} {
		var tb fakeTB
		log := tb.run(test)
		tb.wantLog(t, log, want)
	}
}

func TestATestThatFailedLogsItsTranscriptAndSeeds(t *testing.T) {
	t.Setenv("WSPROXYTEST_SEED", "12345678901234567890")
	run := func(fail bool) (*fakeTB, string) {
		var tb fakeTB
		return &tb, tb.run(func(t testing.TB) {
			seed := Seed(t)
			p := New(t, serve(echo), Chain(Chaos(seed, Mix{}), Latency(0, 0, 7)))
			c := dial(t, p, "/")
			c.text(t, "hello")
			c.want(t, frame.OpText, "hello")
			if fail {
				t.Errorf("the test's own failure")
			}
		})
	}
	tb, log := run(true)
	tb.wantLog(t, log, "WSPROXYTEST_SEED=12345678901234567890 runs this test with the same seed",
		"Chaos has seed 12345678901234567890, Latency has seed 7", `server text 1 "hello" passed`)
	if tb, log := run(false); tb.Failed() || log != "" {
		t.Errorf("a test that passes logs %q", log)
	}
}

func TestAPanicInAHandlerFailsTheTestAndCutsTheTunnel(t *testing.T) {
	var tb fakeTB
	log := tb.run(func(t testing.TB) {
		p := New(t, serve(echo), func(w *Wire, f Frame) { panic("boom in the Handler") })
		c := dial(t, p, "/")
		c.text(t, "x")
		c.wantEnd(t, "", isEOF)
	})
	tb.wantLog(t, log, "the Handler panics: boom in the Handler", "testend_test.go")
}

func TestFailNowInAHandlerCutsTheTunnel(t *testing.T) {
	var tb fakeTB
	tb.run(func(t testing.TB) {
		p := New(t, serve(echo), func(w *Wire, f Frame) { t.FailNow() })
		c := dial(t, p, "/")
		c.text(t, "x")
		c.wantEnd(t, "", isEOF)
	})
	if !tb.Failed() {
		t.Error("the test passes")
	}
}

// The logs of a server and of the proxy help with a test that fails.
func TestTheServersPanicIsInTheTestsLog(t *testing.T) {
	var tb fakeTB
	log := tb.run(func(t testing.TB) {
		p := New(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("boom in the server") }), nil)
		res, err := p.Client().Get("http://any.test/")
		if err == nil {
			res.Body.Close()
		}
		t.Errorf("failed")
	})
	tb.wantLog(t, log, "boom in the server")
}

// A test may end at any moment: during a stall, a blocked write or a handshake, or
// with open tunnels.
func TestATestMayEndAtAnyMoment(t *testing.T) {
	for name, test := range map[string]func(t *testing.T){
		"with open tunnels": func(t *testing.T) {
			p := New(t, serve(echo), nil)
			for range 5 {
				dial(t, p, "/").text(t, "x")
			}
		},
		"with a Handler that sleeps": func(t *testing.T) {
			p := New(t, serve(echo), func(w *Wire, f Frame) { w.Sleep(1000 * time.Hour) })
			dial(t, p, "/").text(t, "x")
			synctest.Wait()
		},
		"with a Handler that waits for Done": func(t *testing.T) {
			p := New(t, serve(echo), func(w *Wire, f Frame) { <-w.Tunnel().Done() })
			dial(t, p, "/").text(t, "x")
			synctest.Wait()
		},
		"with an end that does not read": func(t *testing.T) {
			p := New(t, serve(echo), nil)
			c := dial(t, p, "/")
			go c.write(true, frame.OpBinary, strings.Repeat("x", 1<<20))
			synctest.Wait()
			go p.Tunnel(1).To(Server).Send(Text("behind it"))
			synctest.Wait()
			c.Close()
		},
		"with a handshake under way": func(t *testing.T) {
			never := make(chan struct{})
			p := New(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-never }), nil)
			conn, err := p.Dial(context.Background(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			go connect(conn, "/")
			synctest.Wait()
			time.AfterFunc(time.Second, func() { close(never) })
		},
		"with a server that never switches nor closes": func(t *testing.T) {
			q := New(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				http.NewResponseController(w).Hijack()
			}), nil)
			conn, err := q.Dial(context.Background(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			go connect(conn, "/")
			synctest.Wait()
		},
		"without anything": func(t *testing.T) { New(t, serve(echo), nil) },
		"with an idle connection": func(t *testing.T) {
			p := New(t, http.NotFoundHandler(), nil)
			res, err := p.Client().Get("http://any.test/")
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if _, err := p.Dial(context.Background(), "", ""); err != nil {
				t.Fatal(err)
			}
		},
		// synctest panicked: the harness waited 5 seconds for the server.
		"with a server that sleeps between its pings": func(t *testing.T) {
			p := New(t, serve(func(s *peer) {
				defer s.Close()
				for s.write(true, frame.OpPing, "") == nil {
					time.Sleep(30 * time.Second)
				}
			}), nil)
			dial(t, p, "/").want(t, frame.OpPing, "")
		},
		"with sends from other goroutines": func(t *testing.T) {
			p := New(t, serve(echo), func(w *Wire, f Frame) {
				go w.Send(f)
				time.AfterFunc(time.Hour, func() { w.Send(f) })
			})
			c := dial(t, p, "/")
			go io.Copy(io.Discard, c.br)
			for range 10 {
				c.text(t, "x")
			}
		},
	} {
		t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
	}
}

// The methods of a Proxy must not hang or panic after its test has ended.
func TestAProxyCanBeUsedAfterItsTest(t *testing.T) {
	var p *Proxy
	var tunnel *Tunnel
	var wire *Wire
	var tb fakeTB
	log := tb.run(func(t testing.TB) {
		p = New(t, serve(echo), func(w *Wire, f Frame) {
			wire = w
			w.Send(f)
		})
		c := dial(t, p, "/")
		c.text(t, "x")
		c.want(t, frame.OpText, "x")
		tunnel = p.Tunnel(1)
	})
	if tb.Failed() {
		t.Fatal(log)
	}
	<-tunnel.Done()
	wire.Send(Text("late"))
	wire.SendPart(Text("late"), 1)
	wire.Sleep(time.Hour)
	if _, err := wire.Write([]byte("late")); err == nil {
		t.Error("a write after the end succeeds")
	}
	tunnel.Cut()
	tunnel.Reset()
	tunnel.CloseWrite(Client)
	if _, err := p.Dial(context.Background(), "", ""); err == nil {
		t.Error("Dial after the end succeeds")
	}
	if len(p.Transcript()) != 2 {
		t.Errorf("transcript:\n%s", p.Transcript())
	}
}
