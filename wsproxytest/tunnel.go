package wsproxytest

import (
	"context"
	"net/http"
	"sync"
	"time"

	"example.com/wsproxy/internal/memconn"
)

// abandonAfter limits how long frames are still forwarded after both ends have
// closed.
const abandonAfter = 10 * time.Second

// A Tunnel is a WebSocket between a client and a server. Its methods may be
// called from any goroutine, including a Handler's, and after the tunnel has
// ended.
//
// A tunnel ends when both ends have closed and all their frames are forwarded, but
// at most 10 seconds after both have closed. Cut, Reset and the end of the test
// also end it. If one end closes, the other reads an end of stream. If one resets
// its connection, the other sees a reset. Both arrive after the frames that were
// sent before, so a Handler that blocks delays them too. An end that still sends
// to one that has closed its connection sees a reset a second later. With NewURL
// only a server does.
type Tunnel struct {
	N       int           // the tunnel's number, from 1, in the order in which they opened
	Request *http.Request // a copy of the handshake as the server gets it

	target string // path and query
	nth    int    // among the tunnels to target

	owner *interceptor
	kill  context.CancelFunc // cuts the wsproxy.Tunnel, if there is one
	ends  [2]*end            // by Side
	to    [2]*direction      // by the Side that it leads to
	ready chan struct{}      // closed when the client has the 101
	done  chan struct{}

	mu       sync.Mutex
	journals [2]journal // by the Side that they lead to
	over     bool       // done is closed
	how      string     // the last record: "cut" or "reset"
	closed   int        // ends that have ended their stream
	finished int        // directions that are done
	timer    *time.Timer
	states   map[stateKey]any
}

// To returns the direction to s, on which the test can send its own frames. They
// are sent at once, between forwarded frames, and no Handler is called for them.
func (t *Tunnel) To(s Side) *Wire { return &Wire{d: t.to[s]} }

// CloseWrite ends the stream to s, after the frame that is being sent to it.
// Later frames to s are dropped. The other direction continues.
func (t *Tunnel) CloseWrite(s Side) {
	d := t.to[s]
	if !d.acquire() {
		return
	}
	defer d.release()
	if !d.closed {
		d.closed = true
		t.record(s, Record{Fate: Ended, Note: "end of stream to " + s.String()})
		t.ends[s].closeWrite()
	}
}

// Cut ends the tunnel. Both ends read an end of stream without a Close frame.
// Frames that are not forwarded yet are lost.
func (t *Tunnel) Cut() { t.end("cut", (*end).cut) }

// Reset ends the tunnel. Both connections are reset (ECONNRESET). Frames that are
// not forwarded yet are lost.
func (t *Tunnel) Reset() { t.end("reset", (*end).reset) }

// Done returns a channel that is closed when the tunnel has ended.
func (t *Tunnel) Done() <-chan struct{} { return t.done }

func (t *Tunnel) isOver() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

// end ends the tunnel, once. how is for the transcript.
func (t *Tunnel) end(how string, stop func(*end)) {
	t.mu.Lock()
	if t.over {
		t.mu.Unlock()
		return
	}
	t.over, t.how = true, how
	all := t.finished == len(t.to)
	if t.timer != nil {
		t.timer.Stop()
	}
	t.mu.Unlock()
	close(t.done)
	for _, e := range t.ends {
		stop(e)
	}
	if !all {
		// The proxy would wait until the server has ended too. Let the server
		// see the end of the client's stream first, as without a proxy.
		time.AfterFunc(linger, t.kill)
	}
}

// stopNow ends the tunnel and closes both connections at once.
func (t *Tunnel) stopNow() {
	t.end("", (*end).close)
	t.kill()
	for _, e := range t.ends {
		e.close()
	}
}

// noteClosed notes that an end has ended its stream, read or not.
func (t *Tunnel) noteClosed() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed++; t.closed == len(t.ends) && !t.over {
		t.timer = time.AfterFunc(abandonAfter, func() { t.end("", (*end).close) })
	}
}

// noteFinished notes that a direction is done.
func (t *Tunnel) noteFinished() {
	t.mu.Lock()
	t.finished++
	all := t.finished == len(t.to)
	t.mu.Unlock()
	if all {
		t.end("", (*end).close)
	}
}

// record adds a record to the direction to s.
func (t *Tunnel) record(s Side, r Record) {
	if t.owner.proxy == nil {
		return
	}
	r.Tunnel = t
	if r.Frame.Time.IsZero() {
		r.Frame.Time = time.Now()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.journals[s].add(r)
}

func (t *Tunnel) appendRecords(all Transcript) Transcript {
	t.mu.Lock()
	defer t.mu.Unlock()
	all = t.journals[Server].appendTo(all)
	all = t.journals[Client].appendTo(all)
	if t.how != "" {
		all = append(all, Record{Tunnel: t, Fate: Ended, Note: t.how})
	}
	return all
}

// newTunnel returns a tunnel that is not open yet.
func (i *interceptor) newTunnel(r *http.Request, kill context.CancelFunc, client *end, server *memconn.Conn, early []byte) *Tunnel {
	request := r.Clone(r.Context())
	if r.Method == http.MethodGet {
		request.ParseForm() // both directions' Handlers may call FormValue at once
	}
	t := &Tunnel{Request: request, target: r.URL.RequestURI(), owner: i, kill: kill, ready: make(chan struct{}), done: make(chan struct{})}
	t.ends = [2]*end{Client: client, Server: newEnd(server)}
	t.to[Server] = newDirection(t, Client, early)
	t.to[Client] = newDirection(t, Server, nil)
	for _, e := range t.ends {
		e.in.NotifyEnd(t.noteClosed)
	}
	return t
}
