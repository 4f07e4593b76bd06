package wsdebug_test

import (
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/wsdebug"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// post sends a form and returns the response, without following a redirect.
func post(t *testing.T, url string, form url.Values, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(form.Encode()))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultTransport.RoundTrip(req)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, html.UnescapeString(string(body))
}

func form(pairs ...string) url.Values {
	v := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		v.Add(pairs[i], pairs[i+1])
	}
	return v
}

// follow gets the page that a response redirects to.
func follow(t *testing.T, from string, res *http.Response) string {
	t.Helper()
	require.Equal(t, http.StatusSeeOther, res.StatusCode)
	base, err := url.Parse(from)
	require.NoError(t, err)
	to, err := base.Parse(res.Header.Get("Location"))
	require.NoError(t, err)
	page, body := get(t, to.String())
	require.Equal(t, http.StatusOK, page.StatusCode)
	return body
}

// A POST closes the tunnel with code 1001, and a redirect leads to a page that says
// so and keeps the query. A GET only asks.
func TestAPostClosesATunnel(t *testing.T) {
	t.Parallel()
	endings := testkit.NewEndings()
	u := testkit.NewUpstream(t)
	p, addr := testkit.ServeProxy(t, u.URL, endings.Option())
	mux := http.NewServeMux()
	mux.Handle("/deep/down/", http.StripPrefix("/deep/down", wsdebug.Handler(p, nil, wsdebug.WithClose())))
	page := "http://" + testkit.Serve(t, mux) + "/deep/down/?sort=-idle"
	client, server := testkit.Ends(testkit.Tunnel(t, addr, u))

	_, body := get(t, page+"&close=1")
	assert.Contains(t, body, "Close tunnel 1?")
	assert.Contains(t, body, `<form method="post" action="?sort=-idle">`)
	assert.Contains(t, body, fmt.Sprintf(`name="opened" value="%d"`, testkit.OnlyTunnel(t, p).OpenedAt().UnixNano()))
	assert.Equal(t, 1, p.Stats().Live, "a GET only asks")

	res, _ := post(t, page, form("close", "1"))
	assert.Equal(t, "?sort=-idle&closed=1#said", res.Header.Get("Location"))
	assert.Contains(t, follow(t, page, res), "Tunnel 1 is closing")
	for _, end := range []testkit.End{client, server} {
		assert.Equal(t, "closed by the operator", end.ExpectClose(t, 1001))
		end.SendFrame(t, testkit.Close, testkit.ClosePayload(1001, ""))
		end.Close()
	}
	assert.Equal(t, wsproxy.ReasonKilled, endings.Next(t).Reason)
	testkit.Eventually(t, func() bool { return p.Stats().Live == 0 }, "the tunnel does not end")
	assert.Contains(t, follow(t, page, res), "Tunnel 1 is closed.")
}

// An invalid POST gets a status and a reason, and closes nothing.
func TestAnInvalidPostClosesNothing(t *testing.T) {
	t.Parallel()
	u := testkit.NewUpstream(t)
	p, addr := testkit.ServeProxy(t, u.URL)
	page := "http://" + testkit.Serve(t, wsdebug.HandlerOf([]wsdebug.Named{{Name: "a", Proxy: p}}, wsdebug.WithClose()))
	testkit.Tunnel(t, addr, u)
	opened := strconv.FormatInt(testkit.OnlyTunnel(t, p).OpenedAt().UnixNano()-1, 10)

	for _, c := range []struct {
		query  string
		form   url.Values
		status int
		want   string
	}{
		{"", form(), 400, "want either close, the ID of a tunnel, or drain"},
		{"", form("close", "1", "drain", u.Addr), 400, "want either"},
		{"", form("close", "one"), 400, `close is "one": want the ID of a tunnel, a number`},
		{"", form("close", "-1"), 400, `close is "-1"`},
		{"", form("close", "2"), 404, "tunnel 2 is not open: it has ended, or there was none"},
		{"", form("close", "1", "opened", opened), 404, "another one has its ID now"},
		{"", form("kill", "1"), 400, `unknown field "kill"`},
		{"", form("drain", "192.0.2.1:1"), 404, `there is no server "192.0.2.1:1"`},
		{"", form("drain", u.Addr, "over", "3601"), 400, `over is "3601": want a number from 0 to 3600 seconds`},
		{"?proxy=b", form("close", "1"), 404, `no proxy has the name "b"`},
		{"?n=x", form("close", "1"), 400, `n is "x"`},
		{"", form("close", strings.Repeat("1", 10_000)), 400, "the form cannot be parsed"},
	} {
		res, body := post(t, page+"/"+c.query, c.form)
		assert.Equal(t, c.status, res.StatusCode, c.want)
		assert.Contains(t, body, c.want)
	}
	for query, status := range map[string]int{"close=2": 404, "close=x": 400, "drain=192.0.2.1:1": 404, "closed=x": 400} {
		res, _ := get(t, page+"/?"+query)
		assert.Equal(t, status, res.StatusCode, query)
	}
	assert.Equal(t, 1, p.Stats().Live)
	assert.Zero(t, p.Stats().Closed(wsproxy.ReasonKilled))
}

