package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// certificate makes a key pair for localhost and returns its files.
func certificate(t *testing.T) (certFile, keyFile string, roots *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)

	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})
	require.NoError(t, os.WriteFile(certFile, certPEM, 0o600))
	require.NoError(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}), 0o600))
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(certPEM)
	return certFile, keyFile, roots
}

func TestErrorsOfUsageExitWith2(t *testing.T) {
	for _, test := range []struct {
		args string
		want string
	}{
		{"-frob", "flag provided but not defined: -frob"},
		{"-read-timeout soon", `invalid value "soon" for flag -read-timeout: want a number with its unit, such as 5s, 1m30s or 500ms`},
		{"-read-timeout 5", `invalid value "5" for flag -read-timeout: want a number with its unit, such as 5s, 1m30s or 500ms`},
		{"-max-tunnels 1e3", `invalid value "1e3" for flag -max-tunnels: want a whole number`},
		{"-max-message-size 1M", `invalid value "1M" for flag -max-message-size: want a whole number`},
		{"-max-header-bytes 0", `-max-header-bytes: "0" is not positive, want a number of bytes`},
		// net/http adds 4096, and with the largest int refused every request with 431.
		{"-max-header-bytes 2147483647", `-max-header-bytes: "2147483647", want at most 1073741824`},
		{"-detached=maybe", `invalid boolean value "maybe" for -detached: parse error`},
		{"http://a -listen :0", `"-listen" comes after a target, want flags before them`},
		{"http://a http://b -listen", `"-listen" comes after a target, want flags before them`},
		{"http://a:1/x http://b:2/y?token=secret", `target "http://b:2/y" has another path than the first, want that of "http://a:1/x"` +
			"\nwsproxy: " + `target "http://b:2/y" has another query than the first, want that of "http://a:1/x"`},
		{"http://a https://b", `target "https://b" has another scheme than the first, want that of "http://a"`},
		{"http://a http://unix:/b.sock:/c", `target "http://unix:/b.sock:/c" has another path than the first, want that of "http://a"`},
		{"-policy best http://a http://b", `-policy: "best" is not a policy, want one of hash-ip, hash-uri, least-tunnels, random2, round-robin`},
		{"-max-fails -1 http://a", `-max-fails: "-1" is negative, want a number or 0 for never`},
		{"-fail-timeout 0 http://a", `-fail-timeout: "0s" is not positive, want a duration such as 10s`},
		{"-dns 5s", "-dns: 0 targets, want one, whose name to look up"},
		{"-dns 5s http://a http://b", "-dns: 2 targets, want one, whose name to look up"},
		{"-dns 5s http://unix:/run/app.sock", `-dns: target "http://unix:/run/app.sock" is a unix socket, want a target with a host name`},
		{"-dns -5s http://a", `-dns: "-5s" is negative, want an interval or 0 for none`},
		{"-ping -1s", `-ping: "-1s" is negative, want a duration or 0 for none`},
		{"-ping 1s -ping-timeout 0", `-ping-timeout: "0s", want a positive duration with an interval`},
		{"-ping-timeout -1s", `-ping-timeout: "-1s" is negative, want a duration or 0 for none`},
		{"-max-tunnels -1", `-max-tunnels: "-1" is negative, want a number or 0 for no limit`},
		{"-max-tunnels-per-ip -1", `-max-tunnels-per-ip: "-1" is negative, want a number or 0 for no limit`},
		{"-max-tries -1", `-max-tries: "-1" is negative, want a number or 0 for no limit`},
		{"-retry-status http_503", `invalid value "http_503" for flag -retry-status: want a status such as 503`},
		{"-retry-status 200", `-retry-status: "200" is not an error status, want 400 to 599`},
		{"-max-message-size -1", `-max-message-size: "-1" is negative, want a number or 0 for no limit`},
		{"-tls-cert cert.pem", `-tls-cert "cert.pem", -tls-key "", want both or neither`},
		{"-tls-key key.pem", `-tls-cert "", -tls-key "key.pem", want both or neither`},
		{"-target-ca ca.pem -target-insecure", "-target-ca and -target-insecure, want one of them"},
		{"-header X-Test", `invalid value "X-Test" for flag -header: want "Name: value"`},
		{"-header :value", `invalid value ":value" for flag -header: want "Name: value"`},
		{"-header Bad@Name:value", `-header: "Bad@Name" is not a field name`},
		{"-header Connection:close", `-header: drop "Connection", only the proxy sets it`},
		{"-header Host:a/b", `-header Host: "a/b", want a host with an optional port`},
		{"-origin http://", `-origin: "http://" is not an origin, want [scheme://]host[:port]`},
		{"-trusted-proxy me", `-trusted-proxy: "me", want an address, a CIDR prefix or "unix:"`},
		{"-access-log xml", `-access-log: "xml" is not a format, want text, json or off`},
		{"-log loud", `-log: "loud" is not a level, want debug, info, warn or error`},
		{"-drain -1s", `-drain: "-1s" is negative, want a duration or 0 to close immediately`},
		{"-body-timeout -1s", `-body-timeout: "-1s" is negative, want a duration or 0 for none`},
		{"-connect-timeout -1s", `-connect-timeout: "-1s" is negative, want a duration or 0 for none`},
	} {
		t.Run(test.args, func(t *testing.T) {
			code, stdout, stderr := status(t, strings.Fields(test.args)...)
			require.Equal(t, 2, code)
			require.Empty(t, stdout)
			require.Equal(t, "wsproxy: "+test.want+"\nusage: wsproxy [flags] [target...]; wsproxy -h explains the flags\n", stderr)
		})
	}
	code, _, stderr := status(t, "")
	require.Equal(t, 2, code)
	require.Contains(t, stderr, `target "" is empty, want a URL`)
}

