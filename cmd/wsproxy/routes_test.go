package main

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// isRedirect reports whether the status is one of ServeMux's: 301 before Go 1.26,
// 307 since.
func isRedirect(status int) bool {
	return status == http.StatusMovedPermanently || status == http.StatusTemporaryRedirect
}

// One process had one target. A WebSocket application beside another one needed
// two processes and a third in front of them.
func TestRoutesGetTheirPathsAndTheTargetGetsTheOthers(t *testing.T) {
	t.Parallel()
	c := start(t, "-route", "/ws="+named(t, "exact"), "-route", "/chat/="+named(t, "subtree"),
		"-route", "/room/{id}/ws="+named(t, "wildcard"), named(t, "main"))
	for path, want := range map[string]string{
		"/": "main", "/ws": "exact", "/ws/": "main", "/ws/x": "main", "/wsx": "main",
		"/chat/": "subtree", "/chat/a/b": "subtree", "/room/7/ws": "wildcard", "/room/7": "main",
	} {
		code, body := c.get(t, path, "")
		require.Equal(t, http.StatusOK, code, path)
		require.Equal(t, want, body, path)
		_, name := c.open(t, path, "")
		require.Equal(t, want, name, path)
	}
	_, res := c.ask(t, "/chat?room=1", upgradeFields)
	require.True(t, isRedirect(res.StatusCode), res.Status)
	require.Equal(t, "/chat/?room=1", res.Header.Get("Location"))
}

func TestTheTargetsPathPrecedesThatOfTheRequest(t *testing.T) {
	t.Parallel()
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.RequestURI+" "+r.Header.Get("X-Test"))
	})
	c := start(t, "-header", "X-Test: all", "-route", "/ws/="+url+"/app?a=b", "-route", "/one="+url)
	_, body := c.get(t, "/ws/x%2Fy?c=d", "")
	require.Equal(t, "/app/ws/x%2Fy?a=b&c=d all", body, "the options are those of every route")
	_, body = c.get(t, "/one", "")
	require.Equal(t, "/one all", body)
}

func TestRoutesNeedNoTargetArgument(t *testing.T) {
	t.Parallel()
	c := start(t, "-access-log", "text", "-route", "/ws="+named(t, "ws"))
	_, name := c.open(t, "/ws", "")
	require.Equal(t, "ws", name)
	code, _ := c.get(t, "/", "")
	require.Equal(t, http.StatusNotFound, code, "no demo either")
	_, res := c.ask(t, "/elsewhere", upgradeFields)
	require.Equal(t, http.StatusNotFound, res.StatusCode)
	c.stdout.Await(t, `msg="upgrade refused" route="" client=`)
	c.stdout.Await(t, ` path=/elsewhere status=404 error="no -route matches the path"`)
	require.Equal(t, 1, strings.Count(c.stdout.String(), "refused"), "a plain request is no upgrade")
}

// The access log had no line for a WebSocket that the mux redirected, and its
// client did not follow.
func TestAnUpgradeThatIsRedirectedIsRefused(t *testing.T) {
	t.Parallel()
	url, _ := switches(t)
	c := start(t, "-access-log", "text", "-route", "/ws/="+url, url)
	for i, path := range []string{"/ws?token=secret", "/x//y"} {
		_, res := c.ask(t, path, upgradeFields)
		require.True(t, isRedirect(res.StatusCode), res.Status)
		want := res.Header.Get("Location")
		want, _, _ = strings.Cut(want, "?")
		path, _, _ = strings.Cut(path, "?")
		require.Contains(t, c.logged(t, i+2)[i+1], fmt.Sprintf(` path=%s status=%d error="redirected to \"%s\", which WebSocket clients do not follow"`,
			path, res.StatusCode, want))
	}
	_, res := c.ask(t, "/ws", "")
	require.True(t, isRedirect(res.StatusCode), res.Status)
	require.Equal(t, 2, strings.Count(c.stdout.String(), "refused"), "a plain request is no upgrade")
	require.NotContains(t, c.stdout.String(), "secret")
}

