package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

// demoSocket opens the demo's WebSocket through the command and reads the message
// about the handshake.
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

func TestTheDemoServesItsPageWhichMayLoadNothingElse(t *testing.T) {
	c := start(t)
	_, res := c.ask(t, "/", "")
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Equal(t, "text/html; charset=utf-8", res.Header.Get("Content-Type"))
	policy := res.Header.Get("Content-Security-Policy")
	require.Contains(t, policy, "default-src 'none'")
	for directive := range strings.SplitSeq(policy, ";") {
		require.Subset(t, []string{"'none'", "'self'", "'unsafe-inline'", "data:", "ws:", "wss:"}, strings.Fields(directive)[1:])
	}
	page := make([]byte, len(demoPage))
	_, err := io.ReadFull(res.Body, page)
	require.NoError(t, err)
	require.Equal(t, demoPage, page)
	code, _ := c.get(t, "/elsewhere", "")
	require.Equal(t, http.StatusNotFound, code)
}

func TestTheDemosPageHasNoOutsideAssets(t *testing.T) {
	page := string(demoPage)
	for _, loadsNothing := range []string{
		"http://www.w3.org/2000/svg", "</span> http://localhost:3000</code>", `.replace("http://", "")`, `new URL("echo", location.href)`,
	} {
		require.Contains(t, page, loadsNothing)
		page = strings.ReplaceAll(page, loadsNothing, "")
	}
	all := func(pattern string) []string { return regexp.MustCompile("(?i)"+pattern).FindAllString(page, -1) }
	require.Empty(t, all(`.*//[^ ].*`), "the two slashes of a comment have a space after them")
	require.Empty(t, all(`.*(\bimport\b|importScripts|url\().*`))
	for _, reference := range all(`\b(src|srcset|href|poster|background)\s*=\s*[^\s>]*`) {
		require.Regexp(t, `="(data:|#)`, reference)
	}
}

func TestTheDemosPageIsForPhonesToo(t *testing.T) {
	require.Contains(t, string(demoPage), `<meta name="viewport" content="width=device-width, initial-scale=1">`)
}