// A page of another site cannot close a tunnel with its visitor's browser.
func TestAnotherSiteCannotCloseATunnel(t *testing.T) {
	t.Parallel()
	u := testkit.NewUpstream(t)
	p, addr := testkit.ServeProxy(t, u.URL)
	page := "http://" + testkit.Serve(t, wsdebug.Handler(p, nil, wsdebug.WithClose()))
	testkit.Tunnel(t, addr, u)
	for _, header := range [][]string{
		{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}, {"Origin", "null"},
	} {
		res, body := post(t, page, form("close", "1"), header...)
		assert.Equal(t, http.StatusForbidden, res.StatusCode, header)
		assert.Contains(t, body, "the request comes from another site")
	}
	assert.False(t, testkit.OnlyTunnel(t, p) == nil)
	res, _ := post(t, page, form("close", "1"), "Origin", page, "Sec-Fetch-Site", "same-origin")
	assert.Equal(t, http.StatusSeeOther, res.StatusCode)
}

// A drain closes the tunnels of one server with code 1012. While it runs the page
// says so, and another one of the same server is refused.
func TestAPostDrainsAServer(t *testing.T) {
	t.Parallel()
	a, b := testkit.NewUpstream(t), testkit.NewUpstream(t)
	u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: a.Addr}, wsproxy.Server{Addr: b.Addr})
	p, addr := testkit.ServeProxy(t, "http://chat", wsproxy.WithUpstream(u))
	page := "http://" + testkit.Serve(t, wsdebug.Handler(p, u, wsdebug.WithClose()))
	client, server := testkit.Ends(testkit.Tunnel(t, addr, a))
	testkit.Tunnel(t, addr, b)

	_, body := get(t, page+"/?drain="+a.Addr)
	assert.Contains(t, body, "Both ends of its 1 tunnel get")
	assert.Contains(t, body, "it is not marked Down")

	res, _ := post(t, page, form("drain", a.Addr))
	assert.Equal(t, "?drained="+url.QueryEscape(a.Addr)+"#said", res.Header.Get("Location"))
	assert.Equal(t, "service restart", client.ExpectClose(t, 1012))
	server.ExpectClose(t, 1012)
	assert.Contains(t, follow(t, page, res), a.Addr+" is being drained over 0\u00a0s. 1 tunnel to it is open.")
	again, body := post(t, page, form("drain", a.Addr, "over", "10"))
	assert.Equal(t, http.StatusConflict, again.StatusCode)
	assert.Contains(t, body, "is being drained")

	for _, end := range []testkit.End{client, server} {
		end.SendFrame(t, testkit.Close, testkit.ClosePayload(1012, ""))
		end.Close()
	}
	testkit.Eventually(t, func() bool {
		return strings.Contains(follow(t, page, res), "The drain of "+a.Addr+" has ended. No tunnel to it is open.")
	}, "the drain does not end")
	assert.Equal(t, 1, p.Stats().Live, "the other server's tunnel stays")
	assert.Equal(t, int64(1), p.Stats().Closed(wsproxy.ReasonShutdown))
}

// WithClose adds POST, and nothing else.
func TestWithCloseOnlyAddsPost(t *testing.T) {
	t.Parallel()
	page := "http://" + testkit.Serve(t, wsdebug.Handler(testkit.NewProxy(t, "http://upstream"), nil, wsdebug.WithClose()))
	for _, method := range []string{"PUT", "DELETE", "OPTIONS", "PATCH"} {
		req, err := http.NewRequest(method, page+"/?close=1", nil)
		require.NoError(t, err)
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		res.Body.Close()
		assert.Equal(t, http.StatusMethodNotAllowed, res.StatusCode, method)
		assert.Equal(t, "GET, HEAD, POST", res.Header.Get("Allow"), method)
	}
}