func TestAllErrorsOfUsageAreReportedAtOnce(t *testing.T) {
	code, _, stderr := status(t, "-log", "loud", "-read-timeout", "-1s", "-origin", "http://", "-tls-cert", "x", "ftp://host")
	require.Equal(t, 2, code)
	for _, want := range []string{"-log", "-read-timeout", "-origin", "-tls-cert", "target"} {
		require.Regexp(t, "(?m)^wsproxy: "+want, stderr)
	}
	require.Equal(t, 6, strings.Count(stderr, "\n"), stderr)
}

func TestTheFirstLineSaysWhereItListensAndWhatItProxies(t *testing.T) {
	certFile, keyFile, _ := certificate(t)
	for _, test := range []struct {
		args string
		want string
	}{
		{"-listen localhost:0", `^wsproxy: http://localhost:[1-9]\d+ -> demo upstream\n$`},
		{"-listen 127.0.0.1:0 http://localhost:3000/app?token=secret", `^wsproxy: http://127\.0\.0\.1:[1-9]\d+ -> http://localhost:3000/app\n$`},
		{"-listen localhost:0 http://a:3000/app?token=secret ws://b/app/?token=secret http://unix:/c.sock:/app?token=secret",
			`^wsproxy: http://localhost:[1-9]\d+ -> http://a:3000/app, ws://b/app/, http://unix:/c\.sock:/app\n$`},
		{"-listen :0", `^wsproxy: http://localhost:[1-9]\d+ \(on every address\) -> demo upstream\n$`},
		{"-listen 0.0.0.0:0", `^wsproxy: http://localhost:[1-9]\d+ \(on every address\) -> demo upstream\n$`},
		{"-listen localhost:0 -tls-cert " + certFile + " -tls-key " + keyFile, `^wsproxy: https://localhost:[1-9]\d+ -> demo upstream\n$`},
	} {
		t.Run(test.want, func(t *testing.T) {
			var stdout, stderr testkit.Buffer
			signals := make(chan os.Signal, 1)
			signals <- os.Interrupt // ends the command as soon as it listens
			require.Zero(t, run(signals, strings.Fields(test.args), &stdout, &stderr), stderr.String())
			require.Regexp(t, test.want, stdout.String())
		})
	}
}

func TestTLSServesHTTP1AloneSoThatBrowsersCanUpgrade(t *testing.T) {
	certFile, keyFile, roots := certificate(t)
	url, conns := switches(t)
	c := start(t, "-tls-cert", certFile, "-tls-key", keyFile, url)
	conn, err := tls.Dial("tcp", c.addr, &tls.Config{RootCAs: roots, NextProtos: []string{"h2", "http/1.1"}})
	require.NoError(t, err)
	conn.Close()
	require.Equal(t, "http/1.1", conn.ConnectionState().NegotiatedProtocol)
	_, err = tls.Dial("tcp", c.addr, &tls.Config{RootCAs: roots, NextProtos: []string{"h2"}})
	require.ErrorContains(t, err, "no application protocol")

	client, server := c.tunnel(t, conns)
	io.WriteString(server, "over TLS")
	server.Close()
	got, err := io.ReadAll(client.Reader)
	require.NoError(t, err)
	require.Equal(t, "over TLS", string(got))
}

func TestHTTP2CarriesTunnelsAndTheirDrain(t *testing.T) {
	certFile, keyFile, _ := certificate(t)
	u := testkit.NewUpstream(t)
	c := start(t, "-http2", "-tls-cert", certFile, "-tls-key", keyFile, u.URL)
	client, server := testkit.Ends(testkit.DialHTTP2(t, c.addr).Tunnel(t, u))
	client.SendFrame(t, testkit.Text, "hello")
	server.ExpectFrame(t, testkit.Text, "hello")
	c.signals <- syscall.SIGTERM
	testkit.AnswerClose(t, 1001, client, server)
	client.ExpectEOF(t, "")
	require.Zero(t, c.exit(t), c.stderr)
}

// golang/go#54330: with net/http's windows one tunnel whose upstream does not read
// stops the others of its connection.
func TestHTTP2AnnouncesTheWindowsOfHTTP2Config(t *testing.T) {
	t.Parallel()
	certFile, keyFile, roots := certificate(t)
	c := start(t, "-http2", "-tls-cert", certFile, "-tls-key", keyFile, "http://localhost:1")
	conn, err := tls.Dial("tcp", c.addr, &tls.Config{RootCAs: roots, ServerName: "localhost", NextProtos: []string{"h2"}})
	require.NoError(t, err)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(testkit.Patience))
	_, err = io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	require.NoError(t, err)
	var header [9]byte // of the server's SETTINGS
	_, err = io.ReadFull(conn, header[:])
	require.NoError(t, err)
	settings := make([]byte, int(header[1])<<8|int(header[2]))
	_, err = io.ReadFull(conn, settings)
	require.NoError(t, err)
	require.Contains(t, string(settings), "\x00\x04\x00\x01\x00\x00", "INITIAL_WINDOW_SIZE of 64 KiB")
	require.Contains(t, string(settings), "\x00\x08\x00\x00\x00\x01", "ENABLE_CONNECT_PROTOCOL")
}
