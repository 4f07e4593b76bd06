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
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
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

// fields is an upstream that responds with the header fields that it received.
func fields(t *testing.T) string {
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "Host: "+r.Host+"\r\n")
		r.Header.Write(w)
	})
}

// silence accepts connections and sends nothing.
func silence(t *testing.T) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "localhost:0") // the system accepts for us
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
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
		{"-header X-Test", `invalid value "X-Test" for flag -header: want "Name: value"`},
		{"-header :value", `invalid value ":value" for flag -header: want "Name: value"`},
		{"-header Bad@Name:value", `-header: "Bad@Name" is not a field name`},
		{"-header Connection:close", `-header: drop "Connection", only the proxy sets it`},
		{"-header Host:a/b", `-header Host: "a/b", want a host with an optional port`},
		{"-origin http://", `-origin: "http://" is not an origin, want [scheme://]host[:port]`},
		{"-trusted-proxy me", `-trusted-proxy: "me", want an address, a CIDR prefix or "unix:"`},
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

func TestConnectTimeoutBoundsTheWayToTheTarget(t *testing.T) {
	c := start(t, "-connect-timeout", "20ms", "https://"+silence(t)) // a TLS handshake without an answer
	code, _ := c.get(t, "/", "")
	require.Equal(t, http.StatusGatewayTimeout, code)
}

func TestReadTimeoutEndsASilentTunnel(t *testing.T) {
	t.Parallel()
	url, conns := switches(t)
	c := start(t, "-read-timeout", "2s", "-close-timeout", "500ms", "-log", "debug", url)
	client, _ := c.tunnel(t, conns) // its 101 must arrive within the timeout, too
	client.ended(t)
	c.stderr.Await(t, `reason="read timeout"`)
}

func TestSendTimeoutEndsATunnelWhoseClientStopsReading(t *testing.T) {
	url, conns := switches(t)
	c := start(t, "-send-timeout", "50ms", "-read-timeout", "0", "-log", "debug", url)
	_, server := c.tunnel(t, conns)
	var err error
	for flood := make([]byte, 1<<20); err == nil; {
		_, err = server.Write(flood)
	}
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the tunnel stays open")
	c.stderr.Await(t, `reason="send timeout"`)
}

func TestBodyTimeoutIsA408(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })
	c := start(t, "-body-timeout", "50ms", url)
	_, res := c.ask(t, "/", "Content-Length: 10\r\n")
	require.Equal(t, http.StatusRequestTimeout, res.StatusCode)
}

func TestCloseTimeoutBoundsTheSecondSideOfATunnel(t *testing.T) {
	url, conns := switches(t)
	c := start(t, "-close-timeout", "20ms", "-read-timeout", "0", url)
	client, server := c.tunnel(t, conns)
	client.SetDeadline(time.Now().Add(testkit.Patience / 2)) // less than the default
	require.NoError(t, client.Conn.(*net.TCPConn).CloseWrite())
	n, err := server.Read(make([]byte, 1))
	require.Zero(t, n)
	require.ErrorIs(t, err, io.EOF)
	client.ended(t) // although the server has not closed its side
}

func TestMaxLifetimeEndsATunnel(t *testing.T) {
	t.Parallel()
	url, conns := switches(t)
	c := start(t, "-max-lifetime", "1s", "-close-timeout", "500ms", "-log", "debug", url)
	client, _ := c.tunnel(t, conns)
	client.ended(t)
	c.stderr.Await(t, `reason="max lifetime"`)
}

func TestPingFindsAnEndThatIsGone(t *testing.T) {
	t.Parallel()
	url, conns := switches(t)
	c := start(t, "-ping", "500ms", "-ping-timeout", "1s", "-close-timeout", "500ms", "-read-timeout", "0", "-log", "debug", url)
	client, server := c.tunnel(t, conns)
	for _, end := range []*peer{client, server} {
		opcode, _ := end.frame(t)
		require.Equal(t, byte(pings), opcode)
	}
	client.ended(t)
	server.ended(t)
	c.stderr.Await(t, `reason="ping timeout"`)
}

