package wsproxy_test

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"github.com/stretchr/testify/require"
)

// testCertificate is httptest's, good for 127.0.0.1 and example.com, and the
// option that trusts it.
func testCertificate(t testing.TB) (tls.Certificate, wsproxy.Option) {
	t.Helper()
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.StartTLS()
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return s.TLS.Certificates[0], wsproxy.WithTLSConfig(&tls.Config{RootCAs: roots})
}

// newTLSUpstream is newUpstream behind TLS, with the option that trusts it.
func newTLSUpstream(t testing.TB) (*upstream, []wsproxy.Option) {
	t.Helper()
	certificate, trusted := testCertificate(t)
	raw := newUpstream(t)
	u := &upstream{url: "https://" + raw.addr, addr: raw.addr, conns: make(chan *peer, 100)}
	raw.script(func(server *peer) {
		secure := tls.Server(server.Conn, &tls.Config{Certificates: []tls.Certificate{certificate}})
		if secure.Handshake() == nil {
			u.conns <- newPeer(secure)
			<-t.Context().Done() // script closes the connection
		}
	})
	return u, []wsproxy.Option{trusted}
}

func TestATunnelToATLSUpstreamWorks(t *testing.T) {
	u, opts := newTLSUpstream(t)
	_, addr := serveProxy(t, u.url, opts...)
	client, server := tunnel(t, addr, u)
	client.send(t, "there")
	server.expect(t, "there")
	server.send(t, "back")
	client.expect(t, "back")
	client.Close()
	require.Empty(t, server.gone(t, "the upstream's"))
}

func TestATLSUpstreamThatIsNotTrustedIsABadGateway(t *testing.T) {
	u, _ := newTLSUpstream(t)
	errs := newFailures()
	_, addr := serveProxy(t, u.url, errs.option())
	for _, request := range []string{sampleRequest, sampleWith(t, "Upgrade: websocket", "Upgrade: none")} {
		res, _ := ask(t, addr, request)
		require.Equal(t, 502, res.StatusCode)
		err := errs.next(t).err
		require.ErrorIs(t, err, wsproxy.ErrUpstream)
		var untrusted *tls.CertificateVerificationError
		require.ErrorAs(t, err, &untrusted)
	}
	require.Empty(t, u.conns)
}

func TestATLSUpstreamThatDoesNotShakeHandsIsAGatewayTimeout(t *testing.T) {
	for name, request := range map[string]string{"an upgrade": sampleRequest, "a plain request": plainRequest} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				errs := newFailures()
				r := newMemRigTo(t, "https://upstream", nil, errs.option(), wsproxy.WithConnectTimeout(5*time.Second))
				client := r.asks(t, request)
				server := <-r.upstreams
				gatewayTimeout(t, client, 5*time.Second)
				require.ErrorIs(t, errs.next(t).err, wsproxy.ErrUpstreamTimeout)
				server.gone(t, "the upstream's")
			})
		})
	}
}
