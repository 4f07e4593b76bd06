package testkit

import (
	"crypto/tls"
	"net"
	"testing"
)

// A Link says how a proxy is connected to the ends of its tunnels. The zero
// Link is plain TCP.
type Link struct {
	Name                   string
	TLSClient, TLSUpstream bool
	Unix                   bool   // toward the upstream
	Wrapped                bool   // the proxy sees connections of a type that it does not know
	HTTP2                  bool   // the client's end is a stream of HTTP/2, a *Stream
	MaxTLS                 uint16 // the highest version of TLS; 0: the newest
}

// tls returns the configurations of TLS, limited to l's version.
func (l Link) tls() (server, client *tls.Config) {
	server, client = TLS()
	if l.MaxTLS != 0 {
		client = client.Clone()
		client.MaxVersion = l.MaxTLS
	}
	return server, client
}

// PlainLink is TCP on both sides.
var PlainLink = Link{Name: "TCP"}

// Links are the kinds of Link that the tests run over.
var Links = []Link{
	PlainLink,
	{Name: "TLS client", TLSClient: true},
	{Name: "TLS upstream", TLSUpstream: true},
	{Name: "TLS both", TLSClient: true, TLSUpstream: true},
	{Name: "unix upstream", Unix: true},
	{Name: "wrapped", Wrapped: true},
	{Name: "HTTP/2 client", HTTP2: true},
}

// Resettable reports whether a reset crosses a tunnel over l as a reset.
func Resettable(l Link) bool { return !l.Unix && !l.Wrapped }

// OwnSocket reports whether the client's end is a connection of its own. A stream
// of HTTP/2 has no handshake of HTTP/1.1, no buffers of the kernel's, no life
// after ServeHTTP and no half-close toward the client: what ends the server's
// direction ends the client's too.
func OwnSocket(l Link) bool { return !l.HTTP2 }

// OneOfEachSocket reports whether l is one of a choice of Links that has each
// kind of socket once.
func OneOfEachSocket(l Link) bool { return l == PlainLink || l.HTTP2 || l.TLSClient != l.TLSUpstream }

// OverLinks runs a test over each of Links for which fits reports true, or over
// all if fits is nil.
func OverLinks(t *testing.T, fits func(Link) bool, test func(t *testing.T, l Link)) {
	t.Helper()
	for _, l := range Links {
		if fits == nil || fits(l) {
			t.Run(l.Name, func(t *testing.T) { test(t, l) })
		}
	}
}

// OverLinksAtOnce is OverLinks for tests that wait. It calls begin for each Link
// before it runs the first of the tests that begin returns, so that all wait
// together.
func OverLinksAtOnce(t *testing.T, fits func(Link) bool, begin func(t *testing.T, l Link) (test func(*testing.T))) {
	t.Helper()
	tests := map[string]func(*testing.T){}
	for _, l := range Links {
		if fits == nil || fits(l) {
			tests[l.Name] = begin(t, l)
		}
	}
	for name, test := range tests {
		t.Run(name, test)
	}
}

// A WrappedConn is a connection of a type that the proxy does not know.
type WrappedConn struct{ net.Conn }

func (c WrappedConn) CloseWrite() error { return c.Conn.(*net.TCPConn).CloseWrite() }

// A WrapListener passes each connection that it accepts through Wrap.
type WrapListener struct {
	net.Listener
	Wrap func(net.Conn) net.Conn
}

func (l WrapListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.Wrap(conn), nil
}
