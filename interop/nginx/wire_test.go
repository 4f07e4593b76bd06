package nginx_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

// A peer is one end of a connection, driven byte by byte.
type peer struct {
	net.Conn
	raw net.Conn // below TLS
	br  *bufio.Reader
}

func newPeer(conn, raw net.Conn) *peer { return &peer{conn, raw, bufio.NewReader(conn)} }

func (p *peer) Read(b []byte) (int, error) { return p.br.Read(b) }

func (p *peer) send(t testing.TB, s string) {
	t.Helper()
	_, err := io.WriteString(p, s)
	require.NoError(t, err)
}

// expect reads exactly want.
func (p *peer) expect(t testing.TB, want string) {
	t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(p, got)
	require.NoError(t, err, "read %q, want %q", got[:n], want)
	require.Equal(t, want, string(got))
}

func (p *peer) closeWrite(t testing.TB) {
	t.Helper()
	require.NoError(t, p.Conn.(interface{ CloseWrite() error }).CloseWrite())
}

func (p *peer) reset() {
	p.raw.(*net.TCPConn).SetLinger(0)
	p.raw.Close()
}

// rest reads until the connection ends, and returns the bytes and how it ended.
func (p *peer) rest() string {
	p.SetDeadline(time.Now().Add(testkit.Patience))
	got, err := io.ReadAll(p)
	switch {
	case err == nil, errors.Is(err, io.ErrUnexpectedEOF): // TLS without close_notify
		return fmt.Sprintf("%q, EOF", got)
	case errors.Is(err, syscall.ECONNRESET):
		return fmt.Sprintf("%q, RST", got)
	}
	return fmt.Sprintf("%q, %v", got, err)
}

// A message is a request or a response as it was on the wire.
type message struct {
	start  string
	fields [][2]string // in their order
	body   string
	conn   int // the number of its connection, at the recorder
}

// all returns the values of the fields with a name, given in lower case.
func (m message) all(name string) []string {
	var values []string
	for _, f := range m.fields {
		if strings.ToLower(f[0]) == name {
			values = append(values, f[1])
		}
	}
	return values
}

func (m message) has(name, token string) bool {
	return strings.Contains(strings.ToLower(strings.Join(m.all(name), ",")), token)
}

func (m message) status() int {
	status := 0
	fmt.Sscanf(m.start, "HTTP/1.%1d %3d", new(int), &status)
	return status
}

// readHead reads a message's start line and fields.
func (p *peer) readHead() (m message, err error) {
	for first := true; ; first = false {
		line, err := p.br.ReadString('\n')
		if err != nil {
			return m, err
		}
		line = strings.TrimSuffix(line, "\r\n")
		name, value, _ := strings.Cut(line, ":")
		switch {
		case first:
			m.start = line
		case line == "":
			return m, nil
		default:
			m.fields = append(m.fields, [2]string{name, strings.TrimLeft(value, " ")})
		}
	}
}

// readBody reads the body that the header announces. A response without a
// length extends to EOF.
func (p *peer) readBody(m *message, response bool) error {
	if m.has("transfer-encoding", "chunked") {
		return p.readChunks(m)
	}
	if length := m.all("content-length"); length != nil {
		n, err := strconv.Atoi(length[0])
		if err != nil {
			return err
		}
		body := make([]byte, n)
		n, err = io.ReadFull(p, body)
		m.body = string(body[:n])
		return err
	}
	if !response {
		return nil
	}
	body, err := io.ReadAll(p)
	m.body = string(body)
	return err
}

func (p *peer) readChunks(m *message) error {
	for {
		line, err := p.br.ReadString('\n')
		if err != nil {
			return err
		}
		size, err := strconv.ParseInt(strings.TrimSpace(line), 16, 32)
		if err != nil {
			return err
		}
		if size == 0 {
			break
		}
		chunk := make([]byte, size+2)
		n, err := io.ReadFull(p, chunk)
		m.body += string(chunk[:min(n, int(size))])
		if err != nil {
			return err
		}
	}
	for {
		line, err := p.br.ReadString('\n')
		if err != nil || line == "\r\n" {
			return err
		}
		m.body += " [trailer " + strings.TrimSpace(line) + "]"
	}
}

// response reads the final response to a request, and the informational ones
// before it.
func (p *peer) response(method string) (informational []string, m message, err error) {
	for {
		if m, err = p.readHead(); err != nil {
			return informational, m, err
		}
		if s := m.status(); s >= 200 || s == 101 || s == 0 {
			break
		}
		informational = append(informational, fmt.Sprint(m.start, m.fields))
	}
	if s := m.status(); method == "HEAD" || s == 101 || s == 204 || s == 304 {
		return informational, m, nil
	}
	return informational, m, p.readBody(&m, true)
}
