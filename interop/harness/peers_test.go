package harness_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"example.com/wsproxy/internal/frame"
	"example.com/wsproxy/wsproxytest"
)

// A peer is the end that the library under test talks to. It does what a frame
// says and no more.
type peer struct {
	net.Conn
	br     *bufio.Reader
	client bool
}

const (
	sampleKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	sampleAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

func dialPeer(t *testing.T, p *wsproxytest.Proxy) *peer {
	conn, err := p.Dial(context.Background(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", sampleKey)
	br := bufio.NewReader(conn)
	res, err := http.ReadResponse(br, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(res, err)
	}
	return &peer{conn, br, true}
}

func acceptPeer(w http.ResponseWriter, r *http.Request) *peer {
	conn, brw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "+
		acceptKey(r.Header.Get("Sec-WebSocket-Key"))+"\r\n\r\n")
	return &peer{conn, brw.Reader, false}
}

func (p *peer) send(fin bool, opcode byte, payload string) {
	p.Write(frame.Append(nil, frame.Header{Fin: fin, Opcode: opcode, Masked: p.client, Key: [4]byte{1, 2, 3, 4}}, []byte(payload)))
}

// run reads until the connection ends, or until it gets a Close frame, and
// closes.
func (p *peer) run() {
	defer p.Close()
	for {
		head, err := p.br.Peek(2)
		if err != nil {
			return
		}
		h, size, ok := frame.Parse(head)
		if !ok {
			if head, err = p.br.Peek(size); err != nil {
				return
			}
			h, size, _ = frame.Parse(head)
		}
		if _, err := p.br.Discard(size + int(h.Length)); err != nil || h.Opcode == frame.OpClose {
			return
		}
	}
}
