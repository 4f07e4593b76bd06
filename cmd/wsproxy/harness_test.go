package main

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/wsproxy/internal/frame"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A command is a run of the command that a test drives.
type command struct {
	line      string          // the first of standard output
	stdout    *testkit.Buffer // the other lines
	url, addr string          // the address in line
	signals   chan os.Signal
	stderr    *testkit.Buffer
	exited    chan int
}

// start runs the command on a free port until the test ends it, or ends.
func start(t *testing.T, args ...string) *command {
	t.Helper()
	r, stdout := io.Pipe()
	c := &command{signals: make(chan os.Signal, 4), stdout: &testkit.Buffer{}, stderr: &testkit.Buffer{}, exited: make(chan int, 1)}
	go func() {
		c.exited <- run(c.signals, append([]string{"-listen", "localhost:0"}, args...), stdout, c.stderr)
		stdout.Close()
	}()
	lines := bufio.NewReader(r)
	line, err := lines.ReadString('\n')
	require.NoError(t, err, c.stderr)
	go io.Copy(c.stdout, lines) // until the command exits
	t.Cleanup(func() {
		c.signals <- os.Interrupt
		c.signals <- os.Interrupt
		c.exit(t)
	})
	c.setURL(t, line)
	return c
}

func (c *command) setURL(t *testing.T, line string) {
	rest, ok := strings.CutPrefix(line, "wsproxy: ")
	require.True(t, ok, line)
	c.line = line
	c.url, _, _ = strings.Cut(rest, " ")
	scheme, addr, _ := strings.Cut(c.url, "://")
	c.addr, _, _ = strings.Cut(addr, "/") // a route's path
	c.url = scheme + "://" + c.addr
}

// exit waits for the command to exit and returns its status.
func (c *command) exit(t *testing.T) int {
	t.Helper()
	select {
	case status := <-c.exited:
		c.exited <- status
		return status
	case <-time.After(testkit.Patience):
		require.Fail(t, "the command does not exit", testkit.Stacks())
		return -1
	}
}

// status runs the command with arguments that do not let it start.
func status(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs testkit.Buffer
	exited := make(chan int, 1)
	signals := make(chan os.Signal, 2)
	go func() { exited <- run(signals, args, &out, &errs) }()
	select {
	case status = <-exited:
		return status, out.String(), errs.String()
	case <-time.After(testkit.Patience):
		signals <- os.Interrupt
		signals <- os.Interrupt
		<-exited
		require.Fail(t, "the command started: "+out.String())
		return -1, "", ""
	}
}

// serve runs an upstream and returns its URL.
func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s.URL
}

// The sample handshake of RFC 6455, section 1.3.
const (
	upgradeFields = "Connection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)

// switches is an upstream that accepts every upgrade and sends its end of the
// tunnel to the test.
func switches(t *testing.T) (url string, conns <-chan net.Conn) {
	t.Helper()
	ends := make(chan net.Conn, 100)
	url = serve(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if assert.NoError(t, err) {
			io.WriteString(conn, testkit.SampleSwitch)
			ends <- conn
		}
	})
	t.Cleanup(func() {
		for len(ends) > 0 {
			(<-ends).Close()
		}
	})
	return url, ends
}

// dial connects to the command; testkit.Patience bounds every read and write.
func (c *command) dial(t *testing.T) *peer {
	t.Helper()
	conn, err := net.Dial("tcp", c.addr)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(testkit.Patience))
	if strings.HasPrefix(c.url, "https:") {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
	}
	return &peer{testkit.NewPeer(conn)}
}

// ask sends a GET with the given field lines and returns the response's header.
func (c *command) ask(t *testing.T, path, fields string) (*peer, *http.Response) {
	t.Helper()
	p := c.dial(t)
	_, err := io.WriteString(p, "GET "+path+" HTTP/1.1\r\nHost: "+c.addr+"\r\n"+fields+"\r\n")
	require.NoError(t, err)
	res, err := http.ReadResponse(p.Reader, nil)
	require.NoError(t, err)
	return p, res
}

// tunnel opens a tunnel and returns both its ends.
func (c *command) tunnel(t *testing.T, conns <-chan net.Conn) (client, server *peer) {
	t.Helper()
	client, res := c.ask(t, "/", upgradeFields)
	require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	conn := <-conns
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(testkit.Patience))
	return client, &peer{testkit.NewPeer(conn)}
}

const closedTunnel = `msg="tunnel closed"` // at -log debug

// forgets waits until n tunnels have ended and are no longer counted. The log
// reports the end a little earlier.
func (c *command) forgets(t *testing.T, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		return strings.Count(c.stderr.String(), closedTunnel) == n && !strings.Contains(testkit.Stacks(), "wsproxy.(*Tunnel).finish(")
	}, testkit.Patience, time.Millisecond, "want %d tunnels to end", n)
}

// get fetches a path of the command.
func (c *command) get(t *testing.T, path, fields string) (status int, body string) {
	t.Helper()
	p, res := c.ask(t, path, "Connection: close\r\n"+fields)
	defer p.Close()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(b)
}

// ended waits until the client's end of a tunnel is closed.
func (p *peer) ended(t *testing.T) {
	t.Helper()
	_, err := io.Copy(io.Discard, p.Reader)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the tunnel stays open")
}

const (
	text   = frame.OpText
	binary = frame.OpBinary
	closes = frame.OpClose
	pings  = frame.OpPing
)

// sendFrame writes a message as a client does, with the masking key of zeros.
func (p *peer) sendFrame(t *testing.T, opcode byte, payload string) {
	t.Helper()
	_, err := p.Write(frame.Append(nil, frame.Header{Fin: true, Opcode: opcode, Masked: true}, []byte(payload)))
	require.NoError(t, err)
}

// reply writes a message as a server does.
func (p *peer) reply(t *testing.T, opcode byte, payload string) {
	t.Helper()
	_, err := p.Write(frame.Append(nil, frame.Header{Fin: true, Opcode: opcode}, []byte(payload)))
	require.NoError(t, err)
}

// frame reads a frame.
func (p *peer) frame(t *testing.T) (opcode byte, got string) {
	t.Helper()
	var h frame.Header
	for size, whole := 2, false; !whole; {
		b, err := p.Reader.Peek(size)
		require.NoError(t, err)
		h, size, whole = frame.Parse(b)
		if whole {
			p.Reader.Discard(size)
		}
	}
	require.True(t, h.Fin && h.RSV == 0, "want a whole message without extensions")
	payload := make([]byte, h.Length)
	_, err := io.ReadFull(p.Reader, payload)
	require.NoError(t, err)
	if h.Masked {
		frame.Mask(payload, h.Key)
	}
	return h.Opcode, string(payload)
}

// wantClose reads the proxy's Close frame, which must have the payload want.
func (p *peer) wantClose(t *testing.T, want string) {
	t.Helper()
	opcode, payload := p.frame(t)
	require.Equal(t, byte(closes), opcode)
	require.Equal(t, want, payload)
}

// goodbye is the payload of the proxy's Close frame when it drains.
const goodbye = "\x03\xe9shutting down"

// A peer is either end of a connection to the command.
type peer struct{ *testkit.Peer }

func TestMain(m *testing.M) {
	if os.Getenv(commandVariable) != "" {
		main() // the test binary as the command, for a test in another process
	}
	if signal.Ignored(syscall.SIGHUP) { // under nohup; processes of the tests would inherit that
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
	testkit.Main(m)
}

const commandVariable = "WSPROXY_TEST_COMMAND"
