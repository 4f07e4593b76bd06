package testkit

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
)

// Room is how many bytes each direction of a MemRig's connections holds.
const Room = 64 << 10

// A MemRig is a proxy between in-memory ends, for a synctest bubble.
type MemRig struct {
	Proxy     *wsproxy.Proxy
	Listener  *MemListener // of the proxy's server
	Ended     Endings
	Upstreams chan *Peer // the upstream's ends, in the order of the dials
}

// NewMemRig serves a new proxy in memory, with server if that is not nil.
func NewMemRig(t *testing.T, server *http.Server, opts ...wsproxy.Option) *MemRig {
	t.Helper()
	return NewMemRigTo(t, "http://upstream", server, opts...)
}

// NewMemRigTo is NewMemRig with a target.
func NewMemRigTo(t *testing.T, target string, server *http.Server, opts ...wsproxy.Option) *MemRig {
	t.Helper()
	r := &MemRig{Listener: NewMemListener(), Ended: NewEndings(), Upstreams: make(chan *Peer, 1024)}
	r.Proxy = NewProxy(t, target, append([]wsproxy.Option{r.Ended.Option(),
		wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) {
			near, far := NewMemConns(Room)
			r.Upstreams <- NewPeer(far)
			return near, nil
		})}, opts...)...)
	if server == nil {
		server = new(http.Server)
	}
	server.Handler = r.Proxy
	server.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	served := make(chan error)
	go func() { served <- server.Serve(r.Listener) }()
	t.Cleanup(func() {
		server.Close()
		if err := <-served; err != http.ErrServerClosed {
			t.Errorf("the proxy's server ends with %v", err)
		}
		// net/http waits half a second before it closes a connection whose
		// request body was not read (from Go 1.26.11 on also one that an Expect
		// asked for). The bubble's clock stops when the test returns.
		time.Sleep(time.Second)
	})
	return r
}

// Send sends a request, given in full, and returns the client's end.
func (r *MemRig) Send(t *testing.T, request string) *Peer {
	t.Helper()
	near, far := NewMemConns(Room)
	t.Cleanup(func() { far.Close() })
	r.Listener.Conns <- near
	client := NewPeer(far)
	client.Send(t, request)
	return client
}

// SendHandshake sends the sample handshake and returns the client's end.
func (r *MemRig) SendHandshake(t *testing.T) *Peer {
	t.Helper()
	return r.Send(t, SampleRequest)
}

// Tunnel opens a tunnel and returns its ends.
func (r *MemRig) Tunnel(t *testing.T) (client, server *Peer) {
	t.Helper()
	client = r.SendHandshake(t)
	server = <-r.Upstreams
	t.Cleanup(func() { server.Close() })
	server.Request(t)
	server.Send(t, SampleSwitch)
	client.WantSwitch(t)
	return client, server
}

// EndsIn waits for the next ending, which must come after d and have the
// reason.
func (r *MemRig) EndsIn(t testing.TB, d time.Duration, reason wsproxy.Reason) wsproxy.Ending {
	t.Helper()
	start := time.Now()
	select {
	case ending := <-r.Ended:
		OnTime(t, start.Add(d))
		if ending.Reason != reason {
			t.Fatalf("the tunnel ends with %v, want %v", ending.Reason, reason)
		}
		return ending
	case <-time.After(24 * time.Hour):
		t.Fatal("the tunnel does not end")
		return wsproxy.Ending{}
	}
}

// StaysFor checks that no tunnel ends in the next d.
func StaysFor(t *testing.T, r *MemRig, d time.Duration) {
	t.Helper()
	select {
	case ending := <-r.Ended:
		t.Fatalf("the tunnel ends with %v", ending.Reason)
	case <-time.After(d):
	}
}

// OnTime checks that a tunnel ends at the expected time, in a synctest bubble.
// The portable relay may take a millisecond more to tell a reset from an
// orderly end.
func OnTime(t testing.TB, end time.Time) {
	t.Helper()
	if late := time.Since(end); late < 0 || late > time.Millisecond {
		t.Fatalf("the tunnel ends %v after its time", late)
	}
}

// WantGatewayTimeout reads a 504, which must come after d, in a synctest
// bubble.
func WantGatewayTimeout(t *testing.T, client *Peer, d time.Duration) {
	t.Helper()
	start := time.Now()
	if res := client.Response(t); res.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("status %s, want 504", res.Status)
	}
	if got := time.Since(start); got != d {
		t.Errorf("the response comes after %v, want %v", got, d)
	}
}

// FromEither runs a test in a synctest bubble, with each end of a tunnel as the
// first.
func FromEither(t *testing.T, opts []wsproxy.Option, test func(t *testing.T, r *MemRig, from, to End)) {
	t.Helper()
	for _, name := range []string{"client first", "upstream first"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := NewMemRig(t, nil, opts...)
				client, server := Ends(r.Tunnel(t))
				if name == "client first" {
					test(t, r, client, server)
				} else {
					test(t, r, server, client)
				}
			})
		})
	}
}
