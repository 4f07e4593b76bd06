package wsproxytest_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"example.com/wsproxy/internal/frame"
	"example.com/wsproxy/wsproxytest"
)

// patience bounds every wait of a test that should not have to wait.
const patience = 20 * time.Second

// A peer is one end of a WebSocket, driven frame by frame.
type peer struct {
	net.Conn
	br     *bufio.Reader
	client bool
}

const key = "dGhlIHNhbXBsZSBub25jZQ=="
const accept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

// connect opens a WebSocket over conn.
func connect(conn net.Conn, target string) (*peer, *http.Response, error) {
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n", target, key)
	br := bufio.NewReader(conn)
	res, err := http.ReadResponse(br, nil)
	return &peer{conn, br, true}, res, err
}

// dial opens a WebSocket in memory.
func dial(t testing.TB, p *wsproxytest.Proxy, target string) *peer {
	t.Helper()
	conn, err := p.Dial(context.Background(), "tcp", "anywhere:80")
	if err != nil {
		t.Fatal(err)
	}
	return handshake(t, conn, target)
}

// dialURL opens a WebSocket over loopback.
func dialURL(t testing.TB, p *wsproxytest.Proxy, target string) *peer {
	t.Helper()
	conn, err := net.Dial("tcp", p.URL()[len("ws://"):])
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(patience))
	return handshake(t, conn, target)
}

func handshake(t testing.TB, conn net.Conn, target string) *peer {
	t.Helper()
	t.Cleanup(func() { conn.Close() })
	c, res, err := connect(conn, target)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("status %s, want 101", res.Status)
	}
	return c
}

// serve returns a handler that upgrades and calls f with its end, which f must
// close.
func serve(f func(*peer)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, brw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "+accept+"\r\n\r\n")
		f(&peer{conn, brw.Reader, false})
	})
}

// served returns a handler that upgrades and sends each end to the test.
func served() (http.Handler, <-chan *peer) {
	ends := make(chan *peer, 100)
	return serve(func(s *peer) { ends <- s }), ends
}

// echo sends each message back, and ends with a Close frame.
func echo(s *peer) {
	defer s.Close()
	for {
		h, payload, err := s.read()
		if err != nil {
			return
		}
		s.write(h.Fin, h.Opcode, payload)
		if h.Opcode == frame.OpClose {
			return
		}
	}
}

func (p *peer) read() (frame.Header, string, error) {
	var b []byte
	for {
		h, size, ok := frame.Parse(b)
		if ok {
			payload := make([]byte, h.Length)
			_, err := io.ReadFull(p.br, payload)
			if h.Masked {
				frame.Mask(payload, h.Key)
			}
			return h, string(payload), err
		}
		more := make([]byte, size-len(b))
		n, err := io.ReadFull(p.br, more)
		if b = append(b, more[:n]...); err != nil {
			return h, "", err
		}
	}
}

func (p *peer) wire(fin bool, opcode byte, payload string) []byte {
	return frame.Append(nil, frame.Header{Fin: fin, Opcode: opcode, Masked: p.client, Key: [4]byte{1, 2, 3, 4}}, []byte(payload))
}

func (p *peer) write(fin bool, opcode byte, payload string) error {
	_, err := p.Conn.Write(p.wire(fin, opcode, payload))
	return err
}

func (p *peer) text(t testing.TB, s string) {
	t.Helper()
	if err := p.write(true, frame.OpText, s); err != nil {
		t.Fatal(err)
	}
}

// want reads the next frame, which must be a whole one.
func (p *peer) want(t testing.TB, opcode byte, payload string) {
	t.Helper()
	h, got, err := p.read()
	if err != nil || h.Opcode != opcode || got != payload || h.Masked == p.client {
		t.Fatalf("read %+v %q, %v; want opcode %d %q", h, got, err, opcode, payload)
	}
}

// wantEnd reads want and then an error that is end.
func (p *peer) wantEnd(t testing.TB, want string, end func(error) bool) {
	t.Helper()
	b, err := io.ReadAll(p.br)
	if err == nil {
		err = io.EOF
	}
	if string(b) != want || !end(err) {
		t.Fatalf("read %q and then %v, want %q and then another end", b, err, want)
	}
}

func (p *peer) closeWrite() { p.Conn.(interface{ CloseWrite() error }).CloseWrite() }

// within waits for a value.
func within[T any](t testing.TB, ch <-chan T, what string) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(patience):
		t.Fatalf("after %v: no %s", patience, what)
	}
	return v
}
