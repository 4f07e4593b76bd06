package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

// issue returns a certificate for localhost with a serial number, and its key.
func issue(t *testing.T, serial int64, from, to time.Duration) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(to)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	require.NoError(t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
}

// put writes a file, which must not exist half-written.
func put(t *testing.T, file string, content []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(file+".new", content, 0o600))
	require.NoError(t, os.Rename(file+".new", file))
}

// serial returns the serial number of the certificate that a new connection gets.
func (c *command) serial(t *testing.T) int64 {
	t.Helper()
	conn, err := tls.Dial("tcp", c.addr, &tls.Config{InsecureSkipVerify: true})
	require.NoError(t, err)
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

// A renewal every two months ended every tunnel, because it took a restart.
func TestARenewedCertificateIsServedAndNoTunnelEnds(t *testing.T) {
	t.Parallel()
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, brw, err := http.NewResponseController(w).Hijack()
		if err == nil {
			defer conn.Close()
			io.WriteString(conn, testkit.SampleSwitch)
			io.Copy(conn, brw)
		}
	})
	certFile, keyFile, _ := certificate(t)
	c := start(t, "-tls-cert", certFile, "-tls-key", keyFile, "-ping", "0", url)
	tunnels := make([]*peer, testkit.Scale(50, 1000))
	for i := range tunnels {
		var res *http.Response
		tunnels[i], res = c.ask(t, "/", upgradeFields)
		require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	}
	require.EqualValues(t, 1, c.serial(t))
	cert, key := issue(t, 2, -time.Hour, time.Hour)
	put(t, certFile, cert)
	const halfway = `msg="cannot use the new certificate, keeping the last one" error="tls: private key does not match public key"`
	testkit.Eventually(t, func() bool {
		require.EqualValues(t, 1, c.serial(t))
		return strings.Contains(c.stderr.String(), halfway)
	}, "the new certificate is not noticed")
	put(t, keyFile, key)
	testkit.Eventually(t, func() bool { return c.serial(t) == 2 }, "new connections get the old certificate")
	c.stderr.Await(t, `msg="new certificate" names=[localhost] expires=`)
	for _, client := range tunnels {
		client.Socket().SetDeadline(time.Now().Add(testkit.Patience))
		client.Send(t, "\x82\x85\x00\x00\x00\x00hello")
		client.Expect(t, "\x82\x85\x00\x00\x00\x00hello")
		client.Close()
	}
	require.Equal(t, 1, strings.Count(c.stderr.String(), "cannot use"), c.stderr)
}

func TestABadCertificateIsLoggedAndTheLastOneStays(t *testing.T) {
	t.Parallel()
	good, goodKey := issue(t, 2, -time.Hour, time.Hour)
	_, otherKey := issue(t, 3, -time.Hour, time.Hour)
	expired, expiredKey := issue(t, 4, -2*time.Hour, -time.Hour)
	early, earlyKey := issue(t, 5, time.Hour, 2*time.Hour)
	certFile, keyFile, _ := certificate(t)
	c := start(t, "-tls-cert", certFile, "-tls-key", keyFile)
	for _, test := range []struct {
		name, want string
		cert, key  []byte
	}{
		{"half-written", "failed to find any PEM data in certificate input", good[:len(good)/2], goodKey},
		{"half of the chain", "a certificate of the chain is not whole", append(good[:len(good):len(good)], good[:len(good)/2]...), goodKey},
		{"empty", "failed to find any PEM data in certificate input", nil, nil},
		{"garbage", "malformed certificate", []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), goodKey},
		{"another key", "private key does not match public key", good, otherKey},
		{"the key in place of the certificate", "failed to find certificate PEM data in certificate input", goodKey, goodKey},
		{"expired", "the certificate has expired at ", expired, expiredKey},
		{"not valid yet", "the certificate is not valid before ", early, earlyKey},
	} {
		t.Run(test.name, func(t *testing.T) {
			put(t, certFile, test.cert)
			put(t, keyFile, test.key)
			c.signals <- syscall.SIGHUP
			c.stderr.Await(t, test.want)
			require.EqualValues(t, 1, c.serial(t))
		})
	}
	require.NoError(t, os.Remove(certFile))
	c.signals <- syscall.SIGHUP
	c.stderr.Await(t, "no such file")
	require.EqualValues(t, 1, c.serial(t))

	put(t, certFile, good)
	put(t, keyFile, goodKey)
	c.signals <- syscall.SIGHUP
	c.stderr.Await(t, `msg="new certificate"`)
	require.EqualValues(t, 2, c.serial(t))
	c.signals <- syscall.SIGHUP
	c.stderr.Await(t, "the certificate has not changed")
}

