package wsdebug_test

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
	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/wsdebug"
)

// An idleConn is a connection whose other end sends first and is then silent. It
// holds no descriptor and no buffer.
type idleConn struct {
	first  io.Reader
	silent chan struct{} // closed by Close
	close  sync.Once
}

func newIdleConn(first string) *idleConn {
	return &idleConn{first: strings.NewReader(first), silent: make(chan struct{})}
}

func (c *idleConn) Read(b []byte) (int, error) {
	if n, err := c.first.Read(b); err == nil {
		return n, nil
	}
	<-c.silent
	return 0, io.EOF
}
func (c *idleConn) Write(b []byte) (int, error)      { return len(b), nil }
func (c *idleConn) Close() error                     { c.close.Do(func() { close(c.silent) }); return nil }
func (c *idleConn) CloseWrite() error                { return nil }
func (c *idleConn) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (c *idleConn) RemoteAddr() net.Addr             { return &net.TCPAddr{} }
func (c *idleConn) SetDeadline(time.Time) error      { return nil }
func (c *idleConn) SetReadDeadline(time.Time) error  { return nil }
func (c *idleConn) SetWriteDeadline(time.Time) error { return nil }

// A hijackable is a ResponseWriter whose connection is idle.
type hijackable struct{ *httptest.ResponseRecorder }

func (hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c := newIdleConn("")
	return c, bufio.NewReadWriter(bufio.NewReaderSize(c, 16), bufio.NewWriterSize(c, 16)), nil
}

// openIdle opens n tunnels that need no descriptors.
func openIdle(t testing.TB, n int) *wsproxy.Proxy {
	p := testkit.NewProxy(t, "http://upstream", wsproxy.WithDetached(), wsproxy.WithReadTimeout(0), wsproxy.WithCloseTimeout(0),
		wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) { return newIdleConn(testkit.SampleSwitch), nil }))
	for i := range n {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(testkit.SampleRequest)))
		if err != nil {
			t.Fatal(err)
		}
		r.RemoteAddr = fmt.Sprintf("192.0.%d.%d:1", i>>8&255, i&255)
		r.URL.Path = fmt.Sprintf("/chat/%d", i)
		p.ServeHTTP(hijackable{httptest.NewRecorder()}, r)
	}
	if live := p.Stats().Live; live != n {
		t.Fatalf("%d tunnels are open, want %d", live, n)
	}
	return p
}

// The page visits each tunnel once. Compare it with Stats, which a scrape calls. With
// WSPROXY_STRESS=full it has 100,000 tunnels, else 1,000.
func BenchmarkThePage(b *testing.B) {
	n := testkit.Scale(1000, 100_000)
	p := openIdle(b, n)
	b.Run(fmt.Sprintf("Stats/%d", n), func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			p.Stats()
		}
	})
	h := wsdebug.Handler(p, nil)
	for _, query := range []string{"?", "?sort=path", "?sort=-client_bytes", "?n=0", "?n=1000", "?path=/chat/77", "?format=json"} {
		b.Run(fmt.Sprintf("%s/%d", query, n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/"+query, nil))
				if w.Code != http.StatusOK {
					b.Fatal(w.Body)
				}
			}
		})
	}
}