func TestEachRouteHasALineAtTheStart(t *testing.T) {
	t.Parallel()
	c := start(t, "-route", "/ws=http://localhost:4000/?token=secret", "-route", "/chat/=ws://unix:/b.sock", "http://localhost:3000")
	require.Equal(t, "wsproxy: "+c.url+" -> http://localhost:3000\n", c.line)
	c.stdout.Await(t, "wsproxy: "+c.url+"/chat/ -> ws://unix:/b.sock\n")
	require.Equal(t, "wsproxy: "+c.url+"/ws -> http://localhost:4000/\nwsproxy: "+c.url+"/chat/ -> ws://unix:/b.sock\n", c.stdout.String())
	c = start(t, "-listen", ":0", "-route", "/ws=http://localhost:4000", "http://localhost:3000")
	c.stdout.Await(t, "/ws (on every address) -> http://localhost:4000\n")
}

// SECURITY.md: a path whose segment decodes to a dot segment reaches no upstream.
// ServeMux redirects such a path to the clean one, except that of a CONNECT, and
// does not know dots that are encoded.
func TestTheRuleOnDotSegmentsHoldsForRoutes(t *testing.T) {
	t.Parallel()
	certFile, keyFile, _ := certificate(t)
	var seen atomic.Int64
	url := serve(t, func(http.ResponseWriter, *http.Request) { seen.Add(1) })
	args := []string{"-route", "/ws/=" + url, "-route", "/admin/=" + url, url}
	c := start(t, args...)
	for path, want := range map[string]string{
		"/ws/../admin/": "/admin/", "/ws/./x": "/ws/x", "/ws//x": "/ws/x", "//x": "/x", "/x/..": "/",
		"/ws/%2e%2e/admin/": "", "/ws/%2E/x": "", "/ws/..%2fadmin/": "", "/ws/..;/admin/": "",
	} {
		for _, fields := range []string{upgradeFields, ""} {
			_, res := c.ask(t, path, fields)
			if want == "" {
				require.Equal(t, http.StatusBadRequest, res.StatusCode, path)
				continue
			}
			require.True(t, isRedirect(res.StatusCode), "%s: %s", path, res.Status)
			require.Equal(t, want, res.Header.Get("Location"), path)
		}
	}
	c = start(t, append([]string{"-http2", "-tls-cert", certFile, "-tls-key", keyFile}, args...)...)
	h2 := testkit.DialHTTP2(t, c.addr)
	for _, path := range []string{"/ws/../admin/", "/ws/./x", "/ws/%2e%2e/admin/"} {
		r, _ := h2.Request(t, path)
		res, err := h2.RoundTrip(r)
		require.NoError(t, err)
		require.Equal(t, http.StatusBadRequest, res.StatusCode, path)
	}
	require.Zero(t, seen.Load(), "requests at the upstreams")
}

// ServeMux treats CONNECT in its own way, and HTTP/2 opens WebSockets with it
// (RFC 8441).
func TestAWebSocketOverHTTP2FindsItsRoute(t *testing.T) {
	t.Parallel()
	certFile, keyFile, _ := certificate(t)
	u := testkit.NewUpstream(t)
	c := start(t, "-http2", "-tls-cert", certFile, "-tls-key", keyFile, "-route", "/="+u.URL, "-route", "/ws="+serve(t, http.NotFound))
	client, server := testkit.Ends(testkit.DialHTTP2(t, c.addr).Tunnel(t, u))
	client.SendFrame(t, testkit.Text, "hello")
	server.ExpectFrame(t, testkit.Text, "hello")
	h2 := testkit.DialHTTP2(t, c.addr)
	r, _ := h2.Request(t, "/ws")
	res, err := h2.RoundTrip(r)
	require.NoError(t, err)
	require.Equal(t, http.StatusNotFound, res.StatusCode, "the route's upstream")
}

// Go 1.25's ServeMux redirects it, and Go 1.26's responds with 404.
func TestACONNECTToAnotherHostIsRefusedAsWithoutRoutes(t *testing.T) {
	t.Parallel()
	url := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		assert.Fail(t, "a request reached the upstream: "+r.Method)
	})
	c := start(t, "-route", "/ws="+url, url)
	p := c.dial(t)
	_, err := io.WriteString(p, "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n")
	require.NoError(t, err)
	res, err := http.ReadResponse(p.Reader, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusMethodNotAllowed, res.StatusCode)
}

