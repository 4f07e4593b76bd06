package wsproxytest_test

import (
	"errors"
	"io"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"example.com/wsproxy/internal/frame"
	. "example.com/wsproxy/wsproxytest"
)

// everyWay runs a test with a client in memory in a synctest bubble, in memory,
// and on loopback.
func everyWay(t *testing.T, test func(t *testing.T, dial func(testing.TB, *Proxy, string) *peer)) {
	t.Run("in a bubble", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { test(t, dial) })
	})
	t.Run("in memory", func(t *testing.T) { test(t, dial) })
	t.Run("on loopback", func(t *testing.T) { test(t, dialURL) })
}

func isEOF(err error) bool   { return err == io.EOF }
func isReset(err error) bool { return errors.Is(err, syscall.ECONNRESET) }

func TestFramesPassThroughANilHandlerUnchanged(t *testing.T) {
	everyWay(t, func(t *testing.T, dial func(testing.TB, *Proxy, string) *peer) {
		server, ends := served()
		p := New(t, server, nil)
		c := dial(t, p, "/chat?room=1")
		s := <-ends
		c.text(t, "hello")
		s.want(t, frame.OpText, "hello")
		s.text(t, "welcome")
		c.want(t, frame.OpText, "welcome")
		c.write(false, frame.OpBinary, "frag")
		c.write(true, frame.OpPing, "p")
		c.write(true, frame.OpContinuation, "ment")
		for _, want := range []string{"frag", "p", "ment"} {
			if h, got, err := s.read(); got != want || err != nil || h.Key != [4]byte{1, 2, 3, 4} {
				t.Fatalf("%+v %q %v, want %q with its key", h, got, err, want)
			}
		}
		c.closeWrite()
		s.wantEnd(t, "", isEOF)
		s.text(t, "last words")
		s.Close()
		c.want(t, frame.OpText, "last words")
		c.wantEnd(t, "", isEOF)
		<-p.Tunnel(1).Done()
		want := `/chat?room=1 1 client text 1 "hello" passed
/chat?room=1 1 client binary 2 part 1 "frag" passed
/chat?room=1 1 client ping 1 "p" passed
/chat?room=1 1 client binary 2 part 2 "ment" passed
/chat?room=1 1 server text 1 "welcome" passed
/chat?room=1 1 server text 2 "last words" passed
`
		if got := p.Transcript().String(); got != want {
			t.Errorf("transcript\n%swant\n%s", got, want)
		}
	})
}

