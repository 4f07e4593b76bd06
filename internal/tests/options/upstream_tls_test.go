package options_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// serveTLS runs h over TLS, for "127.0.0.1" and "example.com", and returns its
// host:port and a configuration that trusts it.
func serveTLS(t testing.TB, h http.Handler, change func(*tls.Config)) (string, *tls.Config) {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.TLS = &tls.Config{}
	change(s.TLS)
	s.StartTLS()
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	return s.Listener.Addr().String(), &tls.Config{RootCAs: roots}
}

func TestWithTLSConfigVerifiesTheTargetsName(t *testing.T) {
	hellos := make(chan *tls.ClientHelloInfo, 100)
	upstream, trusting := serveTLS(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s over TLS: %v, forwarded as %s", r.Proto, r.TLS != nil, r.Header.Get("X-Forwarded-Proto"))
	}), func(cfg *tls.Config) {
		cfg.NextProtos = []string{"h2", "http/1.1"}
		cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			hellos <- hello
			return nil, nil
		}
	})
	port := upstream[strings.LastIndex(upstream, ":"):]
	with := func(change func(*tls.Config)) wsproxy.Option {
		cfg := trusting.Clone()
		change(cfg)
		return wsproxy.WithTLSConfig(cfg)
	}
	for _, test := range []struct {
		name, target string
		opts         []wsproxy.Option
		status       int
		sni          string
	}{
		{"a custom CA", "https://127.0.0.1" + port, []wsproxy.Option{wsproxy.WithTLSConfig(trusting)}, 200, ""},
		{"ALPN of the caller's is replaced", "wss://127.0.0.1" + port, []wsproxy.Option{with(func(c *tls.Config) { c.NextProtos = []string{"h2"} })}, 200, ""},
		{"another name to verify", "wss://localhost" + port, []wsproxy.Option{with(func(c *tls.Config) { c.ServerName = "example.com" })}, 200, "example.com"},
		{"the wrong name", "wss://localhost" + port, []wsproxy.Option{wsproxy.WithTLSConfig(trusting)}, 502, "localhost"},
		{"the wrong name asked for", "wss://127.0.0.1" + port, []wsproxy.Option{with(func(c *tls.Config) { c.ServerName = "other.example" })}, 502, "other.example"},
		{"an unknown CA", "wss://127.0.0.1" + port, nil, 502, ""},
		{"no verification", "wss://localhost" + port, []wsproxy.Option{wsproxy.WithTLSConfig(&tls.Config{InsecureSkipVerify: true})}, 200, "localhost"},
		{"WithHost is not the name verified", "wss://127.0.0.1" + port, []wsproxy.Option{wsproxy.WithTLSConfig(trusting), wsproxy.WithHost("other.example")}, 200, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, addr := testkit.ServeProxy(t, test.target, test.opts...)
			testkit.BothKinds(t, func(t *testing.T, request func(string, ...string) string, _ func(http.Header) http.Header) {
				res, _ := testkit.Do(t, addr, request("/"))
				assert.Equal(t, test.status, res.StatusCode)
				if text := testkit.Body(t, res); test.status == 200 {
					assert.Equal(t, "HTTP/1.1 over TLS: true, forwarded as http", text)
				}
				hello := <-hellos
				assert.Equal(t, []string{"http/1.1"}, hello.SupportedProtos, "an upgrade needs HTTP/1.1")
				assert.Equal(t, test.sni, hello.ServerName)
			})
		})
	}
	assert.Empty(t, trusting.NextProtos, "the caller's configuration is cloned")
}

func TestATunnelOverTLSForwardsBytesAndTheEnd(t *testing.T) {
	upstream, trusting := serveTLS(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, brw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, testkit.SampleSwitch)
		io.Copy(conn, brw)
	}), func(*tls.Config) {})
	_, addr := testkit.ServeProxy(t, "wss://"+upstream, wsproxy.WithTLSConfig(trusting))
	res, client := testkit.Do(t, addr, testkit.UpgradeGet("/"))
	require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	client.Send(t, "echo")
	client.Expect(t, "echo")
	require.NoError(t, client.CloseWrite())
	client.ExpectEOF(t, "")
}
