package options_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWithDialContextConnectsToTheUpstream(t *testing.T) {
	u := testkit.NewUpstream(t)
	var mu sync.Mutex
	var dialed []string
	dialer := func(ctx context.Context, network, addr string) (net.Conn, error) {
		_, limited := ctx.Deadline()
		mu.Lock()
		defer mu.Unlock()
		dialed = append(dialed, fmt.Sprint(network, " ", addr, " ", limited))
		return new(net.Dialer).DialContext(ctx, "tcp", u.Addr)
	}
	for target, want := range map[string]string{
		"http://app.example":           "tcp app.example:80 true",
		"ws://[2001:db8::1]:8080":      "tcp [2001:db8::1]:8080 true",
		"http://unix:/run/app.sock:/x": "unix /run/app.sock true",
	} {
		_, addr := testkit.ServeProxy(t, target, wsproxy.WithDialContext(dialer))
		testkit.BothKinds(t, func(t *testing.T, request func(string, ...string) string, _ func(http.Header) http.Header) {
			u.RawReceived(t, addr, request("/"))
			mu.Lock()
			defer mu.Unlock()
			assert.Equal(t, []string{want}, dialed)
			dialed = nil
		})
	}
}

func TestAFailedDialCauses502AndItsErrorIsWrapped(t *testing.T) {
	broken := errors.New("broken")
	errs := make(chan error, 1)
	_, addr := testkit.ServeProxy(t, "http://app.example",
		wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) { return nil, broken }),
		wsproxy.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, err error) {
			errs <- err
			w.WriteHeader(wsproxy.StatusCode(err))
		}))
	testkit.BothKinds(t, func(t *testing.T, request func(string, ...string) string, _ func(http.Header) http.Header) {
		res, _ := testkit.Do(t, addr, request("/"))
		assert.Equal(t, http.StatusBadGateway, res.StatusCode)
		err := <-errs
		assert.ErrorIs(t, err, broken)
		assert.ErrorIs(t, err, wsproxy.ErrUpstream)
	})
}

// unixListener listens on a socket whose path is short enough everywhere.
func unixListener(t testing.TB) (net.Listener, string) {
	t.Helper()
	path := filepath.Join(testkit.SocketDir(t), "s")
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	return l, path
}

func TestClientsAndTargetsCanBeOnUnixSockets(t *testing.T) {
	upstreamListener, upstreamPath := unixListener(t)
	frontListener, frontPath := unixListener(t)
	requests := make(chan *http.Request, 1)
	upstream := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { requests <- r })}
	p := testkit.NewProxy(t, "http://unix:"+upstreamPath+":/base?k=1", wsproxy.WithTrustedProxies("unix:"), wsproxy.WithForwarded())
	targetHost := testkit.NewProxy(t, "http://unix:"+upstreamPath, wsproxy.WithTargetHost())
	mux := http.NewServeMux()
	mux.Handle("/", p)
	mux.Handle("/host/", targetHost)
	front := &http.Server{Handler: mux, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)}
	for server, l := range map[*http.Server]net.Listener{upstream: upstreamListener, front: frontListener} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			server.Serve(l)
		}()
		t.Cleanup(func() {
			server.Close()
			<-done
		})
	}
	send := func(t *testing.T, request string) *http.Request {
		conn, err := net.Dial("unix", frontPath)
		require.NoError(t, err)
		defer conn.Close()
		client := testkit.NewPeer(conn)
		client.Send(t, request)
		require.Equal(t, http.StatusOK, client.Response(t).StatusCode)
		return <-requests
	}
	testkit.BothKinds(t, func(t *testing.T, request func(string, ...string) string, header func(http.Header) http.Header) {
		r := send(t, request("/a%2Fb?x", "X-Forwarded-For: 203.0.113.2, 203.0.113.3", "X-Forwarded-Proto: https"))
		assert.Equal(t, header(http.Header{"X-Real-Ip": {"203.0.113.3"}, "X-Forwarded-For": {"203.0.113.2, 203.0.113.3, unknown"},
			"X-Forwarded-Proto": {"https"}, "Forwarded": {"for=unknown;host=server.example.com;proto=http"}}), r.Header)
		assert.Equal(t, "/base/a%2Fb?k=1&x", r.RequestURI)
		assert.Equal(t, "server.example.com", r.Host)

		r = send(t, request("/host/", "X-Real-IP: 203.0.113.2"))
		assert.Equal(t, header(http.Header{"X-Real-Ip": nil, "X-Forwarded-For": {"unknown"}}), r.Header, "not named, not trusted")
		assert.Equal(t, "localhost", r.Host)
	})
}
