package testkit

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"example.com/wsproxy"
)

// NewProxy returns a Proxy that logs nothing. The test's end closes its tunnels
// and checks that none is left.
func NewProxy(t testing.TB, target string, opts ...wsproxy.Option) *wsproxy.Proxy {
	t.Helper()
	p, err := wsproxy.New(target, append([]wsproxy.Option{wsproxy.WithLogger(slog.New(slog.DiscardHandler))}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Shutdown(EndedContext())
		if live := p.Stats().Live; live != 0 {
			t.Errorf("%d live tunnels after Shutdown", live)
		}
	})
	return p
}

// ServeProxy serves a new Proxy and returns both it and its host:port.
func ServeProxy(t testing.TB, target string, opts ...wsproxy.Option) (*wsproxy.Proxy, string) {
	t.Helper()
	p := NewProxy(t, target, opts...)
	return p, Serve(t, p)
}

// Serve serves h on loopback and returns its host:port.
func Serve(t testing.TB, h http.Handler) string {
	t.Helper()
	return serve(t, h, (*httptest.Server).Start).Listener.Addr().String()
}

func serve(t testing.TB, h http.Handler, start func(*httptest.Server)) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	start(s)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

// OnlyTunnel returns p's one live tunnel.
func OnlyTunnel(t testing.TB, p *wsproxy.Proxy) (tunnel *wsproxy.Tunnel) {
	t.Helper()
	n := 0
	for each := range p.Tunnels() {
		tunnel = each
		n++
	}
	if n != 1 {
		t.Fatalf("%d tunnels are live, want 1", n)
	}
	return tunnel
}

// Servers returns an upstream of several servers.
func Servers(t testing.TB, policy wsproxy.Policy, servers ...wsproxy.Server) *wsproxy.Upstream {
	t.Helper()
	u, err := wsproxy.NewUpstream(policy, servers...)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// EndedContext returns a context that is done.
func EndedContext() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// WithContext returns a middleware that replaces the context of each request.
func WithContext(ctx context.Context) func(http.Handler) http.Handler {
	return func(h http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(w, r.WithContext(ctx)) })
	}
}
