package main

import (
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

// fields is an upstream that responds with the header fields that it received.
func fields(t *testing.T) string {
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "Host: "+r.Host+"\r\n")
		r.Header.Write(w)
	})
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

func TestOriginAcceptsUpgradesFromListedOriginsOnly(t *testing.T) {
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

// A page of the proxy's host is refused, too, unless it is listed. Before, the
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

func TestTrustedProxyTrustsListedPeersOnly(t *testing.T) {
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

func TestDetachedFreesTheServersGoroutine(t *testing.T) {
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

func TestLogSetsTheLowestLevel(t *testing.T) {
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
