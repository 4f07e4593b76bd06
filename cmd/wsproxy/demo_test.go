package main

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// sendFrame writes a message, masked as a client's are (RFC 6455, section
// 5.2), if with the mask that changes nothing.
func (p *peer) sendFrame(t *testing.T, opcode byte, payload string) {
	t.Helper()
	require.Less(t, len(payload), 126)
	_, err := io.WriteString(p, string([]byte{0x80 | opcode, 0x80 | byte(len(payload)), 0, 0, 0, 0})+payload)
	require.NoError(t, err)
}

// frame reads a frame that is no longer than 64 KiB.
func (p *peer) frame(t *testing.T) (opcode byte, payload string) {
	t.Helper()
	read := func(n int) []byte {
		b := make([]byte, n)
		_, err := io.ReadFull(p.br, b)
		require.NoError(t, err)
		return b
	}
	head := read(2)
	require.Equal(t, byte(0x80), head[0]&0xf0, "want a whole message without extensions")
	size := int(head[1])
	if size == 126 {
		long := read(2)
		size = int(long[0])<<8 | int(long[1])
	}
	return head[0] & 0xf, string(read(size))
}

const (
	text   = 1
	binary = 2
	closes = 8
	pings  = 9
)

// demoSocket opens the demo's WebSocket through the command and reads what it
// says of the handshake.
func demoSocket(t *testing.T, c *command, more string) (*peer, handshake) {
	t.Helper()
	p, res := c.ask(t, "/echo", upgradeFields+more)
	require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	opcode, message := p.frame(t)
	require.Equal(t, byte(text), opcode)
	var h handshake
	require.NoError(t, json.Unmarshal([]byte(message), &h))
	return p, h
}

func TestTheDemoServesItsPageWithoutOutsideAssets(t *testing.T) {
	c := start(t)
	_, res := c.ask(t, "/", "")
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Equal(t, "text/html; charset=utf-8", res.Header.Get("Content-Type"))
	require.Contains(t, res.Header.Get("Content-Security-Policy"), "default-src 'none'")
	page := make([]byte, len(demoPage))
	_, err := io.ReadFull(res.Body, page)
	require.NoError(t, err)
	require.Equal(t, demoPage, page)
	outside := strings.NewReplacer("http://www.w3.org/2000/svg", "", "http://localhost:3000", "", `"http://"`, "").Replace(string(page))
	require.NotRegexp(t, `https?://|src=|@import|url\(`, outside)
	code, _ := c.get(t, "/elsewhere", "")
	require.Equal(t, http.StatusNotFound, code)
}

func TestTheDemoTellsTheHandshakeThatItGot(t *testing.T) {
	c := start(t, "-listen", "127.0.0.1:0", "-header", "X-Test: yes")
	_, h := demoSocket(t, c, "Cookie: session=secret\r\nX-Real-IP: 192.0.2.1\r\n")
	require.Equal(t, "GET /echo HTTP/1.1", h.Request)
	require.Equal(t, c.addr, h.Host)
	for name, want := range map[string]string{
		"Connection":            "upgrade",
		"Upgrade":               "websocket",
		"Sec-Websocket-Version": "13",
		"X-Real-Ip":             "127.0.0.1",
		"X-Forwarded-For":       "127.0.0.1",
		"X-Forwarded-Host":      c.addr,
		"X-Forwarded-Proto":     "http",
		"X-Test":                "yes",
		"Cookie":                "(hidden by the demo)",
	} {
		require.Equal(t, []string{want}, h.Header[name], name)
	}
}

func TestTheDemoEchoesTextBinaryAndPings(t *testing.T) {
	c := start(t)
	p, _ := demoSocket(t, c, "")
	for _, opcode := range []byte{text, binary, pings} {
		p.sendFrame(t, opcode, "grüße")
		got, payload := p.frame(t)
		if opcode == pings {
			opcode++ // a pong
		}
		require.Equal(t, opcode, got)
		require.Equal(t, "grüße", payload)
	}
	p.sendFrame(t, closes, "\x03\xe8bye")
	opcode, payload := p.frame(t)
	require.Equal(t, byte(closes), opcode)
	require.Equal(t, "\x03\xe8bye", payload)
	p.ended(t)
}

func TestTheDemoTakesItsOwnPageAlone(t *testing.T) {
	for _, flag := range []string{"-target-host=false", "-target-host"} {
		c := start(t, flag)
		demoSocket(t, c, "Origin: "+c.url+"\r\n")
		_, res := c.ask(t, "/echo", upgradeFields+"Origin: http://evil.example\r\n")
		require.Equal(t, http.StatusForbidden, res.StatusCode)
		_, res = c.ask(t, "/echo", upgradeFields+"Origin: null\r\n")
		require.Equal(t, http.StatusForbidden, res.StatusCode)
	}
}

func TestTheDemoSaysGoodbyeOnceWhenItDrains(t *testing.T) {
	c := start(t, "-drain", "1h")
	p, _ := demoSocket(t, c, "")
	c.signals <- os.Interrupt
	opcode, payload := p.frame(t)
	require.Equal(t, byte(closes), opcode)
	require.Equal(t, "\x03\xe9the demo is shutting down", payload)
	p.sendFrame(t, text, "a message that crossed the goodbye")
	p.sendFrame(t, closes, payload[:2])
	rest, err := io.ReadAll(p.br)
	require.NoError(t, err)
	require.Empty(t, rest, "Chromium takes a second Close frame for an error")
	p.Close()
	require.Zero(t, c.exit(t), c.stderr)
}

func TestSocketsThatEndAnyHowLeaveTheDemoSilentAndWhole(t *testing.T) {
	c := start(t)
	for how, end := range map[string]func(p *peer){
		"without a Close frame": func(p *peer) { p.Close() },
		"with a reset": func(p *peer) {
			p.Conn.(*net.TCPConn).SetLinger(0)
			p.Close()
		},
		"in the middle of a frame": func(p *peer) {
			io.WriteString(p, "\x81\xfe")
			p.Close()
		},
		"with garbage": func(p *peer) {
			io.WriteString(p, strings.Repeat("\xff", 14))
			p.ended(t)
		},
		"with too long a message": func(p *peer) {
			io.WriteString(p, "\x82\xff\x00\x00\x00\x00\x7f\xff\xff\xff\x00\x00\x00\x00"+strings.Repeat("x", 1<<16))
			p.ended(t)
		},
	} {
		t.Log(how)
		p, _ := demoSocket(t, c, "")
		end(p)
	}
	p, _ := demoSocket(t, c, "")
	p.sendFrame(t, text, "still there")
	_, payload := p.frame(t)
	require.Equal(t, "still there", payload)
	require.Empty(t, c.stderr.String())
}
