package testkit

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"example.com/wsproxy"
)

// TLS returns configurations for a server at 127.0.0.1 and its clients. The key
// is an ECDSA key, because a handshake with httptest's RSA key costs a millisecond.
var TLS = sync.OnceValues(func() (server, client *tls.Config) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().AddDate(1, 0, 0), IsCA: true, BasicConstraintsValid: true,
		DNSNames: []string{"example.com"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(raw)
	if err != nil {
		panic(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{raw}, PrivateKey: key, Leaf: leaf}}},
		&tls.Config{RootCAs: roots, ServerName: "127.0.0.1"}
})

// StartTLS starts s with the certificate of TLS.
func StartTLS(s *httptest.Server) {
	s.TLS, _ = TLS()
	s.StartTLS()
}

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
	s := serve(t, h, StartTLS)
	return s.Listener.Addr().String(), s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
}

// DialTLS is Dial with TLS, for the server's address as its name.
func DialTLS(t testing.TB, addr string, config *tls.Config) *Peer {
	t.Helper()
	config = config.Clone()
	config.ServerName, _, _ = net.SplitHostPort(addr)
	return NewPeer(tls.Client(Dial(t, addr).Conn, config))
}
