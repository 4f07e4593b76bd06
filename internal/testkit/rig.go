package testkit

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"example.com/wsproxy"
)

// A Rig is a served proxy and its upstream, both ends of which a test drives.
type Rig struct {
	Proxy    *wsproxy.Proxy
	Addr     string
	Upstream *Upstream
	TLS      *tls.Config // for clients, nil without TLS
	HTTP2    *HTTP2Conn  // the clients' connection, nil without HTTP/2
}

// Start serves a proxy over l. middleware may be nil.
func (l Link) Start(t testing.TB, middleware func(http.Handler) http.Handler, opts ...wsproxy.Option) *Rig {
	t.Helper()
	serverTLS, clientTLS := l.tls()
	network, address := "tcp", "127.0.0.1:0"
	if l.Unix {
		network, address = "unix", filepath.Join(SocketDir(t), "upstream")
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	r := &Rig{Upstream: &Upstream{URL: "http://" + listener.Addr().String(), Addr: listener.Addr().String()}}
	if l.Unix {
		r.Upstream.URL = "http://unix:" + address
	}
	if l.TLSUpstream {
		listener = tls.NewListener(listener, serverTLS)
		r.Upstream.URL = "https://" + r.Upstream.Addr
		opts = append(opts, wsproxy.WithTLSConfig(clientTLS))
	}
	r.Upstream.acceptFrom(t, listener)
	if l.Wrapped {
		opts = append(opts, wsproxy.WithDialContext(dialWrapped))
	}
	r.Proxy = NewProxy(t, r.Upstream.URL, opts...)

	var handler http.Handler = r.Proxy
	if middleware != nil {
		handler = middleware(handler)
	}
	r.serve(t, l, handler)
	return r
}

func (r *Rig) serve(t testing.TB, l Link, handler http.Handler) {
	s := httptest.NewUnstartedServer(handler)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	if l.Wrapped {
		s.Listener = WrapListener{s.Listener, func(conn net.Conn) net.Conn { return WrappedConn{conn} }}
	}
	switch {
	case l.HTTP2:
		s.EnableHTTP2 = true
		s.Config.HTTP2 = wsproxy.HTTP2Config()
		StartTLS(s)
		r.HTTP2 = DialHTTP2(t, s.Listener.Addr().String())
	case l.TLSClient:
		StartTLS(s)
		_, r.TLS = l.tls()
	default:
		s.Start()
	}
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	r.Addr = s.Listener.Addr().String()
}

func dialWrapped(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return WrappedConn{conn}, nil
}

// SocketDir returns a new directory with a name that is short enough for the
// address of a unix socket. The names of t.TempDir are too long, and TMPDIR may be.
func SocketDir(t testing.TB) string {
	t.Helper()
	const longest = 60 // of the 103 bytes that every system allows
	dir, err := os.MkdirTemp("", "ws")
	if err == nil && len(dir) > longest {
		os.Remove(dir)
		dir, err = os.MkdirTemp("/tmp", "ws")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Dial returns a client's connection to the proxy.
func (r *Rig) Dial(t testing.TB) *Peer {
	t.Helper()
	if r.HTTP2 != nil {
		return NewPeer(new(Stream))
	}
	client := Dial(t, r.Addr)
	if r.TLS != nil {
		client = NewPeer(tls.Client(client.Conn, r.TLS))
	}
	return client
}

// Handshake opens a tunnel on the client's connection and returns the
// upstream's end.
func (r *Rig) Handshake(t testing.TB, client *Peer) (server *Peer) {
	t.Helper()
	if r.HTTP2 != nil {
		return r.HTTP2.open(t, client.Conn.(*Stream), r.Upstream)
	}
	return r.Upstream.Handshake(t, client)
}

// Tunnel opens a tunnel and returns its ends.
func (r *Rig) Tunnel(t testing.TB) (client, server *Peer) {
	t.Helper()
	client = r.Dial(t)
	return client, r.Handshake(t, client)
}
