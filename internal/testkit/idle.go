package testkit

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/wsproxy"
)

// OpenIdle opens n tunnels that hold no descriptor, for tests of very many. Their
// ends are silent. change may give each request another path or address.
func OpenIdle(t testing.TB, n int, change func(i int, r *http.Request), opts ...wsproxy.Option) *wsproxy.Proxy {
	t.Helper()
	p := NewProxy(t, "http://upstream", append([]wsproxy.Option{
		wsproxy.WithDetached(), wsproxy.WithReadTimeout(0), wsproxy.WithSendTimeout(0), wsproxy.WithCloseTimeout(0),
		wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) {
			return newIdleConn(SampleSwitch), nil
		})}, opts...)...)
	for i := range n {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(SampleRequest)))
		if err != nil {
			t.Fatal(err)
		}
		r.RemoteAddr = fmt.Sprintf("192.0.%d.%d:1", i>>8&255, i&255)
		if change != nil {
			change(i, r)
		}
		p.ServeHTTP(idleClient{httptest.NewRecorder()}, r)
	}
	if live := p.Stats().Live; live != n {
		t.Fatalf("%d tunnels are open, want %d", live, n)
	}
	return p
}

// An idleClient is a ResponseWriter whose connection is an idleConn.
type idleClient struct{ *httptest.ResponseRecorder }

func (idleClient) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c := newIdleConn("")
	return c, bufio.NewReadWriter(bufio.NewReaderSize(c, 16), bufio.NewWriterSize(c, 16)), nil
}

// An idleConn is a connection whose other end sends first, and then nothing.
type idleConn struct {
	first  io.Reader
	closed chan struct{}
	close  sync.Once
}

func newIdleConn(first string) *idleConn {
	return &idleConn{first: strings.NewReader(first), closed: make(chan struct{})}
}

func (c *idleConn) Read(b []byte) (int, error) {
	if n, err := c.first.Read(b); err == nil {
		return n, nil
	}
	<-c.closed
	return 0, io.EOF
}

func (c *idleConn) Write(b []byte) (int, error)      { return len(b), nil }
func (c *idleConn) Close() error                     { c.close.Do(func() { close(c.closed) }); return nil }
func (c *idleConn) CloseWrite() error                { return nil }
func (c *idleConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *idleConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *idleConn) SetDeadline(time.Time) error      { return nil }
func (c *idleConn) SetReadDeadline(time.Time) error  { return nil }
func (c *idleConn) SetWriteDeadline(time.Time) error { return nil }
