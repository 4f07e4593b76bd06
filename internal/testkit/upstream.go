package testkit

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy"
)

// An Upstream is a server whose connections the test drives.
type Upstream struct {
	URL   string
	Addr  string
	Conns chan *Peer // connections for Accept to return
}

// NewUpstream listens on loopback.
func NewUpstream(t testing.TB) *Upstream {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	u := &Upstream{URL: "http://" + l.Addr().String(), Addr: l.Addr().String()}
	u.acceptFrom(t, l)
	return u
}

// acceptFrom fills u.Conns from l. When the test ends it closes l and resets
// the connections that the test has not accepted.
func (u *Upstream) acceptFrom(t testing.TB, l net.Listener) {
	u.Conns = make(chan *Peer, 4096)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.SetDeadline(time.Now().Add(Patience))
			u.Conns <- NewPeer(conn)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
		close(u.Conns)
		for conn := range u.Conns {
			conn.Reset()
		}
	})
}

// NewTLSUpstream returns an Upstream behind TLS, and the option that trusts it.
func NewTLSUpstream(t testing.TB) (*Upstream, []wsproxy.Option) {
	t.Helper()
	certificate, trusted := Certificate(t)
	raw := NewUpstream(t)
	u := &Upstream{URL: "https://" + raw.Addr, Addr: raw.Addr, Conns: make(chan *Peer, 100)}
	raw.Script(func(server *Peer) {
		secure := tls.Server(server.Conn, &tls.Config{Certificates: []tls.Certificate{certificate}})
		if secure.Handshake() == nil {
			u.Conns <- NewPeer(secure)
			<-t.Context().Done() // Script closes the connection
		}
	})
	return u, []wsproxy.Option{trusted}
}

// Accept returns the next connection. The test's end closes it.
func (u *Upstream) Accept(t testing.TB) *Peer {
	t.Helper()
	conn := Within(t, u.Conns, "a connection to the upstream")
	t.Cleanup(func() { conn.Close() })
	return conn
}

// Script calls f for each connection, in its own goroutine, and then closes the
// connection.
func (u *Upstream) Script(f func(server *Peer)) {
	go func() {
		for conn := range u.Conns {
			go func() {
				defer conn.Close()
				f(conn)
			}()
		}
	}()
}

// Respond makes u send response to the first request of each connection. It
// returns the headers of those requests.
func (u *Upstream) Respond(response string) <-chan string {
	headers := make(chan string, 1000)
	u.Script(func(server *Peer) {
		header, err := server.readHeader()
		if err != nil {
			return
		}
		headers <- header
		io.WriteString(server, response)
	})
	return headers
}

// RawReceived sends a request to addr and returns the header that u receives,
// to the byte. u responds with 200.
func (u *Upstream) RawReceived(t testing.TB, addr, request string) string {
	t.Helper()
	client := Dial(t, addr)
	client.Send(t, request)
	server := u.Accept(t)
	raw := server.RawHeader(t)
	server.Send(t, ResponseOK)
	if res := client.Response(t); res.StatusCode != http.StatusOK {
		t.Fatalf("status %s, want 200", res.Status)
	}
	return raw
}

// Received is RawReceived with the header parsed.
func (u *Upstream) Received(t testing.TB, addr, request string) *http.Request {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(u.RawReceived(t, addr, request))))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Tunnel opens a tunnel through the proxy at addr with the sample handshake and
// returns both its ends.
func Tunnel(t testing.TB, addr string, u *Upstream) (client, server *Peer) {
	t.Helper()
	client = Dial(t, addr)
	return client, u.Handshake(t, client)
}

// Handshake opens a tunnel on the client's connection to a proxy in front of u
// and returns u's end.
func (u *Upstream) Handshake(t testing.TB, client *Peer) (server *Peer) {
	t.Helper()
	client.Send(t, SampleRequest)
	server = u.Accept(t)
	server.Request(t)
	server.Send(t, SampleSwitch)
	client.WantSwitch(t)
	return server
}
