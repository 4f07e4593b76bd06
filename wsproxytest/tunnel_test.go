package wsproxytest_test

import (
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy/internal/frame"
	. "example.com/wsproxy/wsproxytest"
)

// FormValue parses the form at its first call. The Handlers of both directions
// raced for that.
func TestHandlersOfBothDirectionsReadTheRequestsForm(t *testing.T) {
	for range 20 {
		server, ends := served()
		p := New(t, server, func(w *Wire, f Frame) {
			if w.Tunnel().Request.FormValue("user") == "1" {
				w.Send(f)
			}
		})
		c := dial(t, p, "/?user=1")
		s := within(t, ends, "server")
		go c.write(true, frame.OpText, "a")
		go s.write(true, frame.OpText, "b")
		c.want(t, frame.OpText, "b")
		s.want(t, frame.OpText, "a")
	}
}

// Without a harness the client's machine answers what comes for a closed
// connection with a reset. Such a server wrote until the end of the test.
func TestAnEndThatOnlyWritesFindsOutThatTheOtherIsGone(t *testing.T) {
	for name, order := range map[string]func(c, s *peer) (gone, writer *peer){
		"client": func(c, s *peer) (*peer, *peer) { return c, s },
		"server": func(c, s *peer) (*peer, *peer) { return s, c },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				server, ends := served()
				p := New(t, server, Latency(5*time.Second, 0, 1))
				c := dial(t, p, "/")
				gone, writer := order(c, <-ends)
				gone.write(true, frame.OpText, "last words")
				gone.Close()
				start := time.Now()
				for writer.write(true, frame.OpText, "x") == nil {
					if time.Sleep(100 * time.Millisecond); time.Since(start) > time.Minute {
						t.Fatal("the other end writes for a minute")
					}
				}
				if got := time.Since(start); got < 6*time.Second || got > 6200*time.Millisecond {
					t.Errorf("the other end writes for %v, want the latency and a second", got)
				}
				writer.want(t, frame.OpText, "last words")
				writer.Close()
				<-p.Tunnel(1).Done()
			})
		})
	}
}

// The two read the same: `text 1 "x" changed to text 1 "x"`.
func TestATranscriptTellsThatOnlyTheEndOfAMessageChanged(t *testing.T) {
	server, ends := served()
	p := New(t, server, func(w *Wire, f Frame) {
		f.Fin = !f.Fin
		w.Send(f)
	})
	c := dial(t, p, "/")
	s := within(t, ends, "server")
	c.write(true, frame.OpText, "x")
	c.write(false, frame.OpText, "y")
	s.want(t, frame.OpText, "x")
	s.want(t, frame.OpText, "y")
	if got, want := p.Transcript().String(), `/ 1 client text 1 "x" changed to text 1 unfinished "x"
/ 1 client text 2 part 1 "y" changed to text 2 part 1 finished "y"
`; got != want {
		t.Errorf("transcript\n%swant\n%s", got, want)
	}
}

// The second one was a text frame, in the middle of a message.
func TestAFragmentThatIsSentBackStaysOne(t *testing.T) {
	p := New(t, serve(echo), func(w *Wire, f Frame) { w.Tunnel().To(f.From).Send(f) })
	c := dial(t, p, "/")
	c.write(false, frame.OpText, "a")
	c.write(true, frame.OpContinuation, "b")
	c.want(t, frame.OpText, "a")
	c.want(t, frame.OpContinuation, "b")
}