// Each fault that the package doc lists, applied to the second of the server's
// three messages, as the client and the transcript show it.
func TestAHandlerMakesEveryFault(t *testing.T) {
	const one, two, three = "\x81\x03one", "\x81\x03two", "\x81\x05three"
	for _, test := range []struct {
		name       string
		second     func(w *Wire, f Frame)
		client     string // what it reads
		end        func(error) bool
		transcript string // after the first message
	}{
		{"drop", func(w *Wire, f Frame) {}, one + three, isEOF, `server text 2 "two" dropped|server text 3 "three" passed`},
		{"change", func(w *Wire, f Frame) {
			f.Payload = []byte("2")
			w.Send(f)
		}, one + "\x81\x012" + three, isEOF, `server text 2 "two" changed to text 2 "2"|server text 3 "three" passed`},
		{"change in place", func(w *Wire, f Frame) {
			f.Payload[0] = 'T'
			w.Send(f)
		}, one + "\x81\x03Two" + three, isEOF, `server text 2 "two" changed to text 2 "Two"|server text 3 "three" passed`},
		{"duplicate", func(w *Wire, f Frame) {
			w.Send(f)
			w.Send(f)
		}, one + two + two + three, isEOF, `server text 2 "two" passed|server text 2 "two" injected|server text 3 "three" passed`},
		{"inject", func(w *Wire, f Frame) {
			w.Send(Ping([]byte("?")))
			w.Send(f)
			w.Send(Close(1013, "later"))
		}, one + "\x89\x01?" + two + "\x88\x07\x03\xf5later" + three, isEOF,
			`server ping "?" injected|server text 2 "two" passed|server close 1013 "later" injected|server text 3 "three" passed`},
		{"fragment", func(w *Wire, f Frame) {
			w.Send(Frame{Opcode: OpText, Payload: f.Payload[:1]})
			w.Send(Frame{Opcode: OpContinuation, Fin: true, Payload: f.Payload[1:]})
		}, one + "\x01\x01t\x80\x02wo" + three, isEOF,
			`server text unfinished "t" injected|server continuation "wo" injected|server text 2 "two" dropped|server text 3 "three" passed`},
		{"partial, and then silence", func(w *Wire, f Frame) {
			w.SendPart(f, 3)
			w.Tunnel().CloseWrite(Client)
		}, one + "\x81\x03t", isEOF, `server text 2 "two" partial 3 of 5 bytes|end of stream to client|server text 3 "three" dropped`},
		{"half-close", func(w *Wire, f Frame) {
			w.Tunnel().CloseWrite(Client)
			w.Send(f)
		}, one, isEOF, `end of stream to client|server text 2 "two" dropped|server text 3 "three" dropped`},
		{"end of stream", func(w *Wire, f Frame) {
			w.SendPart(f, 0)
			w.Tunnel().Cut()
			w.Send(f)
		}, one, isEOF, `server text 2 "two" partial 0 of 5 bytes|cut`},
		{"reset", func(w *Wire, f Frame) {
			w.Tunnel().Reset()
		}, one, isReset, `server text 2 "two" dropped|reset`},
		{"reset in the middle of a frame", func(w *Wire, f Frame) {
			w.SendPart(f, 4)
			w.Tunnel().Reset()
		}, one + "\x81\x03tw", isReset, `server text 2 "two" partial 4 of 5 bytes|reset`},
		{"not a frame", func(w *Wire, f Frame) {
			if n, err := w.Write([]byte("\xff\xff")); n != 2 || err != nil {
				panic(err)
			}
		}, one + "\xff\xff" + three, isEOF, `server raw wrote 2 bytes "\xff\xff"|server text 2 "two" dropped|server text 3 "three" passed`},
		{"a Close frame that is not legal", func(w *Wire, f Frame) {
			w.Send(Close(1006, ""))
			w.Send(Close(0, "ignored"))
			w.Send(Close(65535, "x"))
		}, one + "\x88\x02\x03\xee\x88\x00\x88\x03\xff\xffx" + three, isEOF,
			`server close 1006 "" injected|server close 1005 "" injected|server close 65535 "x" injected|server text 2 "two" dropped|server text 3 "three" passed`},
	} {
		t.Run(test.name, func(t *testing.T) {
			everyWay(t, func(t *testing.T, dial func(testing.TB, *Proxy, string) *peer) {
				server := serve(func(s *peer) {
					for _, message := range []string{"one", "two", "three"} {
						s.write(true, frame.OpText, message)
					}
					s.closeWrite()
					io.Copy(io.Discard, s.br)
					s.Close()
				})
				p := New(t, server, func(w *Wire, f Frame) {
					if f.From == Server && f.Index == 2 {
						test.second(w, f)
					} else {
						w.Send(f)
					}
				})
				c := dial(t, p, "/")
				c.wantEnd(t, test.client, test.end)
				c.Close()
				<-p.Tunnel(1).Done()
				want := "/ 1 server text 1 \"one\" passed\n/ 1 " + strings.ReplaceAll(test.transcript, "|", "\n/ 1 ") + "\n"
				if got := p.Transcript().String(); got != want {
					t.Errorf("transcript\n%swant\n%s", got, want)
				}
			})
		})
	}
}

// Every frame to the server is masked, whatever the Handler sends.
func TestFramesToTheServerAreMasked(t *testing.T) {
	server, ends := served()
	p := New(t, server, func(w *Wire, f Frame) {
		if f.From == Client {
			f.Payload = append(f.Payload, '!')
			w.Send(f)
			w.Send(Text("another"))
			f.From = Server
			w.Send(f)
		} else { // back to where it came from
			w.Tunnel().To(Server).Send(f)
		}
	})
	c := dial(t, p, "/")
	s := <-ends
	c.text(t, "hello")
	s.want(t, frame.OpText, "hello!")
	s.want(t, frame.OpText, "another")
	s.want(t, frame.OpText, "hello!")
	s.text(t, "boomerang")
	s.want(t, frame.OpText, "boomerang")
	p.Tunnel(1).To(Server).Send(Binary([]byte("the test's own")))
	s.want(t, frame.OpBinary, "the test's own")
	p.Tunnel(1).To(Client).Send(Pong([]byte("unasked")))
	c.want(t, frame.OpPong, "unasked")
}

