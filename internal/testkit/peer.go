package testkit

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A Peer is one end of a connection, driven byte by byte. Its methods that take
// a testing.TB are for the test's goroutine.
type Peer struct {
	net.Conn
	Reader *bufio.Reader // of Conn
}

// NewPeer returns conn as a Peer.
func NewPeer(conn net.Conn) *Peer { return &Peer{conn, bufio.NewReader(conn)} }

// Dial connects to addr. The test's end closes the connection, and Patience
// bounds every read and write.
func Dial(t testing.TB, addr string) *Peer {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(Patience))
	return NewPeer(conn)
}

// Read reads what Reader has buffered, then from the connection.
func (p *Peer) Read(b []byte) (int, error) { return p.Reader.Read(b) }

// CloseWrite half-closes the connection.
func (p *Peer) CloseWrite() error { return p.Conn.(interface{ CloseWrite() error }).CloseWrite() }

// Socket returns the connection below TLS.
func (p *Peer) Socket() net.Conn {
	if secure, ok := p.Conn.(*tls.Conn); ok {
		return secure.NetConn()
	}
	return p.Conn
}

// Reset closes the connection below TLS, with a RST if it is TCP. It resets a
// Stream.
func (p *Peer) Reset() {
	conn := p.Socket()
	if stream, ok := conn.(*Stream); ok {
		stream.Reset()
		return
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	conn.Close()
}

// ErrDeadline is the error of a Peer that waited longer than Patience.
var ErrDeadline = os.ErrDeadlineExceeded

// IsReset reports whether err is the reset of a connection or a Stream.
func IsReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || err != nil && strings.HasPrefix(err.Error(), "stream error: ")
}

// Send writes s.
func (p *Peer) Send(t testing.TB, s string) {
	t.Helper()
	if _, err := io.WriteString(p, s); err != nil {
		t.Fatalf("write %.80q: %v", s, err)
	}
}

// Expect reads exactly want.
func (p *Peer) Expect(t testing.TB, want string) {
	t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(p, got); err != nil {
		t.Fatalf("read %q, want %q: %v", got[:n], want, err)
	}
	if string(got) != want {
		t.Fatalf("read %q, want %q", got, want)
	}
}

// ExpectEOF reads want and then an orderly end.
func (p *Peer) ExpectEOF(t testing.TB, want string) {
	t.Helper()
	got, err := io.ReadAll(p)
	if err != nil || string(got) != want {
		t.Fatalf("read %q and then %v, want %q and then EOF", got, err, want)
	}
}

// Rest reads until the connection ends, by an EOF or a reset, and returns what
// came before that. whose names the connection: "the client's".
func (p *Peer) Rest(t testing.TB, whose string) string {
	t.Helper()
	rest, err := io.ReadAll(p)
	if os.IsTimeout(err) {
		t.Fatalf("%s connection stays open", whose)
	}
	return string(rest)
}

// Request reads a request.
func (p *Peer) Request(t testing.TB) *http.Request {
	t.Helper()
	r, err := http.ReadRequest(p.Reader)
	if err != nil {
		t.Fatalf("read a request: %v", err)
	}
	return r
}

// RawHeader reads the header of a request and returns its bytes.
func (p *Peer) RawHeader(t testing.TB) string {
	t.Helper()
	header, err := p.readHeader()
	if err != nil {
		t.Fatalf("read a header: %v after %q", err, header)
	}
	return header
}

func (p *Peer) readHeader() (string, error) {
	var b strings.Builder
	for !strings.HasSuffix(b.String(), "\r\n\r\n") {
		line, err := p.Reader.ReadString('\n')
		b.WriteString(line)
		if err != nil {
			return b.String(), err
		}
	}
	return b.String(), nil
}

// Response reads the response to a GET.
func (p *Peer) Response(t testing.TB) *http.Response {
	t.Helper()
	res, err := http.ReadResponse(p.Reader, nil)
	if err != nil {
		t.Fatalf("read a response: %v", err)
	}
	return res
}

// WantSwitch reads a response, which must be a 101.
func (p *Peer) WantSwitch(t testing.TB) {
	t.Helper()
	if res := p.Response(t); res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status %s, want 101", res.Status)
	}
}

// Do sends a request, given in full, to addr. It returns the response and the
// connection.
func Do(t testing.TB, addr, request string) (*http.Response, *Peer) {
	t.Helper()
	p := Dial(t, addr)
	p.Send(t, request)
	return p.Response(t), p
}

// Body reads the whole body of a response.
func Body(t testing.TB, res *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("read a body: %v after %.80q", err, b)
	}
	return string(b)
}

// WantFailure reads a response, which must have the status, no more than the
// status's text as its body, and nothing of u's address.
func WantFailure(t testing.TB, client *Peer, u *Upstream, status int) {
	t.Helper()
	res := client.Response(t)
	text := Body(t, res)
	if res.StatusCode != status || text != http.StatusText(status)+"\n" {
		t.Errorf("the client gets %s and %q, want %d", res.Status, text, status)
	}
	all := fmt.Sprint(res.Header) + text
	host, port, _ := net.SplitHostPort(u.Addr)
	for _, part := range []string{host, port} {
		if strings.Contains(all, part) {
			t.Errorf("the client gets %s, a part of the upstream's address: %s", part, all)
		}
	}
}
