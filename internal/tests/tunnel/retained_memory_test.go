package tunnel_test

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"regexp"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"unsafe"
	"weak"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A header of 1 MB cost 1.7 MB while its tunnel was open, because net/http
// keeps the request of a running handler. A detached tunnel must not keep it.
func TestADetachedTunnelRetainsNothingOfItsRequest(t *testing.T) {
	testkit.OverLinks(t, testkit.OwnSocket, func(t *testing.T, l testkit.Link) {
		type key struct{}
		type value struct{ _ [64]byte }
		kinds := []string{"the request", "its header", "its URL", "its context", "a value of the context", "what middleware added"}
		const n = 4
		collected := make([]atomic.Int32, len(kinds))
		count := func(kind int) { collected[kind].Add(1) }
		middleware := func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				runtime.AddCleanup(r, count, 0)
				runtime.AddCleanup(unsafe.StringData(r.Header.Get("X-Large")), count, 1)
				runtime.AddCleanup(unsafe.StringData(r.RequestURI), count, 2)
				ctx, cancel := context.WithCancel(context.WithValue(r.Context(), key{}, new(value)))
				defer cancel()
				r = r.WithContext(ctx)
				runtime.AddCleanup(r, count, 3)
				runtime.AddCleanup(ctx.Value(key{}).(*value), count, 4)
				added := strings.Repeat("a", 1000)
				r.Header.Set("X-Added", added)
				runtime.AddCleanup(unsafe.StringData(added), count, 5)
				next.ServeHTTP(w, r)
			})
		}
		// Without a connect timeout, because the runtime may keep a stopped timer,
		// and so the context of a dial, until other timers expire.
		r := l.Start(t, middleware, wsproxy.WithDetached(), wsproxy.WithConnectTimeout(0))
		path := "/" + strings.Repeat("p", 10_000)
		request := strings.Replace(testkit.SampleRequest, "/chat", path, 1)
		request = strings.Replace(request, "\r\n\r\n", "\r\nX-Large: "+strings.Repeat("x", 100_000)+"\r\n\r\n", 1)
		for range n {
			client := r.Dial(t)
			client.Send(t, request)
			server := r.Upstream.Accept(t)
			server.Request(t)
			server.Send(t, testkit.SampleSwitch)
			require.Equal(t, http.StatusSwitchingProtocols, client.Response(t).StatusCode)
		}
		for tunnel := range r.Proxy.Tunnels() {
			assert.Equal(t, path[:4<<10], tunnel.Path())
			assert.NotZero(t, tunnel.ID())
			assert.NotEmpty(t, tunnel.Server())
		}
		for kind, name := range kinds {
			testkit.Eventually(t, func() bool {
				runtime.GC()
				return collected[kind].Load() == n
			}, "of %d tunnels' requests, %s is retained", n, name)
		}
		assert.Equal(t, n, r.Proxy.Stats().Live)
	})
}

// A client could make each tunnel hold as many bytes as the server accepts in a
// request line.
func TestATunnelKeepsAtMost4KiBOfAPath(t *testing.T) {
	paths := make(chan string, 1)
	r := testkit.PlainLink.Start(t, nil, testkit.OnOpen(func(t *wsproxy.Tunnel, _ *http.Request) { paths <- t.Path() }))
	for size, want := range map[int]int{1: 1, 4096: 4096, 4097: 4096, 100_000: 4096} {
		path := "/" + strings.Repeat("p", size-1)
		client := r.Dial(t)
		client.Send(t, strings.Replace(testkit.SampleRequest, "/chat", path, 1))
		server := r.Upstream.Accept(t)
		assert.Equal(t, path, server.Request(t).URL.Path, "what the upstream is asked for")
		server.Send(t, testkit.SampleSwitch)
		assert.Equal(t, path[:want], <-paths)
	}
}

// Tunnels that open one after the other with the same names share them, and a later
// tunnel must not change those of an earlier one.
func TestEachTunnelHasItsOwnNames(t *testing.T) {
	opened := make(chan *wsproxy.Tunnel, 1)
	r := testkit.PlainLink.Start(t, nil, testkit.OnOpen(func(t *wsproxy.Tunnel, _ *http.Request) { opened <- t }))
	var got [][3]string
	var tunnels []*wsproxy.Tunnel
	asked := [][3]string{{"/a", "one.test", ""}, {"/a", "one.test", ""}, {"/b", "one.test", ""}, {"/b", "two.test", ""},
		{"/b", "two.test", "chat"}, {"/b", "two.test", ""}, {"/a", "one.test", ""}}
	for _, names := range asked {
		client := r.Dial(t)
		request := strings.Replace(testkit.SampleRequest, "/chat", names[0], 1)
		client.Send(t, regexp.MustCompile(`Host: [^\r]*`).ReplaceAllString(request, "Host: "+names[1]))
		server := r.Upstream.Accept(t)
		server.Request(t)
		server.Send(t, strings.Replace(testkit.SampleSwitch, "\r\n\r\n", "\r\nSec-WebSocket-Protocol: "+names[2]+"\r\n\r\n", 1))
		tunnels = append(tunnels, <-opened)
	}
	for _, tunnel := range tunnels {
		got = append(got, [3]string{tunnel.Path(), tunnel.Host(), tunnel.Subprotocol()})
	}
	assert.Equal(t, asked, got)
}

// A bufferSpy is a ResponseWriter that keeps weak pointers to the reader and the
// writer that Hijack returns.
type bufferSpy struct {
	http.ResponseWriter
	reader *weak.Pointer[bufio.Reader]
	writer *weak.Pointer[bufio.Writer]
}

func (s bufferSpy) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, brw, err := http.NewResponseController(s.ResponseWriter).Hijack()
	if err == nil {
		*s.reader, *s.writer = weak.Make(brw.Reader), weak.Make(brw.Writer)
	}
	return conn, brw, err
}

// net/http keeps the hijacked reader, and since Go 1.26 the writer, until the
// handler returns, which is when the tunnel has ended: with their buffers, each
// tunnel held 8 KiB that nobody used.
func TestTheReaderAndTheWriterThatNetHTTPKeepsHoldNoBuffer(t *testing.T) {
	for _, l := range []testkit.Link{testkit.PlainLink, {Name: "TLS client", TLSClient: true}} {
		t.Run(l.Name, func(t *testing.T) {
			var reader weak.Pointer[bufio.Reader]
			var writer weak.Pointer[bufio.Writer]
			opened := make(chan struct{}) // closed after the last use of both
			r := l.Start(t, func(next http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					next.ServeHTTP(bufferSpy{w, &reader, &writer}, r)
				})
			}, testkit.OnOpen(func(*wsproxy.Tunnel, *http.Request) { close(opened) }))
			r.Tunnel(t)
			testkit.Within(t, opened, "OnOpen is called")
			runtime.GC()
			kept := reader.Value()
			require.NotNil(t, kept, "net/http has released the reader: hijack need not replace its buffer any more")
			assert.LessOrEqual(t, kept.Size(), 16, "bytes of buffer in the reader")
			if kept := writer.Value(); kept != nil {
				assert.LessOrEqual(t, kept.Size(), 16, "bytes of buffer in the writer")
			}
		})
	}
}
