package main

import (
	"crypto/tls"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

// privately serves a page with a certificate for localhost that only its own
// file vouches for, as appliances do.
func privately(t *testing.T) (url, certFile string) {
	t.Helper()
	certFile, keyFile, _ := certificate(t)
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	require.NoError(t, err)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			io.WriteString(w, "private")
			return
		}
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			io.WriteString(conn, testkit.SampleSwitch)
			conn.Close()
		}
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	s.StartTLS()
	t.Cleanup(s.Close)
	return strings.Replace(s.URL, "127.0.0.1", "localhost", 1), certFile
}

// Cockpit and appliances have a certificate of their own authority, for which
// there was no flag.
func TestTargetCAIsTrustedInPlaceOfTheSystems(t *testing.T) {
	t.Parallel()
	url, certFile := privately(t)
	c := start(t, "-target-ca", certFile, url)
	code, body := c.get(t, "/", "")
	require.Equal(t, http.StatusOK, code, c.stderr)
	require.Equal(t, "private", body)
	_, res := c.ask(t, "/", upgradeFields)
	require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)

	c = start(t, "-target-ca", certFile, strings.Replace(url, "localhost", "127.0.0.1", 1))
	code, _ = c.get(t, "/", "")
	require.Equal(t, http.StatusBadGateway, code, "the name is verified")
	require.Contains(t, c.stderr.String(), `hint="write the target with a name that is in the certificate; -target-ca does not help, or`)
}

func TestTargetInsecureVerifiesNothingAndSaysSo(t *testing.T) {
	t.Parallel()
	url, _ := privately(t)
	c := start(t, "-target-insecure", url)
	code, _ := c.get(t, "/", "")
	require.Equal(t, http.StatusOK, code, c.stderr)
	require.Contains(t, c.stderr.String(), `level=WARN msg="-target-insecure: the certificates of the targets are not verified;`)
}

func TestTheLogNamesTheFlagsForACertificateThatIsNotTrusted(t *testing.T) {
	t.Parallel()
	url, _ := privately(t)
	otherFile, _, _ := certificate(t)
	c := start(t, "-target-ca", otherFile, url) // the system's authorities take time to parse
	for _, fields := range []string{"", upgradeFields} {
		_, res := c.ask(t, "/", fields)
		require.Equal(t, http.StatusBadGateway, res.StatusCode)
	}
	log := c.stderr.String()
	require.Contains(t, log, `msg="request failed" status=502`)
	require.Contains(t, log, `hint="trust the authority that signed the certificate with -target-ca file, or verify nothing with -target-insecure"`)
	require.Equal(t, 1, strings.Count(log, "hint="), "repeats are collapsed: %s", log)

	c = start(t, "http://"+testkit.RefusingAddr(t))
	c.get(t, "/", "")
	require.NotContains(t, c.stderr.String(), "hint=")
}

func TestABadTargetCAIsReportedAtTheStart(t *testing.T) {
	t.Parallel()
	empty := filepath.Join(t.TempDir(), "ca.pem")
	code, _, stderr := status(t, "-target-ca", empty, "https://localhost")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "wsproxy: -target-ca: open "+empty)
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	code, _, stderr = status(t, "-target-ca", empty, "https://localhost")
	require.Equal(t, 1, code)
	require.Equal(t, `wsproxy: -target-ca: "`+empty+`" has no PEM certificate`+"\n", stderr)
}

// x509's AppendCertsFromPEM skips what it cannot parse, so that a target whose
// certificate was damaged got a 502 for no visible reason.
func TestADamagedCertificateInTheTargetCAIsReportedAtTheStart(t *testing.T) {
	t.Parallel()
	_, certFile := privately(t)
	good, err := os.ReadFile(certFile)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "ca.pem")
	for bad, want := range map[string]string{
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("no")})): "has a certificate (number 2) that cannot be parsed: x509: ",
		strings.Replace(string(good), "MII", "-II", 1):                                   "has 2 certificates, 1 of them not valid PEM",
	} {
		require.NoError(t, os.WriteFile(file, append(good[:len(good):len(good)], bad...), 0o600))
		code, _, stderr := status(t, "-target-ca", file, "https://localhost")
		require.Equal(t, 1, code)
		require.Contains(t, stderr, `wsproxy: -target-ca: "`+file+`" `+want)
	}
}
