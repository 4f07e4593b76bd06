// Package kubernetes_test sends what kubectl and docker use through wsproxy:
// SPDY, raw connections, and WebSockets that carry channels or SPDY.
package kubernetes_test

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
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

func TestMain(m *testing.M) { testkit.Main(m) }

// A front is a proxy before an API server.
type front struct {
	*wsproxy.Proxy
	addr    string
	trust   *tls.Config // if it is https
	endings chan wsproxy.Ending
}

// newFront runs a proxy for api that allows the upgrades of Kubernetes and
// Docker.
func newFront(t *testing.T, secure bool, api http.Handler, opts ...wsproxy.Option) *front {
	f := &front{endings: make(chan wsproxy.Ending, 1)}
	f.Proxy = testkit.NewProxy(t, "http://"+testkit.Serve(t, api), append([]wsproxy.Option{
		wsproxy.WithUpgrades("websocket", "SPDY/3.1", "tcp"),
		testkit.OnClose(func(_ *wsproxy.Tunnel, e wsproxy.Ending) { f.endings <- e }),
	}, opts...)...)
	if secure {
		f.addr, f.trust = testkit.ServeTLS(t, f.Proxy)
	} else {
		f.addr = testkit.Serve(t, f.Proxy)
	}
	return f
}

// bySocketAndTLS runs a test with a client on a plain socket, for which the
// proxy uses its Linux relay if there is one, and with a client on TLS.
func bySocketAndTLS(t *testing.T, test func(t *testing.T, secure bool)) {
	t.Run("http", func(t *testing.T) { test(t, false) })
	t.Run("https", func(t *testing.T) { test(t, true) })
}

// url returns the front's address with the scheme for a WebSocket or other
// client.
func (f *front) url(scheme, path string) string {
	if f.trust != nil {
		scheme += "s"
	}
	return scheme + "://" + f.addr + path
}

// ending returns how the tunnel ended.
func (f *front) ending(t *testing.T) wsproxy.Ending {
	t.Helper()
	select {
	case e := <-f.endings:
		return e
	case <-time.After(testkit.Patience):
		require.Fail(t, "the tunnel did not end")
		return wsproxy.Ending{}
	}
}

// A stream is a connection whose first bytes are in a bufio.Reader.
type stream struct {
	net.Conn
	br *bufio.Reader
}

func (s *stream) Read(p []byte) (int, error) { return s.br.Read(p) }

func (s *stream) CloseWrite() error {
	return s.Conn.(interface{ CloseWrite() error }).CloseWrite()
}

// ask sends a request line with a header, given line by line, and a body. It
// returns the response and the connection.
func (f *front) ask(t *testing.T, line string, header []string, body string) (*http.Response, *stream) {
	t.Helper()
	conn, err := net.Dial("tcp", f.addr)
	require.NoError(t, err)
	if f.trust != nil {
		f.trust.ServerName = "example.com"
		conn = tls.Client(conn, f.trust)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(testkit.Patience))
	lines := append([]string{line + " HTTP/1.1", "Host: cluster.example"}, header...)
	_, err = io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\n\r\n"+body)
	require.NoError(t, err)
	s := &stream{conn, bufio.NewReader(conn)}
	res, err := http.ReadResponse(s.br, &http.Request{Method: strings.Fields(line)[0]})
	require.NoError(t, err)
	t.Cleanup(func() { res.Body.Close() })
	return res, s
}

// switchTo responds with a 101 and a header, given line by line, and returns
// the connection.
func switchTo(w http.ResponseWriter, status string, header ...string) (*stream, error) {
	conn, brw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(testkit.Patience))
	lines := append([]string{"HTTP/1.1 101 " + status, "Connection: Upgrade"}, header...)
	if _, err := io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\n\r\n"); err != nil {
		conn.Close()
		return nil, err
	}
	return &stream{conn, brw.Reader}, nil
}
