package testkit

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"example.com/wsproxy"
)

// TLS returns configurations for a server at 127.0.0.1 and its clients.
var TLS = sync.OnceValues(func() (server, client *tls.Config) {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return &tls.Config{Certificates: s.TLS.Certificates}, &tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
})

// Certificate returns a certificate for 127.0.0.1 and example.com, and the
// option that trusts it.
func Certificate(t testing.TB) (tls.Certificate, wsproxy.Option) {
	t.Helper()
	server, client := TLS()
	return server.Certificates[0], wsproxy.WithTLSConfig(&tls.Config{RootCAs: client.RootCAs})
}

// ServeTLS is Serve for https and wss. The config is for clients of the server,
// and trusts it under the name example.com and its loopback addresses.
func ServeTLS(t testing.TB, h http.Handler) (addr string, client *tls.Config) {
	t.Helper()
	s := serve(t, h, (*httptest.Server).StartTLS)
	return s.Listener.Addr().String(), s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
}

// DialTLS is Dial with TLS, for the server's address as its name.
func DialTLS(t testing.TB, addr string, config *tls.Config) *Peer {
	t.Helper()
	config = config.Clone()
	config.ServerName, _, _ = net.SplitHostPort(addr)
	return NewPeer(tls.Client(Dial(t, addr).Conn, config))
}