func TestMaxTunnelsRefusesOneMore(t *testing.T) {
	url, conns := switches(t)
	for _, flag := range []string{"-max-tunnels", "-max-tunnels-per-ip"} {
		c := start(t, "-trusted-proxy", "127.0.0.1", "-listen", "127.0.0.1:0", flag, "1", url)
		client, _ := c.tunnel(t, conns)
		_, res := c.ask(t, "/", upgradeFields)
		require.Equal(t, http.StatusServiceUnavailable, res.StatusCode, flag)
		require.NotEmpty(t, res.Header.Get("Retry-After"))

		other, res := c.ask(t, "/", upgradeFields+"X-Forwarded-For: 192.0.2.1\r\n")
		if flag == "-max-tunnels" {
			require.Equal(t, http.StatusServiceUnavailable, res.StatusCode)
		} else {
			require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode, "another client's address")
			(<-conns).Close()
		}
		other.Close()
		client.Close()
	}
}

func TestMaxMessageSizeHoldsForBothDirections(t *testing.T) {
	url, conns := switches(t)
	c := start(t, "-max-message-size", "5", "-log", "debug", url)
	tooBig := func(send func(client, server *peer)) {
		client, server := c.tunnel(t, conns)
		client.sendFrame(t, text, "12345")
		_, payload := server.frame(t)
		require.Equal(t, "12345", payload)
		server.reply(t, text, "54321")
		_, payload = client.frame(t)
		require.Equal(t, "54321", payload)
		send(client, server)
		for _, end := range []*peer{client, server} {
			opcode, payload := end.frame(t)
			require.Equal(t, byte(closes), opcode)
			require.Equal(t, "\x03\xf1", payload[:2], "1009")
		}
		client.Close()
		server.Close()
	}
	tooBig(func(client, _ *peer) { client.sendFrame(t, text, "123456") })
	tooBig(func(_, server *peer) { server.reply(t, text, "123456") })
	c.stderr.Await(t, "reason=limit")
}

// Without the flag the server accepted a header of 1 MiB. Unless the tunnel is
// detached, net/http keeps that for as long as the tunnel is open: 1.7 MB, or
// 10.7 MB if the fields are empty.
func TestMaxHeaderBytesBoundsARequestsHeader(t *testing.T) {
	url, _ := switches(t)
	for _, test := range []struct {
		args       []string
		fits, over int
	}{
		{nil, 60 << 10, 70 << 10},
		{[]string{"-max-header-bytes", "8192"}, 11 << 10, 14 << 10}, // net/http adds 4096
		{[]string{"-max-header-bytes", "1048576"}, 1000 << 10, 1030 << 10},
	} {
		c := start(t, append(test.args, url)...)
		for size, want := range map[int]int{
			test.fits: http.StatusSwitchingProtocols,
			test.over: http.StatusRequestHeaderFieldsTooLarge,
		} {
			_, res := c.ask(t, "/", upgradeFields+"X-Long: "+strings.Repeat("x", size)+"\r\n")
			require.Equal(t, want, res.StatusCode, "%v: %d bytes", test.args, size)
		}
	}
}

func TestKeepAliveReusesConnectionsForPlainRequests(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.RemoteAddr+" "+r.Header.Get("Connection"))
	})
	for _, keep := range []bool{false, true} {
		args := []string{url}
		if keep {
			args = []string{"-keep-alive", url}
		}
		c := start(t, args...)
		_, first := c.get(t, "/", "")
		_, second := c.get(t, "/", "")
		require.Equal(t, keep, first == second, "%q then %q", first, second)
		require.Equal(t, !keep, strings.HasSuffix(first, " close"), first)
	}
}

func TestOriginTakesUpgradesFromTheListedOnesAlone(t *testing.T) {
	url, conns := switches(t)
	c := start(t, "-origin", "https://one.example", "-origin", "*.two.example", url)
	for origin, want := range map[string]int{
		"https://one.example":    http.StatusSwitchingProtocols,
		"http://www.two.example": http.StatusSwitchingProtocols,
		"https://three.example":  http.StatusForbidden,
	} {
		client, res := c.ask(t, "/", upgradeFields+"Origin: "+origin+"\r\n")
		require.Equal(t, want, res.StatusCode, origin)
		client.Close()
		if want == http.StatusSwitchingProtocols {
			(<-conns).Close()
		}
	}
}

// A page of the proxy's own host is refused, too, unless it is listed. Before, the
// error did not say that.
func TestTheRefusalOfTheOwnOriginSaysToListIt(t *testing.T) {
	url, _ := switches(t)
	c := start(t, "-origin", "https://one.example", url)
	_, res := c.ask(t, "/", upgradeFields+"Origin: "+c.url+"\r\n")
	require.Equal(t, http.StatusForbidden, res.StatusCode)
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Contains(t, string(b), "list it too")
}

