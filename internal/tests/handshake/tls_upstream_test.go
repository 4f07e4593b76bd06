package handshake_test

import (
	"crypto/tls"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

func TestATunnelToATLSUpstreamWorks(t *testing.T) {
	u, opts := testkit.NewTLSUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL, opts...)
	client, server := testkit.Tunnel(t, addr, u)
	client.Send(t, "there")
	server.Expect(t, "there")
	server.Send(t, "back")
	client.Expect(t, "back")
	client.Close()
	require.Empty(t, server.Rest(t, "the upstream's"))
}

func TestAnUntrustedTLSUpstreamCauses502(t *testing.T) {
	u, _ := testkit.NewTLSUpstream(t)
	errs := testkit.NewFailures()
	_, addr := testkit.ServeProxy(t, u.URL, errs.Option())
	for _, request := range []string{testkit.SampleRequest, testkit.SampleRequestWith(t, "Upgrade: websocket", "Upgrade: none")} {
		res, _ := testkit.Do(t, addr, request)
		require.Equal(t, 502, res.StatusCode)
		err := errs.Next(t).Err
		require.ErrorIs(t, err, wsproxy.ErrUpstream)
		var untrusted *tls.CertificateVerificationError
		require.ErrorAs(t, err, &untrusted)
	}
	require.Empty(t, u.Conns)
}

func TestATLSUpstreamThatDoesNotFinishItsHandshakeCauses504(t *testing.T) {
	for name, request := range map[string]string{"an upgrade": testkit.SampleRequest, "a plain request": testkit.PlainRequest} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				errs := testkit.NewFailures()
				r := testkit.NewMemRigTo(t, "https://upstream", nil, errs.Option(), wsproxy.WithConnectTimeout(5*time.Second))
				client := r.Send(t, request)
				server := <-r.Upstreams
				testkit.WantGatewayTimeout(t, client, 5*time.Second)
				require.ErrorIs(t, errs.Next(t).Err, wsproxy.ErrUpstreamTimeout)
				server.Rest(t, "the upstream's")
			})
		})
	}
}