func TestTheDemosPageHasTwoColoursForEverything(t *testing.T) {
	page := string(demoPage)
	require.Contains(t, page, `<meta name="color-scheme" content="light dark">`, "of the browser's own parts")
	style, _, _ := strings.Cut(page, "</style>")
	light, rest, found := strings.Cut(style, "@media (prefers-color-scheme: dark) {")
	require.True(t, found)
	dark, rest, found := strings.Cut(rest, "\n}\n")
	require.True(t, found)
	colours := func(css string) map[string]string {
		of := map[string]string{}
		for _, match := range regexp.MustCompile(`(--[a-z-]+): (#[0-9a-f]+);`).FindAllStringSubmatch(css, -1) {
			of[match[1]] = match[2]
		}
		return of
	}
	inDark := colours(dark)
	for name, colour := range colours(light) {
		require.Contains(t, inDark, name)
		require.NotEqual(t, colour, inDark[name], name)
	}
	require.Len(t, inDark, len(colours(light)))
	require.Contains(t, inDark, "--page")
	require.NotRegexp(t, `: [^;{}]*(#[0-9a-f]{3}|rgb|hsl)`, rest, "a colour that is the same in both")
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

// The footer said "wsproxy" to readers who had typed "go run ./cmd/wsproxy", and
// had no such command.
func TestTheDemoTellsTheCommandThatWasTyped(t *testing.T) {
	for started, want := range map[string]string{
		"wsproxy":                            "wsproxy",
		"./wsproxy":                          "./wsproxy",
		"/usr/local/bin/wsproxy":             "/usr/local/bin/wsproxy",
		"/tmp/go-build2890/b001/exe/wsproxy": "go run ./cmd/wsproxy",
		"/cache/5a/" + strings.Repeat("5a", 32) + "-d/wsproxy":                     "go run ./cmd/wsproxy",
		"/home/user/.cache/go-build/5a/" + strings.Repeat("5a", 32) + "-d/wsproxy": "go run ./cmd/wsproxy",
	} {
		require.Equal(t, want, typed(started), started)
	}
	_, h := demoSocket(t, start(t), "")
	require.Equal(t, typed(os.Args[0]), h.Command)
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
	p.wantClose(t, goodbye)
	p.sendFrame(t, text, "a message that crossed the goodbye")
	p.sendFrame(t, closes, goodbye[:2])
	rest, err := io.ReadAll(p.Reader)
	require.NoError(t, err)
	require.Empty(t, rest, "Chromium takes a second Close frame for an error")
	p.Close()
	require.Zero(t, c.exit(t), c.stderr)
}

func TestTheDemoShowsItsTunnels(t *testing.T) {
	c := start(t, "-listen", "127.0.0.1:0")
	count := func() (n counters) {
		_, res := c.ask(t, "/tunnels", "Connection: close\r\nSec-Fetch-Site: same-origin\r\n")
		require.Equal(t, http.StatusOK, res.StatusCode)
		require.Equal(t, "application/json", res.Header.Get("Content-Type"))
		require.Equal(t, "no-store", res.Header.Get("Cache-Control"))
		require.NoError(t, json.NewDecoder(res.Body).Decode(&n))
		return n
	}
	require.Equal(t, counters{Tunnels: []tunnelCounter{}}, count())

	first, _ := demoSocket(t, c, "")
	second, _ := demoSocket(t, c, "")
	second.sendFrame(t, text, "12345")
	second.frame(t)
	var n counters
	require.Eventually(t, func() bool { // the counters come after the bytes
		n = count()
		return n.Tunnels[0].FromUpstream.Messages == 2
	}, testkit.Patience, time.Millisecond)
	require.Equal(t, 2, n.Live)
	require.EqualValues(t, 2, n.Opened)
	require.Len(t, n.Tunnels, 2)
	newest := n.Tunnels[0]
	require.EqualValues(t, 2, newest.ID)
	require.Equal(t, "127.0.0.1", newest.Client)
	require.Equal(t, "/echo", newest.Path)
	require.Equal(t, flowCounter{Bytes: 2 + 4 + 5, Messages: 1}, newest.FromClient)
	require.Greater(t, newest.FromUpstream.Bytes, int64(2+5))
	require.GreaterOrEqual(t, newest.Age, newest.Idle)

	first.Close()
	require.Eventually(t, func() bool { return count().Live == 1 }, testkit.Patience, time.Millisecond)
	require.EqualValues(t, 2, count().Opened)

	for range maxShown {
		demoSocket(t, c, "")
	}
	n = count()
	require.Equal(t, maxShown+1, n.Live)
	require.Len(t, n.Tunnels, maxShown)
	require.EqualValues(t, maxShown+2, n.Tunnels[0].ID)
}

func TestTheDemosCountersAreForItsOwnPageAlone(t *testing.T) {
	c := start(t)
	for _, fields := range []string{"Sec-Fetch-Site: cross-site\r\n", "Sec-Fetch-Site: same-site\r\n", "Origin: http://evil.example\r\n"} {
		code, body := c.get(t, "/tunnels", fields)
		require.Equal(t, http.StatusForbidden, code, fields)
		require.NotContains(t, body, "live")
	}
	_, res := c.ask(t, "/tunnels", "Origin: "+c.url+"\r\n")
	require.Equal(t, http.StatusOK, res.StatusCode)
	require.Empty(t, res.Header.Get("Access-Control-Allow-Origin"))
	require.Equal(t, "same-origin", res.Header.Get("Cross-Origin-Resource-Policy"))

	c = start(t, serve(t, http.NotFound))
	code, _ := c.get(t, "/tunnels", "")
	require.Equal(t, http.StatusNotFound, code, "a real target's paths are its own")
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

// DNS rebinding: if a site makes its name resolve to this machine, the browser
// treats its pages as pages of the demo's origin. Only Host, or X-Forwarded-Host
// with -target-host, has the site's name. Before, neither was checked.
func TestTheDemoAnswersToNoOtherSitesName(t *testing.T) {
	ask := func(t *testing.T, addr, path, host, fields string) int {
		conn, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(testkit.Patience))
		_, err = io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: "+host+"\r\n"+fields+"\r\n")
		require.NoError(t, err)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		return res.StatusCode
	}
	for _, args := range [][]string{nil, {"-listen", "127.0.0.1:0"}, {"-listen", ":0"}, {"-target-host"}} {
		c := start(t, args...)
		_, port, err := net.SplitHostPort(c.addr)
		require.NoError(t, err)
		addr := net.JoinHostPort("127.0.0.1", port)
		for _, host := range []string{"evil.example:" + port, "evil.example", "localhost.evil.example:" + port, "127.0.0.1.evil.example:" + port} {
			for path, fields := range map[string]string{
				"/":        "",
				"/tunnels": "Sec-Fetch-Site: same-origin\r\n",
				"/echo":    upgradeFields + "Origin: http://" + host + "\r\n",
			} {
				require.Equal(t, http.StatusForbidden, ask(t, addr, path, host, fields), "%v: %s of %s", args, path, host)
			}
			// A script may add fields to a request of its page's own origin.
			require.Equal(t, http.StatusForbidden, ask(t, addr, "/tunnels", host, "X-Forwarded-Host: localhost\r\n"), "%v: %s", args, host)
		}
		for _, host := range []string{"localhost:" + port, "LOCALHOST", "127.0.0.1:" + port, "192.0.2.1", "[::1]:" + port, "[::1]"} {
			require.Equal(t, http.StatusOK, ask(t, addr, "/tunnels", host, ""), "%v: %s", args, host)
		}
	}

	d, err := newDemo(discard(), "demo.example:8080")
	require.NoError(t, err)
	defer d.close()
	d.serve(nil)
	own := d.listener.Addr().String()
	require.Equal(t, http.StatusOK, ask(t, own, "/", "demo.example:8080", ""), "the host of -listen")
	require.Equal(t, http.StatusForbidden, ask(t, own, "/", "evil.example:8080", ""), "a page may know the demo's own port too")
	require.Equal(t, http.StatusForbidden, ask(t, own, "/", "evil.example:8080", "X-Forwarded-Host: localhost\r\n"))
}
