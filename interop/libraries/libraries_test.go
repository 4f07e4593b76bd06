// Package libraries_test makes the WebSocket libraries for Go talk to each
// other through wsproxy, each as client and as server.
package libraries_test

import (
	"crypto/tls"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// libraries are tested each with each. gws_test.go has one more.
var libraries = []library{coder{}, gorilla{}, gobwas{}}

// A library is an implementation of WebSocket.
type library interface {
	String() string
	dial(url string, trust *tls.Config, o options, in *inbox) (conn, error)
	accept(w http.ResponseWriter, r *http.Request, o options, in *inbox) (conn, error)

	// sends reports whether the library can send a Close frame with code, or
	// without a code for noCode.
	sends(code int) bool

	// refusal returns how the library's error names a received code for which
	// it fails the connection. It is "" for an accepted code.
	refusal(code int) string

	// hangsUp reports whether the library closes its connection right after its
	// Close frame, without waiting for a reply.
	hangsUp() bool

	// pingsWithin reports whether the library can send a Ping between the
	// fragments of a message.
	pingsWithin() bool
}

// options are what an end of a connection offers or accepts.
type options struct {
	subprotocols []string
	deflate      bool
}

// A conn is one end of a WebSocket in a library's hands. Only read may be
// called at the same time as others.
type conn interface {
	subprotocol() string
	extensions() string // from the server's response; only at a client's end

	send(m message) error

	// sendInPieces sends the pieces as fragments of one message, and calls
	// between before each but the first.
	sendInPieces(text bool, pieces [][]byte, between func()) error

	// ping sends a Ping and waits for the Pong.
	ping() error

	close(code int, reason string) error

	// read puts into the inbox what arrives until the connection ends, and then
	// closes the connection. It replies as the library does.
	read()

	// cut closes the connection without a Close frame.
	cut()
}

type message struct {
	text    bool
	payload []byte
}

// noCode means a Close frame without a code.
const noCode = 0

// A closing is the Close frame that an end received, or the error if it
// received no valid one.
type closing struct {
	code   int // 1005 for a frame without one
	reason string
	err    error
}

// An inbox collects what an end receives.
type inbox struct {
	messages chan message
	pings    chan string
	pongs    chan string
	closed   chan closing

	left chan struct{} // closed when reading has ended
}

func newInbox() *inbox {
	return &inbox{
		messages: make(chan message),
		pings:    make(chan string, 100),
		pongs:    make(chan string, 100),
		closed:   make(chan closing, 1),
		left:     make(chan struct{}),
	}
}

func (in *inbox) message(m message) {
	select {
	case in.messages <- m:
	case <-in.left:
	}
}

func (in *inbox) pinged(payload []byte) { offer(in.pings, string(payload)) }
func (in *inbox) ponged(payload []byte) { offer(in.pongs, string(payload)) }

// offer drops a value that no reader waits for.
func offer(to chan string, what string) {
	select {
	case to <- what:
	default:
	}
}

// awaitPong waits for the Pong.
func (in *inbox) awaitPong(payload string) error {
	late := time.After(testkit.Patience)
	for {
		select {
		case got := <-in.pongs:
			if got == payload {
				return nil
			}
		case <-late:
			return errors.New("no Pong came")
		}
	}
}

// An end is a conn that is read until the test ends.
type end struct {
	conn
	library
	*inbox
	offered string // extensions; only at a server's end
	done    chan struct{}
	once    sync.Once
}

func newEnd(l library) *end {
	return &end{library: l, inbox: newInbox(), done: make(chan struct{})}
}

func (e *end) run() {
	defer close(e.done)
	e.read()
}

// leave closes the connection and waits until reading has ended.
func (e *end) leave() {
	e.once.Do(func() { close(e.left) })
	e.cut()
	<-e.done
}

// receive returns the next message.
func (e *end) receive(t testing.TB) message {
	t.Helper()
	select {
	case m := <-e.messages:
		return m
	case c := <-e.closed:
		require.Fail(t, "the connection ended before a message came", "%+v", c)
	case <-time.After(3 * testkit.Patience): // it may have megabytes
		require.Fail(t, "no message came")
	}
	return message{}
}

// ended returns the closing.
func (e *end) ended(t testing.TB) closing {
	t.Helper()
	select {
	case c := <-e.closed:
		return c
	case <-time.After(testkit.Patience):
		require.Fail(t, "the connection did not end")
		return closing{}
	}
}

// pingedBy waits for n Pings with a payload.
func (e *end) pingedBy(t testing.TB, payload string, n int) {
	t.Helper()
	for late := time.After(testkit.Patience); n > 0; {
		select {
		case got := <-e.pings:
			if got == payload {
				n--
			}
		case <-late:
			require.Fail(t, "no Ping came", "%d are missing", n)
		}
	}
}

// choose is a server's choice among what a client offers in h.
func (o options) choose(h http.Header) string {
	for _, own := range o.subprotocols {
		for offered := range strings.SplitSeq(h.Get("Sec-WebSocket-Protocol"), ",") {
			if strings.TrimSpace(offered) == own {
				return own
			}
		}
	}
	return ""
}