// Kubernetes puts the files in a directory, to which it moves a symbolic link.
// certbot's names are symbolic links to numbered files.
func TestACertificateBehindSymbolicLinksIsRenewed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for i := range int64(2) {
		version := filepath.Join(dir, "..version"+string(rune('1'+i)))
		require.NoError(t, os.Mkdir(version, 0o700))
		cert, key := issue(t, i+1, -time.Hour, time.Hour)
		put(t, filepath.Join(version, "tls.crt"), cert)
		put(t, filepath.Join(version, "tls.key"), key)
	}
	link := func(to, name string) {
		if err := os.Symlink(to, filepath.Join(dir, name+".new")); err != nil {
			t.Skip(err) // windows asks for a privilege
		}
		require.NoError(t, os.Rename(filepath.Join(dir, name+".new"), filepath.Join(dir, name)))
	}
	link("..version1", "..data")
	link(filepath.Join("..data", "tls.crt"), "tls.crt")
	link(filepath.Join("..data", "tls.key"), "tls.key")
	c := start(t, "-tls-cert", filepath.Join(dir, "tls.crt"), "-tls-key", filepath.Join(dir, "tls.key"))
	require.EqualValues(t, 1, c.serial(t))
	link("..version2", "..data")
	testkit.Eventually(t, func() bool { return c.serial(t) == 2 }, "new connections get the old certificate")
}

func TestSIGHUPWithoutACertificateEndsTheCommandInOrder(t *testing.T) {
	t.Parallel()
	url, conns := switches(t)
	c := start(t, url)
	client, server := c.tunnel(t, conns)
	c.signals <- syscall.SIGHUP
	client.wantClose(t, goodbye)
	server.wantClose(t, goodbye)
	client.Close()
	server.Close()
	require.Zero(t, c.exit(t), c.stderr)
}

// SIGHUP does not count as a second signal, which would cut everything.
func TestSIGHUPDuringTheDrainCutsNothing(t *testing.T) {
	t.Parallel()
	certFile, keyFile, _ := certificate(t)
	url, conns := switches(t)
	c := start(t, "-tls-cert", certFile, "-tls-key", keyFile, url)
	client, server := c.tunnel(t, conns)
	c.signals <- syscall.SIGTERM
	client.wantClose(t, goodbye)
	c.signals <- syscall.SIGHUP
	c.stderr.Await(t, "the certificate has not changed")
	client.sendFrame(t, closes, goodbye[:2])
	server.wantClose(t, goodbye)
	server.reply(t, closes, goodbye[:2])
	server.Close()
	client.ended(t)
	require.Zero(t, c.exit(t), c.stderr)
}

func TestAnExpiredCertificateAtTheStartIsServedWithAWarning(t *testing.T) {
	t.Parallel()
	certFile, keyFile, _ := certificate(t)
	cert, key := issue(t, 9, -2*time.Hour, -time.Hour)
	put(t, certFile, cert)
	put(t, keyFile, key)
	c := start(t, "-tls-cert", certFile, "-tls-key", keyFile)
	c.stderr.Await(t, "serving a certificate that clients refuse")
	require.EqualValues(t, 9, c.serial(t))
}
