package lifecycle_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"math/big"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The errors of net/http quote a malformed line in full. A line of one megabyte
// became a log line of five, and a Set-Cookie with a control byte was logged
// with its value.
func TestOversizedUpstreamInputIsShortenedInTheLog(t *testing.T) {
	const much = 900_000
	x := strings.Repeat("x", much)
	for name, response := range map[string]string{
		"a malformed status line":     x + "\r\n\r\n",
		"an escaped one":              "HTTP/1.1 200" + strings.Repeat("\x01", much) + "\r\n\r\n",
		"a status":                    "HTTP/1.1 " + x + " OK\r\n\r\n",
		"a version":                   "HTTP/" + x + " 200 OK\r\n\r\n",
		"a malformed header line":     "HTTP/1.1 200 OK\r\n" + x + "\r\n\r\n",
		"a control byte in a field":   "HTTP/1.1 200 OK\r\nSet-Cookie: session=" + x + "\x01\r\n\r\n",
		"quotes in a field":           "HTTP/1.1 200 OK\r\nSet-Cookie: session=" + strings.Repeat(`"`, much) + "\x01\r\n\r\n",
		"a first line that is folded": "HTTP/1.1 200 OK\r\n " + x + "\r\n\r\n",
		"a length":                    "HTTP/1.1 200 OK\r\nContent-Length: " + x + "\r\n\r\n",
		"two lengths":                 "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: " + x + "\r\n\r\n",
		"a coding":                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: " + x + "\r\n\r\n",
		"a trailer":                   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Content-Length\r\nX: " + x + "\r\n\r\n0\r\n\r\n",
		"a Connection of a switch":    strings.Replace(testkit.SampleSwitch, "Connection: Upgrade", "Connection: "+x, 1),
		"an Upgrade of a switch":      strings.Replace(testkit.SampleSwitch, "Upgrade: websocket", "Upgrade: "+x, 1),
		"an accept of a switch":       strings.Replace(testkit.SampleSwitch, testkit.SampleAccept, x, 1),
		"a field of a body's trailer": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + strings.Repeat("x", 3000) + "\x01\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			u := testkit.NewUpstream(t)
			u.Respond(response)
			errs := testkit.NewFailures()
			var log testkit.Buffer
			debug := wsproxy.WithLogger(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
			_, addr := testkit.ServeProxy(t, u.URL, errs.Option(), debug)
			for _, request := range []string{testkit.PlainGet("/", "Connection: close"), testkit.SampleRequest} {
				client := testkit.Dial(t, addr)
				client.Send(t, request)
				client.Rest(t, "the client's")
			}
			assert.Less(t, len(log.String()), 2500, "two requests' lines")
			assert.NotContains(t, log.String(), strings.Repeat("x", 65))
			for len(errs) > 0 {
				err := errs.Next(t).Err
				assert.ErrorIs(t, err, wsproxy.ErrUpstream)
				assert.NotContains(t, err.Error(), strings.Repeat("x", 65))
				var protocol textproto.ProtocolError
				if strings.Contains(name, "a field") && !strings.Contains(name, "trailer") {
					assert.ErrorAs(t, err, &protocol, "what net/http returned is not wrapped")
				}
			}
		})
	}
}

// The error for a certificate with the wrong name lists all of its names.
func TestALongCertificateErrorIsShortenedInTheLog(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	for range 90 { // of more names the error has only the number
		template.DNSNames = append(template.DNSNames, strings.Repeat("x", 200)+".example")
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	certificate, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots.AddCert(certificate)
	u := testkit.NewUpstream(t)
	u.Script(func(server *testkit.Peer) {
		tls.Server(server.Conn, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}).Handshake()
	})
	errs := testkit.NewFailures()
	_, addr := testkit.ServeProxy(t, "https://"+u.Addr, errs.Option(), wsproxy.WithTLSConfig(&tls.Config{RootCAs: roots, ServerName: "a.example"}))
	for _, request := range []string{testkit.PlainRequest, testkit.SampleRequest} {
		res, _ := testkit.Do(t, addr, request)
		assert.Equal(t, 502, res.StatusCode)
		err := errs.Next(t).Err
		assert.Less(t, len(err.Error()), 300)
		assert.ErrorAs(t, err, new(x509.HostnameError))
	}
}
