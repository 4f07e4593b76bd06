package testkit

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"example.com/wsproxy"
)

// An End is an end of a tunnel that speaks frames. The client's own frames are
// masked, and the upstream wants masked ones.
type End struct {
	*Peer
	Client bool
}

// Ends returns both ends of a tunnel as Ends.
func Ends(client, server *Peer) (End, End) {
	return End{client, true}, End{server, false}
}

// Name returns "client" or "upstream".
func (e End) Name() string {
	if e.Client {
		return "client"
	}
	return "upstream"
}

// Frame returns a frame from e as its bytes on the wire.
func (e End) Frame(first byte, payload string) string {
	return Frame{first, e.Client, payload}.String()
}

// SendFrame sends a frame.
func (e End) SendFrame(t testing.TB, first byte, payload string) {
	t.Helper()
	e.Send(t, e.Frame(first, payload))
}

// ExpectFrame reads the next frame, which must be the one given.
func (e End) ExpectFrame(t testing.TB, first byte, payload string) {
	t.Helper()
	f, err := ReadFrame(e)
	if err != nil {
		t.Fatalf("the %s waits for frame %#x %q: %v", e.Name(), first, payload, err)
	}
	if want := (Frame{first, !e.Client, payload}); f != want {
		t.Fatalf("the %s gets %#v, want %#v", e.Name(), f, want)
	}
}

// ExpectClose reads the next frame, which must be a Close frame with the code,
// and returns its reason.
func (e End) ExpectClose(t testing.TB, code int) (reason string) {
	t.Helper()
	f, err := ReadFrame(e)
	if err != nil {
		t.Fatalf("the %s waits for Close %d: %v", e.Name(), code, err)
	}
	if f.First != Close || f.Masked == e.Client || len(f.Payload) < 2 ||
		int(binary.BigEndian.Uint16([]byte(f.Payload))) != code {
		t.Fatalf("the %s gets %#v, want Close %d", e.Name(), f, code)
	}
	return f.Payload[2:]
}

// ExpectNothing checks that nothing arrives in d, in a synctest bubble.
func (e End) ExpectNothing(t testing.TB, d time.Duration) {
	t.Helper()
	e.SetReadDeadline(time.Now().Add(d))
	if got, err := e.Reader.Peek(1); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("the %s gets %q, %v, want nothing", e.Name(), got, err)
	}
	e.SetReadDeadline(time.Time{})
}

// AnswerPings replies to each Ping and Close frame until the connection ends,
// as a browser does without help from the page. It returns a channel that
// receives the number of Pings.
func (e End) AnswerPings() <-chan int {
	n := make(chan int, 1)
	go func() {
		count := 0
		defer func() { n <- count }()
		for {
			f, err := ReadFrame(e)
			if err != nil {
				return
			}
			answer := ""
			switch f.First {
			case Ping:
				count++
				answer = e.Frame(Pong, f.Payload)
			case Close:
				answer = e.Frame(Close, f.Payload)
			}
			if _, err := io.WriteString(e, answer); err != nil {
				return
			}
		}
	}()
	return n
}

// AnswerClose makes each end read the proxy's Close frame, which must have the
// code and a reason, and reply with the same code.
func AnswerClose(t testing.TB, code int, ends ...End) {
	t.Helper()
	for _, end := range ends {
		if end.ExpectClose(t, code) == "" {
			t.Errorf("the %s gets no reason", end.Name())
		}
		end.SendFrame(t, Close, ClosePayload(code, ""))
	}
}

// Sent returns the counts of the flow that e sent.
func (e End) Sent(ending wsproxy.Ending) wsproxy.FlowStats {
	if e.Client {
		return ending.FromClient
	}
	return ending.FromUpstream
}

// ClosedWith returns the Close frame of ending that e sent.
func (e End) ClosedWith(ending wsproxy.Ending) wsproxy.CloseFrame {
	if e.Client {
		return ending.ClientClose
	}
	return ending.UpstreamClose
}

// Closed returns the reason of a tunnel that e ends.
func (e End) Closed() wsproxy.Reason {
	if e.Client {
		return wsproxy.ReasonClientClosed
	}
	return wsproxy.ReasonUpstreamClosed
}

// EachSide runs a test with each side of a tunnel as the one that acts first.
func EachSide(t *testing.T, test func(t *testing.T, first wsproxy.Reason)) {
	for _, first := range []wsproxy.Reason{wsproxy.ReasonClientClosed, wsproxy.ReasonUpstreamClosed} {
		t.Run(first.String(), func(t *testing.T) { test(t, first) })
	}
}

// InOrder returns the side that acts first, and the other one.
func InOrder(first wsproxy.Reason, client, server *Peer) (*Peer, *Peer) {
	if first == wsproxy.ReasonClientClosed {
		return client, server
	}
	return server, client
}