func TestTrustedProxyBelievesTheListedPeersAlone(t *testing.T) {
	const claims = "X-Forwarded-For: 198.51.100.7, 203.0.113.9\r\nX-Forwarded-Proto: https\r\n"
	url := fields(t)
	for _, test := range []struct {
		args []string
		want []string
	}{
		{nil, []string{"X-Real-Ip: 127.0.0.1\r\n", "X-Forwarded-For: 198.51.100.7, 203.0.113.9, 127.0.0.1\r\n", "X-Forwarded-Proto: http\r\n"}},
		{[]string{"-trusted-proxy", "192.0.2.1"}, []string{"X-Real-Ip: 127.0.0.1\r\n", "X-Forwarded-For: 127.0.0.1\r\n"}},
		{[]string{"-trusted-proxy", "127.0.0.1", "-trusted-proxy", "203.0.113.0/24"},
			[]string{"X-Real-Ip: 198.51.100.7\r\n", "X-Forwarded-Proto: https\r\n"}},
	} {
		c := start(t, append(append([]string{"-listen", "127.0.0.1:0"}, test.args...), url)...)
		_, got := c.get(t, "/", claims)
		for _, want := range test.want {
			require.Contains(t, got, want, test.args)
		}
	}
}

func TestTargetHostReplacesTheClientsHost(t *testing.T) {
	url := fields(t)
	c := start(t, url)
	_, got := c.get(t, "/", "")
	require.True(t, strings.HasPrefix(got, "Host: "+c.addr+"\r\n"), got)
	c = start(t, "-target-host", url)
	_, got = c.get(t, "/", "")
	require.True(t, strings.HasPrefix(got, "Host: "+strings.TrimPrefix(url, "http://")+"\r\n"), got)
}

func TestHeaderSetsAndRemovesFields(t *testing.T) {
	c := start(t, "-header", "X-Set: a: b", "-header", "X-Removed:", "-header", "host: name.example", fields(t))
	_, got := c.get(t, "/", "X-Set: the client's\r\nX-Removed: the client's\r\nX-Kept: the client's\r\n")
	require.Contains(t, got, "X-Set: a: b\r\n")
	require.Contains(t, got, "X-Kept: the client's\r\n")
	require.NotContains(t, got, "X-Removed")
	require.True(t, strings.HasPrefix(got, "Host: name.example\r\n"), "Host is set as proxy_set_header Host sets it")
}

func TestDetachedKeepsNoGoroutineOfTheServersForATunnel(t *testing.T) {
	serving := func() bool { return strings.Contains(testkit.Stacks(), "wsproxy.(*Proxy).ServeHTTP(") }
	url, conns := switches(t)
	c := start(t, url)
	client, server := c.tunnel(t, conns)
	require.True(t, serving(), "without the flag the tunnel is served where it began")
	client.Close()
	server.Close()
	require.Eventually(t, func() bool { return !serving() }, testkit.Patience, time.Millisecond)

	c = start(t, "-detached", url)
	_, server = c.tunnel(t, conns)
	require.Eventually(t, func() bool { return !serving() }, testkit.Patience, time.Millisecond, "ServeHTTP does not return")
	_, err := io.WriteString(server, "alive")
	require.NoError(t, err)
}

func TestLogSaysHowMuchIsLogged(t *testing.T) {
	down := "http://" + testkit.RefusingAddr(t)
	for level, want := range map[string][]string{
		"debug": {"DEBUG", "INFO", "WARN"},
		"info":  {"INFO", "WARN"},
		"warn":  {"WARN"},
		"error": nil,
	} {
		t.Run(level, func(t *testing.T) {
			c := start(t, "-log", level, down)
			code, _ := c.get(t, "/", "") // a warning
			require.Equal(t, http.StatusBadGateway, code)
			_, res := c.ask(t, "/", upgradeFields+"Content-Length: 1\r\n") // a client's mistake, for debugging
			require.Equal(t, http.StatusBadRequest, res.StatusCode)
			c.signals <- os.Interrupt // information
			c.signals <- os.Interrupt
			c.exit(t)
			for _, l := range []string{"DEBUG", "INFO", "WARN"} {
				require.Equal(t, slices.Contains(want, l), strings.Contains(c.stderr.String(), "level="+l), "%s:\n%s", l, c.stderr)
			}
		})
	}
}