// A proxy that drops pieces of a TCP stream breaks the framing (toxiproxy's packet
// loss). Here malformed frames come only from an end, and are forwarded.
func TestWhatIsNoFramePassesUnseen(t *testing.T) {
	for name, test := range map[string]struct{ wire, note string }{
		"a reserved opcode":         {"\x83\x01x", "malformed frame; unseen from here"},
		"text instead of frames":    {"HTTP/1.1 200 OK\r\n\r\n", "malformed frame; unseen from here"},
		"the wrong masking":         {"\x81\x81\x00\x00\x00\x00x", "malformed frame; unseen from here"},
		"a continuation alone":      {"\x80\x01x", "malformed frame; unseen from here"},
		"a long Ping":               {"\x89\x7e\x00\x7e" + strings.Repeat("x", 126), "malformed frame; unseen from here"},
		"a length with the top bit": {"\x82\x7f\xff\x00\x00\x00\x00\x00\x00\x01abc", "malformed frame; unseen from here"},
		"more than MaxFrame":        {"\x82\x7f\x00\x00\x00\x00\x04\x00\x00\x01abc", "malformed frame; unseen from here"},
		"half a header":             {"\x82", "1 bytes of a frame that ends there"},
		"half a payload":            {"\x82\x05abc", "5 bytes of a frame that ends there"},
		"half a long payload": {"\x82\x7f\x00\x00\x00\x00\x00\x10\x00\x00" + strings.Repeat("x", 100_000),
			"100010 bytes of a frame that ends there"},
	} {
		t.Run(name, func(t *testing.T) {
			everyWay(t, func(t *testing.T, dial func(testing.TB, *Proxy, string) *peer) {
				server := serve(func(s *peer) {
					s.write(true, frame.OpText, "ok")
					for i := range len(test.wire) { // whatever the pieces
						if i > 20 {
							io.WriteString(s, test.wire[i:])
							break
						}
						io.WriteString(s, test.wire[i:i+1])
					}
					s.Close()
				})
				p := New(t, server, nil)
				c := dial(t, p, "/")
				c.wantEnd(t, "\x81\x02ok"+test.wire, isEOF)
				c.Close()
				<-p.Tunnel(1).Done()
				if got, want := p.Transcript().String(), "/ 1 server text 1 \"ok\" passed\n/ 1 server raw "+test.note+"\n"; got != want {
					t.Errorf("transcript\n%swant\n%s", got, want)
				}
			})
		})
	}
}

// golang/go#35892 and caddyserver/caddy#8026: proxies lost data at half-closes and
// resets. The harness must not.
func TestAnEndThatClosesOrResetsIsSeenByTheOther(t *testing.T) {
	everyWay(t, func(t *testing.T, dial func(testing.TB, *Proxy, string) *peer) {
		server, ends := served()
		p := New(t, server, nil)
		c := dial(t, p, "/")
		s := <-ends
		c.text(t, "before")
		c.Conn.(interface{ SetLinger(int) error }).SetLinger(0)
		s.want(t, frame.OpText, "before")
		c.Close()
		s.wantEnd(t, "", isReset)
		<-p.Tunnel(1).Done()

		c = dial(t, p, "/")
		s = <-ends
		s.text(t, "before")
		c.want(t, frame.OpText, "before")
		s.Conn.(interface{ SetLinger(int) error }).SetLinger(0)
		s.Close()
		c.wantEnd(t, "", isReset)
		<-p.Tunnel(2).Done()
	})
}

func TestAFrameDescribesItself(t *testing.T) {
	for want, f := range map[string]Frame{
		`text "hello"`:        Text("hello"),
		`binary "\x00"`:       Binary([]byte{0}),
		`ping "p"`:            Ping([]byte("p")),
		`pong ""`:             Pong(nil),
		`close 1013 "later"`:  Close(1013, "later"),
		`close 1005 ""`:       Close(0, "no reason without a code"),
		`close "\x03"`:        {Opcode: OpClose, Fin: true, Payload: []byte{3}},
		`text unfinished "a"`: {Opcode: OpText, Payload: []byte("a")},
		`opcode 11 ""`:        {Opcode: 11, Fin: true},
		`binary "` + strings.Repeat("x", 64) + `"… 65 bytes db71f8ea`: Binary([]byte(strings.Repeat("x", 65))),
	} {
		if got := f.String(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		if f.Control() != (f.Opcode >= 8) || (f.CloseCode() != 0) != (f.Opcode == OpClose) {
			t.Errorf("%s: control %v, code %d", f, f.Control(), f.CloseCode())
		}
	}
	if Client.String() != "client" || Server.String() != "server" || Injected.String() != "injected" || Fate(99).String() != "fate 99" {
		t.Error("names")
	}
}

// A frame may go to another tunnel, which has not received it.
func TestAFrameOfOneTunnelIsInjectedInAnother(t *testing.T) {
	server, ends := served()
	var p *Proxy
	p = New(t, server, func(w *Wire, f Frame) {
		w.Send(f)
		if w.Tunnel().N == 1 {
			p.Tunnel(2).To(Server).Send(f)
		}
	})
	a := dial(t, p, "/a")
	<-ends
	dial(t, p, "/b")
	b := <-ends
	a.text(t, "for both")
	b.want(t, frame.OpText, "for both")
	const want = `/a 1 client text 1 "for both" passed
/b 1 client text "for both" injected
`
	if got := p.Transcript().String(); got != want {
		t.Errorf("transcript\n%swant\n%s", got, want)
	}
}
