package handshake_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A common way to rewrite a body reads the old one in a goroutine. The proxy
// returned the body's reader to the pool while that goroutine used it, and the
// process crashed with a nil pointer in bufio.
func TestABodyThatModifyResponseKeepsReadingOutlivesItsResponse(t *testing.T) {
	copied := make(chan struct{}, 100)
	r := testkit.PlainLink.Start(t, nil, wsproxy.WithModifyResponse(func(res *http.Response) error {
		old := res.Body
		pr, pw := io.Pipe()
		res.Body = pr
		go func() {
			// Byte by byte, so that most reads are served from the reader's
			// buffer.
			for b := make([]byte, 1); ; {
				n, err := old.Read(b)
				if err != nil {
					pw.CloseWithError(err)
					copied <- struct{}{}
					return
				}
				pw.Write(b[:n])
			}
		}()
		return nil
	}))
	const requests = 20
	for range requests {
		client := r.Dial(t)
		client.Send(t, testkit.SampleRequest)
		server := r.Upstream.Accept(t)
		server.Request(t)
		server.Send(t, "HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"+strings.Repeat("x", 3000))
		assert.Equal(t, http.StatusOK, client.Response(t).StatusCode)
		client.Close()
		server.Rest(t, "the upstream's")
	}
	for range requests {
		testkit.Within(t, copied, "the user's goroutine ends")
	}
}

// Such a response takes no slot for a tunnel. Close does not end it, just as it
// does not end the response to a plain request.
func TestCloseDoesNotInterruptARefusal(t *testing.T) {
	for name, request := range map[string]string{
		"upgrade": testkit.SampleRequest,
		"plain":   "GET /chat HTTP/1.1\r\nHost: server.example.com\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			r := testkit.PlainLink.Start(t, nil)
			client := r.Dial(t)
			client.Send(t, request)
			server := r.Upstream.Accept(t)
			server.Request(t)
			server.Send(t, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
			res := client.Response(t)
			first := make([]byte, 5)
			_, err := io.ReadFull(res.Body, first)
			require.NoError(t, err)
			require.NoError(t, r.Proxy.Close())
			require.NoError(t, r.Proxy.Shutdown(context.Background()))
			server.Send(t, "world")
			assert.Equal(t, "world", testkit.Body(t, res))
		})
	}
}

// An exitingHandler is a slog.Handler that ends the goroutine at one message,
// as a failed require in a test's handler does.
type exitingHandler struct {
	slog.Handler
	message string
}

func (h exitingHandler) Enabled(context.Context, slog.Level) bool { return true }

func (h exitingHandler) Handle(_ context.Context, r slog.Record) error {
	if r.Message == h.message {
		runtime.Goexit()
	}
	return nil
}

// It leaked the tunnel, for which Shutdown then waited.
func TestALoggerThatExitsItsGoroutineFailsOnlyItsTunnel(t *testing.T) {
	for message, want := range map[string]wsproxy.Reason{
		"tunnel opened": wsproxy.ReasonFailed,
		"tunnel closed": wsproxy.ReasonClientClosed,
	} {
		for mode, opts := range map[string][]wsproxy.Option{"blocking": nil, "detached": {wsproxy.WithDetached()}} {
			t.Run(message+", "+mode, func(t *testing.T) {
				ended, opened := testkit.NewEndings(), make(chan struct{}, 1)
				u := testkit.NewUpstream(t)
				p, addr := testkit.ServeProxy(t, u.URL, append(opts,
					testkit.OnOpen(func(*wsproxy.Tunnel, *http.Request) { opened <- struct{}{} }), testkit.OnClose(func(_ *wsproxy.Tunnel, e wsproxy.Ending) { ended <- e }),
					wsproxy.WithLogger(slog.New(exitingHandler{slog.DiscardHandler, message})))...)
				client := testkit.Dial(t, addr)
				client.Send(t, testkit.SampleRequest)
				server := u.Accept(t)
				server.Request(t)
				server.Send(t, testkit.SampleSwitch)
				testkit.Within(t, opened, "OnOpen is called")
				if message == "tunnel closed" {
					assert.Equal(t, 101, client.Response(t).StatusCode)
					client.Close()
				}
				server.Rest(t, "the upstream's")
				server.Close()
				assert.Equal(t, want, ended.Next(t).Reason)
				assert.NoError(t, p.Shutdown(context.Background()), "no tunnel is left to wait for")
			})
		}
	}
}

// The next server kept a slot reserved for a tunnel that was never opened.
func TestALoggerThatExitsItsGoroutineForAFailedServerLeaksNoSlot(t *testing.T) {
	u := testkit.NewUpstream(t)
	servers, err := wsproxy.NewUpstream(wsproxy.RoundRobin(),
		wsproxy.Server{Addr: testkit.RefusingAddr(t)}, wsproxy.Server{Addr: u.Addr, Backup: true})
	require.NoError(t, err)
	_, addr := testkit.ServeProxy(t, "http://servers", wsproxy.WithUpstream(servers),
		wsproxy.WithLogger(slog.New(exitingHandler{slog.DiscardHandler, "server failed, trying the next"})))
	client := testkit.Dial(t, addr)
	client.Send(t, testkit.SampleRequest)
	client.Rest(t, "the client's")
	for _, s := range servers.Servers() {
		assert.Zero(t, s.Tunnels, s.Addr)
	}
}
