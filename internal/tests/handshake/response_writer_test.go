package handshake_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

func TestMiddlewareSeesTheHeaderOfThe101AfterServeHTTPReturns(t *testing.T) {
	for name, opts := range map[string][]wsproxy.Option{"blocking": nil, "detached": {wsproxy.WithDetached()}} {
		t.Run(name, func(t *testing.T) {
			found := make(chan http.Header, 1)
			r := testkit.PlainLink.Start(t, func(h http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("X-Own", "1")
					h.ServeHTTP(w, r)
					found <- w.Header()
				})
			}, append(opts, wsproxy.WithModifyResponse(func(res *http.Response) error {
				res.Header.Set("X-Modified", "2")
				return nil
			}))...)
			client, server := r.Tunnel(t)
			client.Close()
			server.Close()
			header := testkit.Within(t, found, "ServeHTTP does not return")
			for field, value := range map[string]string{"X-Own": "1", "X-Modified": "2", "Sec-WebSocket-Accept": testkit.SampleAccept} {
				assert.Equal(t, value, header.Get(field), field)
			}
		})
	}
}

// A handedOver is a ResponseWriter that records each use after its connection
// was hijacked.
type handedOver struct {
	http.ResponseWriter
	dead     bool // the connection is closed before it is hijacked
	hijacked atomic.Bool
	touched  chan string
}

func (h *handedOver) touch(what string) {
	if h.hijacked.Load() {
		h.touched <- what
	}
}

func (h *handedOver) Header() http.Header {
	h.touch("Header")
	return h.ResponseWriter.Header()
}

func (h *handedOver) WriteHeader(status int) {
	h.touch(fmt.Sprint("WriteHeader ", status))
	h.ResponseWriter.WriteHeader(status)
}

func (h *handedOver) Write(b []byte) (int, error) {
	h.touch(fmt.Sprintf("Write %q", b))
	return h.ResponseWriter.Write(b)
}

func (h *handedOver) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, brw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	h.touch("Hijack")
	h.hijacked.Store(true)
	if h.dead && err == nil {
		conn.Close()
	}
	return conn, brw, err
}

// golang/go#72954
func TestNothingTouchesTheResponseWriterAfterTheHijack(t *testing.T) {
	cancelled := make(chan context.CancelFunc, 1)
	cases := []struct {
		name string
		dead bool
		opts []wsproxy.Option
		end  func(p *wsproxy.Proxy, client, server *testkit.Peer)
	}{
		{"the client closes", false, nil, func(_ *wsproxy.Proxy, client, _ *testkit.Peer) { client.Close() }},
		{"the upstream resets", false, nil, func(_ *wsproxy.Proxy, _, server *testkit.Peer) { server.Reset() }},
		{"the proxy is closed", false, nil, func(p *wsproxy.Proxy, _, _ *testkit.Peer) { p.Close() }},
		{"the context ends", false, nil, func(p *wsproxy.Proxy, client, _ *testkit.Peer) {
			(<-cancelled)()
			client.Close() // ends the detached tunnel; the context does not
		}},
		{"the client has disconnected", true, nil, func(*wsproxy.Proxy, *testkit.Peer, *testkit.Peer) {}},
		{"a hook panics", false, []wsproxy.Option{testkit.OnOpen(
			func(*wsproxy.Tunnel, *http.Request) { panic("boo") })}, func(*wsproxy.Proxy, *testkit.Peer, *testkit.Peer) {}},
	}
	for mode, detached := range map[string][]wsproxy.Option{"blocking": nil, "detached": {wsproxy.WithDetached()}} {
		for _, c := range cases {
			t.Run(c.name+"/"+mode, func(t *testing.T) {
				touched := make(chan string, 100)
				returned := make(chan struct{})
				cancelled = make(chan context.CancelFunc, 1)
				r := testkit.PlainLink.Start(t, func(h http.Handler) http.Handler {
					return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						defer close(returned)
						ctx, cancel := context.WithCancel(r.Context())
						defer cancel()
						cancelled <- cancel
						h.ServeHTTP(&handedOver{ResponseWriter: w, dead: c.dead, touched: touched}, r.WithContext(ctx))
					})
				}, append(c.opts, detached...)...)
				client := r.Dial(t)
				client.Send(t, testkit.SampleRequest)
				server := r.Upstream.Accept(t)
				server.Request(t)
				server.Send(t, testkit.SampleSwitch)
				if res, err := http.ReadResponse(client.Reader, nil); err == nil {
					assert.Equal(t, 101, res.StatusCode)
				}
				c.end(r.Proxy, client, server)
				server.Read(make([]byte, 1))
				server.Close()
				testkit.Within(t, returned, "ServeHTTP does not return")
				testkit.Eventually(t, func() bool { return r.Proxy.Stats().Live == 0 }, "the tunnel stays")
				close(touched)
				for what := range touched {
					assert.Fail(t, "the ResponseWriter is used after the hijack", what)
				}
			})
		}
	}
}
