//go:build linux

package faults_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"

	"example.com/wsproxy/internal/testkit"
	"github.com/gobwas/ws"
)

// An upstream is a WebSocket server with these paths:
//
//	/echo   echoes every byte of a message as soon as it arrives
//	/flood  sends endlessly and never reads
//	/reset  resets the connection in the middle of its response
//	/body   is plain and returns the length of the request's body
type upstream struct {
	mu              sync.Mutex
	conns, accepted int
	ends            map[string]int
}

func (u *upstream) report(r *report) {
	u.mu.Lock()
	defer u.mu.Unlock()
	r.Conns, r.Accepted, r.Ends = u.conns, u.accepted, map[string]int{}
	for how, n := range u.ends {
		r.Ends[how] = n
	}
}

// state counts connections that are neither closed nor hijacked.
func (u *upstream) state(_ net.Conn, s http.ConnState) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch s {
	case http.StateNew:
		u.accepted++
		u.conns++
	case http.StateClosed, http.StateHijacked:
		u.conns--
	}
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/body" {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n, err)
		return
	}
	u.mu.Lock()
	u.conns++ // the server stops counting a connection at its upgrade
	u.mu.Unlock()
	how := "not upgraded"
	defer func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.conns--
		u.ends[how]++
	}()
	conn, brw, _, err := ws.UpgradeHTTP(r, w)
	if err != nil {
		return
	}
	defer conn.Close()
	switch r.URL.Path {
	case "/echo":
		how, err = echo(conn, brw)
	case "/flood":
		conn.(*net.TCPConn).SetWriteBuffer(64 << 10)
		frame := ws.MustCompileFrame(ws.NewBinaryFrame(make([]byte, 64<<10)))
		for err == nil {
			_, err = conn.Write(frame)
		}
	case "/reset":
		if _, err = testkit.ReadFrame(brw); err == nil {
			ws.WriteFrame(conn, ws.NewTextFrame([]byte("whole")))
			ws.WriteHeader(conn, ws.Header{Fin: true, OpCode: ws.OpText, Length: 100})
			conn.Write(make([]byte, 50))
			_, err = testkit.ReadFrame(brw) // the client has received half of it
			conn.(*net.TCPConn).SetLinger(0)
			how = "reset the other"
		}
	}
	switch {
	case err == nil:
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		how = "end"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		how = "reset"
	default:
		how = err.Error()
	}
}

// echo returns the code of the Close frame that ended it.
func echo(conn net.Conn, r io.Reader) (how string, err error) {
	b := make([]byte, 32<<10)
	for {
		h, err := ws.ReadHeader(r)
		if err != nil {
			return "", err
		}
		if h.OpCode.IsControl() {
			payload := make([]byte, h.Length)
			if _, err := io.ReadFull(r, payload); err != nil {
				return "", err
			}
			ws.Cipher(payload, h.Mask, 0)
			switch h.OpCode {
			case ws.OpPing:
				ws.WriteFrame(conn, ws.NewPongFrame(payload))
			case ws.OpClose:
				ws.WriteFrame(conn, ws.NewCloseFrame(payload))
				code, _ := ws.ParseCloseFrameData(payload)
				return fmt.Sprint("close ", int(code)), nil
			}
			continue
		}
		out := h
		out.Masked, out.Mask = false, [4]byte{}
		if err := ws.WriteHeader(conn, out); err != nil {
			return "", err
		}
		for at := int64(0); at < h.Length; {
			n, err := r.Read(b[:min(int64(len(b)), h.Length-at)])
			ws.Cipher(b[:n], h.Mask, int(at))
			at += int64(n)
			if _, err := conn.Write(b[:n]); err != nil {
				return "", err
			}
			if err != nil {
				return "", err
			}
		}
	}
}
