package wsproxy_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/wsproxy"
	"github.com/stretchr/testify/require"
)

// A link is what a tunnel's two ends are made of. The zero link is plain TCP.
type link struct {
	name                   string
	tlsClient, tlsUpstream bool
	unix                   bool // toward the upstream
	wrapped                bool // the proxy sees both ends as wrappedConn
}

var plainLink = link{name: "TCP"}

var links = []link{
	plainLink,
	{name: "TLS client", tlsClient: true},
	{name: "TLS upstream", tlsUpstream: true},
	{name: "TLS both", tlsClient: true, tlsUpstream: true},
	{name: "unix upstream", unix: true},
	{name: "wrapped", wrapped: true},
}

// overLinks runs a test over every link that fits.
func overLinks(t *testing.T, fits func(link) bool, test func(t *testing.T, l link)) {
	for _, l := range links {
		if fits == nil || fits(l) {
			t.Run(l.name, func(t *testing.T) { test(t, l) })
		}
	}
}

// A wrappedConn is a connection of a type that the relay does not know.
type wrappedConn struct{ net.Conn }

func (c wrappedConn) CloseWrite() error { return c.Conn.(*net.TCPConn).CloseWrite() }

// A wrapListener hands out its connections changed by wrap.
type wrapListener struct {
	net.Listener
	wrap func(net.Conn) net.Conn
}

func (l wrapListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.wrap(conn), nil
}

// A rig is a served proxy and its scripted upstream.
type rig struct {
	p    *wsproxy.Proxy
	addr string
	u    *upstream
	tls  *tls.Config // of clients, nil without TLS
}

// testTLS returns configurations for a server at 127.0.0.1 and its clients.
var testTLS = sync.OnceValues(func() (server, client *tls.Config) {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return &tls.Config{Certificates: s.TLS.Certificates}, &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
})

// start runs a proxy between ends of the link's kind. middleware may be nil.
func (l link) start(t testing.TB, middleware func(http.Handler) http.Handler, opts ...wsproxy.Option) *rig {
	t.Helper()
	serverTLS, clientTLS := testTLS()
	network, address := "tcp", "127.0.0.1:0"
	if l.unix {
		network, address = "unix", filepath.Join(socketDir(t), "upstream")
	}
	listener, err := net.Listen(network, address)
	require.NoError(t, err)
	r := &rig{u: &upstream{url: "http://" + listener.Addr().String(), addr: listener.Addr().String()}}
	if l.unix {
		r.u.url = "http://unix:" + address
	}
	if l.tlsUpstream {
		listener = tls.NewListener(listener, serverTLS)
		r.u.url = "https://" + r.u.addr
		opts = append(opts, wsproxy.WithTLSConfig(clientTLS))
	}
	r.u.acceptFrom(t, listener)

	if l.wrapped {
		opts = append(opts, wsproxy.WithDialContext(func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := new(net.Dialer).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return wrappedConn{conn}, nil
		}))
	}
	r.p = newProxy(t, r.u.url, opts...)

	var handler http.Handler = r.p
	if middleware != nil {
		handler = middleware(handler)
	}
	s := httptest.NewUnstartedServer(handler)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	if l.wrapped {
		s.Listener = wrapListener{s.Listener, func(conn net.Conn) net.Conn { return wrappedConn{conn} }}
	}
	if l.tlsClient {
		s.StartTLS()
		r.tls = clientTLS
	} else {
		s.Start()
	}
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	r.addr = s.Listener.Addr().String()
	return r
}

// socketDir is a directory whose name is short enough for a unix socket.
func socketDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "ws")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// acceptFrom fills u.conns from l until the test's end.
func (u *upstream) acceptFrom(t testing.TB, l net.Listener) {
	u.conns = make(chan *peer, 4096)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.SetDeadline(time.Now().Add(patience))
			u.conns <- newPeer(conn)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
		close(u.conns)
		for conn := range u.conns {
			abort(conn)
		}
	})
}

// connect returns a client's connection to the proxy.
func (r *rig) connect(t testing.TB) *peer {
	t.Helper()
	client := dial(t, r.addr)
	if r.tls != nil {
		client = newPeer(tls.Client(client.Conn, r.tls))
	}
	return client
}

// tunnel opens one and returns its ends.
func (r *rig) tunnel(t testing.TB) (client, server *peer) {
	t.Helper()
	client = r.connect(t)
	server = r.handshake(t, client)
	return client, server
}

// handshake makes a tunnel of the client's connection.
func (r *rig) handshake(t testing.TB, client *peer) (server *peer) {
	t.Helper()
	client.send(t, sampleRequest)
	server = r.u.accept(t)
	server.request(t)
	server.send(t, sampleSwitch)
	require.Equal(t, http.StatusSwitchingProtocols, client.answer(t).StatusCode, "status of the handshake")
	return server
}

// socket returns the connection below TLS.
func (p *peer) socket() net.Conn {
	if secure, ok := p.Conn.(*tls.Conn); ok {
		return secure.NetConn()
	}
	return p.Conn
}

// abort ends a peer's connection with a RST, where it is TCP, below TLS.
func abort(p *peer) {
	conn := p.socket()
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	conn.Close()
}

func isReset(err error) bool { return errors.Is(err, syscall.ECONNRESET) }

// errDeadline is the error of a peer that waited for too long.
var errDeadline = os.ErrDeadlineExceeded
