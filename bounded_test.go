package wsproxy_test

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
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A malformed line of a megabyte was a log line of five, as the errors of
// net/http have the whole of it, and a Set-Cookie with a control byte was logged
// with all of its value.
func TestWhatAnUpstreamSendsDoesNotFloodTheLog(t *testing.T) {
	const much = 900_000
	x := strings.Repeat("x", much)
	for name, answer := range map[string]string{
		"a line that is no response":  x + "\r\n\r\n",
		"an escaped one":              "HTTP/1.1 200" + strings.Repeat("\x01", much) + "\r\n\r\n",
		"a status":                    "HTTP/1.1 " + x + " OK\r\n\r\n",
		"a version":                   "HTTP/" + x + " 200 OK\r\n\r\n",
		"a line that is no field":     "HTTP/1.1 200 OK\r\n" + x + "\r\n\r\n",
		"a control byte in a field":   "HTTP/1.1 200 OK\r\nSet-Cookie: session=" + x + "\x01\r\n\r\n",
		"quotes in a field":           "HTTP/1.1 200 OK\r\nSet-Cookie: session=" + strings.Repeat(`"`, much) + "\x01\r\n\r\n",
		"a first line that is folded": "HTTP/1.1 200 OK\r\n " + x + "\r\n\r\n",
		"a length":                    "HTTP/1.1 200 OK\r\nContent-Length: " + x + "\r\n\r\n",
		"two lengths":                 "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: " + x + "\r\n\r\n",
		"a coding":                    "HTTP/1.1 200 OK\r\nTransfer-Encoding: " + x + "\r\n\r\n",
		"a trailer":                   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Content-Length\r\nX: " + x + "\r\n\r\n0\r\n\r\n",
		"a Connection of a switch":    strings.Replace(sampleSwitch, "Connection: Upgrade", "Connection: "+x, 1),
		"an Upgrade of a switch":      strings.Replace(sampleSwitch, "Upgrade: websocket", "Upgrade: "+x, 1),
		"an accept of a switch":       strings.Replace(sampleSwitch, sampleAccept, x, 1),
		"a field of a body's trailer": "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: " + strings.Repeat("x", 3000) + "\x01\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			u.answers(answer)
			errs := newFailures()
			var log lockedBuffer
			debug := wsproxy.WithLogger(slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
			_, addr := serveProxy(t, u.url, errs.option(), debug)
			for _, request := range []string{plainGet("/", "Connection: close"), sampleRequest} {
				client := dial(t, addr)
				client.send(t, request)
				client.gone(t, "the client's")
			}
			assert.Less(t, len(log.String()), 2500, "two requests' lines")
			assert.NotContains(t, log.String(), strings.Repeat("x", 65))
			for len(errs) > 0 {
				err := errs.next(t).err
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

// The error of a certificate for another name lists the names it is for.
func TestACertificateDoesNotFloodTheLog(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	for range 90 { // of more the error has the number
		template.DNSNames = append(template.DNSNames, strings.Repeat("x", 200)+".example")
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	roots := x509.NewCertPool()
	certificate, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	roots.AddCert(certificate)
	u := newUpstream(t)
	u.script(func(server *peer) {
		tls.Server(server.Conn, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}).Handshake()
	})
	errs := newFailures()
	_, addr := serveProxy(t, "https://"+u.addr, errs.option(), wsproxy.WithTLSConfig(&tls.Config{RootCAs: roots, ServerName: "a.example"}))
	for _, request := range []string{plainRequest, sampleRequest} {
		res, _ := ask(t, addr, request)
		assert.Equal(t, 502, res.StatusCode)
		err := errs.next(t).err
		assert.Less(t, len(err.Error()), 300)
		assert.ErrorAs(t, err, new(x509.HostnameError))
	}
}
