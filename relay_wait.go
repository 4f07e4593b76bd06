package wsproxy

import (
	"net"
	"sync"
	"time"
)

// longAgo as a deadline makes a read return at once.
var longAgo = time.Unix(1, 0)

// A waiter has a read of a connection return early when it is asked to. It does
// that with a read deadline, which the code around the proxy may set as well:
// a listener, for instance, that limits the age of its connections. A deadline
// that nobody asked the waiter for is that code's, and ends the flow as it ends
// the copying of httputil.ReverseProxy.
//
// A waiter sets a deadline only in the time of a read, and takes it away when
// that read ends. Other orders would go wrong:
//   - wake sets a deadline while drive writes to a slow end, the listener sets
//     its own, drive reads, and takes the listener's away for wake's;
//   - drive sees a deadline and that wake asked for it, wake is called again, and
//     drive takes the second deadline away: the second wake is lost. Under mu the
//     deadline and the state change together.
//
// What remains is a deadline that is set by others in the microseconds between
// wake and the end of the read, and one of theirs that lies in the future when
// wake is called: the connection has no way to tell of either.
type waiter struct {
	conn  net.Conn
	mu    sync.Mutex
	state waiterState
}

type waiterState uint8

// The states of a waiter. begin and end are drive's, which has one read at a
// time; wake is anybody's.
const (
	notReading  waiterState = iota // begin: reading; wake: askedEarly
	askedEarly                     // the next read is not to wait. begin: notReading, without a read
	reading                        // end: notReading; wake: interrupted
	interrupted                    // the deadline is the waiter's. end: notReading, without it
)

// begin reports whether to read.
func (w *waiter) begin() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.state == askedEarly {
		w.state = notReading
		return false
	}
	w.state = reading
	return true
}

// end follows the read. It reports whether wake has interrupted that, so that a
// deadline is no error.
func (w *waiter) end() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	woken := w.state == interrupted
	if woken {
		w.conn.SetReadDeadline(time.Time{})
	}
	w.state = notReading
	return woken
}

// wake has the read that waits, or else the next one, return at once.
func (w *waiter) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch w.state {
	case notReading:
		w.state = askedEarly
	case reading:
		w.state = interrupted
		w.conn.SetReadDeadline(longAgo)
	}
}
