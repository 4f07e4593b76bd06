package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

// admin returns the address that the command's -admin has.
func (c *command) admin(t *testing.T) (addr string) {
	t.Helper()
	c.stdout.Await(t, "wsproxy: admin: ")
	_, rest, _ := strings.Cut(c.stdout.String(), "wsproxy: admin: http://")
	addr, _, _ = strings.Cut(rest, "/")
	return addr
}

// ask sends a request to addr with the given Host.
func ask(t *testing.T, addr, request, host string) (status int, body string) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(testkit.Patience))
	_, err = io.WriteString(conn, request+" HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
	require.NoError(t, err)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(b)
}

func TestAdminServesThePageMetricsAndProbes(t *testing.T) {
	t.Parallel()
	url, conns := switches(t)
	c := start(t, "-admin", "0", "-route", "/ws/="+url, url)
	c.tunnel(t, conns)
	addr := c.admin(t)
	require.True(t, strings.HasPrefix(addr, "127.0.0.1:"), addr)
	for path, want := range map[string][]string{
		"/":        {"/ws/"},
		"/metrics": {`wsproxy_tunnels_opened_total{proxy="/"} 1`, `wsproxy_tunnels_opened_total{proxy="/ws/"} 0`},
		"/healthz": {"ok\n"},
		"/readyz":  {"ready\n"},
	} {
		code, body := ask(t, addr, "GET "+path, addr)
		require.Equal(t, http.StatusOK, code, path)
		for _, part := range want {
			require.Contains(t, body, part, path)
		}
	}
	for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/elsewhere", "/healthz/"} {
		code, _ := ask(t, addr, "GET "+path, addr)
		require.Equal(t, http.StatusNotFound, code, path)
	}
	code, _ := ask(t, addr, "POST /healthz", addr)
	require.Equal(t, http.StatusMethodNotAllowed, code)
	_, body := c.get(t, "/metrics", "")
	require.NotContains(t, body, "wsproxy_", "the clients' address is the upstream's")
	require.NotContains(t, c.stderr.String(), "-admin serves")
}

// Without it, a probe learns of the drain only when the listener is closed.
func TestReadyzIs503FromTheStartOfTheDrainToItsEnd(t *testing.T) {
	t.Parallel()
	url, conns := switches(t)
	c := start(t, "-admin", "0", "-drain", "1h", url)
	addr := c.admin(t)
	client, server := c.tunnel(t, conns)
	code, _ := ask(t, addr, "GET /readyz", addr)
	require.Equal(t, http.StatusOK, code)
	c.signals <- syscall.SIGTERM
	client.wantClose(t, goodbye) // the drain has begun, and nothing has ended
	code, body := ask(t, addr, "GET /readyz", addr)
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.Equal(t, "draining\n", body)
	for _, path := range []string{"/healthz", "/", "/metrics"} {
		code, _ = ask(t, addr, "GET "+path, addr)
		require.Equal(t, http.StatusOK, code, path)
	}
	client.Close()
	server.Close()
	require.Zero(t, c.exit(t), c.stderr)
	_, err := net.Dial("tcp", addr)
	require.Error(t, err)
}

func TestPprofIsServedOnlyWithItsFlag(t *testing.T) {
	t.Parallel()
	url, _ := switches(t)
	c := start(t, "-admin", "0", "-pprof", "-header", "Authorization: Bearer secret", url)
	addr := c.admin(t)
	for path, want := range map[string]string{"/debug/pprof/": "goroutine", "/debug/pprof/goroutine?debug=1": "goroutine profile: "} {
		code, body := ask(t, addr, "GET "+path, addr)
		require.Equal(t, http.StatusOK, code, path)
		require.Contains(t, body, want)
	}
	code, _ := ask(t, addr, "GET /debug/pprof/cmdline", addr)
	require.Equal(t, http.StatusNotFound, code, "the arguments may contain secrets")
	code, _, stderr := status(t, "-pprof", url)
	require.Equal(t, 2, code)
	require.Contains(t, stderr, "wsproxy: -pprof needs -admin, which serves the profiles\n")
}

func TestAdminWithAPortAloneListensOnThisMachineOnly(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]string{
		"9090": "127.0.0.1:9090", ":9090": "127.0.0.1:9090", "0": "127.0.0.1:0", "localhost:9090": "localhost:9090",
		"0.0.0.0:9090": "0.0.0.0:9090", "[::]:9090": "[::]:9090", "[::1]:9090": "[::1]:9090", "192.0.2.1:9090": "192.0.2.1:9090",
	} {
		got, err := adminAddr(value)
		require.NoError(t, err, value)
		require.Equal(t, want, got, value)
	}
	for _, value := range []string{"localhost", "99999", "::1", "localhost:", "http://localhost:9090", ":"} {
		code, _, stderr := status(t, "-admin", value)
		require.Equal(t, 2, code, value)
		require.Contains(t, stderr, fmt.Sprintf("wsproxy: -admin: %q, want a port or an address such as localhost:9090\n", value))
	}
}

// DNS rebinding: a page whose site makes its name resolve to this machine could
// read the paths and addresses of all clients.
func TestAdminOfThisMachineAnswersToNoOtherSitesName(t *testing.T) {
	t.Parallel()
	url, _ := switches(t)
	c := start(t, "-admin", "localhost:0", url)
	addr := c.admin(t)
	_, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	for host, want := range map[string]int{
		"localhost:" + port: 200, "LOCALHOST": 200, "127.0.0.1:" + port: 200, "[::1]:" + port: 200, "192.0.2.1": 200,
		"evil.example": 403, "evil.example:" + port: 403, "localhost.evil.example": 403, "127.0.0.1.evil.example:" + port: 403,
	} {
		for _, path := range []string{"/", "/metrics", "/readyz"} {
			code, _ := ask(t, addr, "GET "+path, host)
			require.Equal(t, want, code, host+path)
		}
	}
}

func TestAdminForOtherMachinesWarnsAndAcceptsAnyHost(t *testing.T) {
	t.Parallel()
	url, _ := switches(t)
	c := start(t, "-admin", "0.0.0.0:0", url)
	c.stderr.Await(t, `level=WARN msg="-admin serves other machines, without a password" address=`)
	_, port, err := net.SplitHostPort(c.admin(t))
	require.NoError(t, err)
	code, _ := ask(t, "127.0.0.1:"+port, "GET /readyz", "wsproxy.default.svc")
	require.Equal(t, http.StatusOK, code)
}

func TestABusyAdminAddressIsReportedInOneLine(t *testing.T) {
	t.Parallel()
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer busy.Close()
	code, stdout, stderr := status(t, "-listen", "localhost:0", "-admin", busy.Addr().String())
	require.Equal(t, 1, code)
	require.Empty(t, stdout)
	require.Regexp(t, `^wsproxy: -admin: listen tcp [^\n]+\n$`, stderr)
}

func TestTheAdminServerHasTimeouts(t *testing.T) {
	t.Parallel()
	v := &service{settings: &settings{adminAddr: "127.0.0.1:0"}, log: discard()}
	a, err := v.newAdmin()
	require.NoError(t, err)
	defer a.close()
	require.NotZero(t, a.server.ReadHeaderTimeout)
	require.NotZero(t, a.server.ReadTimeout)
	require.Greater(t, a.server.WriteTimeout, 30*time.Second, "the time of a profile")
	require.NotZero(t, a.server.IdleTimeout)
	require.NotZero(t, a.server.MaxHeaderBytes)
}