func TestTheDrainClosesTheTunnelsOfAllRoutes(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{"": goodbye, "-spread 10ms": "\x03\xf4service restart"} {
		url, conns := switches(t)
		c := start(t, append(strings.Fields("-drain 1h "+args), "-route", "/ws="+url, "-route", "/chat/="+url, url)...)
		var ends []*peer
		for _, path := range []string{"/", "/ws", "/chat/x"} {
			client, res := c.ask(t, path, upgradeFields)
			require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
			ends = append(ends, client, &peer{testkit.NewPeer(<-conns)})
		}
		c.signals <- syscall.SIGTERM
		c.stderr.Await(t, "tunnels=3")
		for i, end := range ends {
			end.wantClose(t, want)
			if i%2 == 0 {
				end.sendFrame(t, closes, want[:2])
			} else {
				end.reply(t, closes, want[:2])
			}
		}
		for _, end := range ends {
			end.Close()
		}
		require.Zero(t, c.exit(t), c.stderr)
	}
}

func TestTheCutsOfAllRoutesAreCounted(t *testing.T) {
	t.Parallel()
	url, conns := switches(t)
	c := start(t, "-drain", "0", "-route", "/ws="+url, url)
	for _, path := range []string{"/", "/ws"} {
		_, res := c.ask(t, path, upgradeFields)
		require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
		defer (<-conns).Close()
	}
	c.signals <- syscall.SIGTERM
	require.Equal(t, 1, c.exit(t))
	require.Contains(t, c.stderr.String(), "\nwsproxy: cut 2 tunnels: still open after 0s\n")
}

func TestMistakesInRoutes(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		args   string
		status int
		want   string // a prefix of a line
	}{
		{"-route /ws", 2, `invalid value "/ws" for flag -route: want /path=target`},
		{"-route ws=http://a", 2, `-route: "ws" does not begin with a slash, want /path=target`},
		{"-route http://a/?token=secret", 2, `-route: "http://a/" does not begin with a slash, want /path=target`},
		{"-route =http://a", 2, `-route: "" does not begin with a slash, want /path=target`},
		{"-route /ws=http://a -route /ws=http://b", 2, `-route: "/ws" is given twice, want it once`},
		{"-route /=http://a http://b", 2, `-route: "/" has a target already, want another path or no target after the flags`},
		{"-route /{x=http://a", 2, `-route: "/{x": at offset 1: bad wildcard segment`},
		{"-route /a/../b=http://a", 2, `-route: "/a/../b" is not a clean path, want "/b"`},
		{"-route /a//=http://a", 2, `-route: "/a//" is not a clean path, want "/a"`},
		{"-route /a/{x}=http://a -route /{y}/b=http://b", 2, `-route: "/{y}/b": /{y}/b and /a/{x} both match some paths, like "/a/b"` + "\n"},
		{"-route /{x}=http://a -route /{y}=http://b", 2, `-route: "/{y}": /{y} matches the same requests as /{x}` + "\n"},
		{"-route /%61=http://a -route /a=http://b", 2, `-route: "/a": /a matches the same requests as /%61` + "\n"},
		{"-route /{all...}=http://a http://b", 2, `-route: "/{all...}": /{all...} matches the same requests as /` + "\n"}, // panicked
		{"-route /{all...}=http://a", 2, `-route: "/{all...}": /{all...} matches the same requests as /` + "\n"},
		{"-route /ws=", 1, `-route "/ws": target ""`},
		{"-route /ws=localhost:3000", 1, `-route "/ws": target "localhost:3000" has no scheme`},
		{"-route /ws=ftp://b http://a", 1, `-route "/ws": target "ftp://b"`},
		{"-dns 5s -route /ws=http://unix:/b.sock", 2, `-dns: target "http://unix:/b.sock" is a unix socket`},
	} {
		code, stdout, stderr := status(t, strings.Fields(test.args)...)
		require.Equal(t, test.status, code, test.args)
		require.Empty(t, stdout)
		require.True(t, strings.HasPrefix(stderr, "wsproxy: "+test.want), "%s: %s", test.args, stderr)
		require.NotContains(t, stderr, "panic")
	}
}
