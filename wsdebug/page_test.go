package wsdebug_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/wsdebug"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// get returns the response to a GET and its body.
func get(t *testing.T, url string) (*http.Response, string) {
	t.Helper()
	res, err := http.Get(url)
	require.NoError(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res, string(body)
}

// The page shows a tunnel that is open: client, host, path, server and bytes.
func TestThePageShowsATunnel(t *testing.T) {
	u := testkit.NewUpstream(t)
	p, addr := testkit.ServeProxy(t, u.URL)
	url := "http://" + testkit.Serve(t, wsdebug.Handler(p, nil))
	client, server := testkit.Ends(testkit.Tunnel(t, addr, u))
	client.SendFrame(t, testkit.Text, "hello")
	server.ExpectFrame(t, testkit.Text, "hello")

	res, body := get(t, url)
	assert.Equal(t, http.StatusOK, res.StatusCode)
	assert.Equal(t, "text/html; charset=utf-8", res.Header.Get("Content-Type"))
	tunnel := testkit.OnlyTunnel(t, p)
	for _, want := range []string{tunnel.ClientIP().String(), tunnel.Host(), tunnel.Path(), u.Addr, "1 open", "11\u00a0B", "1 message<"} {
		assert.Contains(t, body, want)
	}
}

// HandlerOf shows one proxy at a time, which the query selects.
func TestTheQuerySelectsAProxy(t *testing.T) {
	u := testkit.NewUpstream(t)
	chat, addr := testkit.ServeProxy(t, u.URL)
	feed := testkit.NewProxy(t, u.URL)
	testkit.Tunnel(t, addr, u)
	url := "http://" + testkit.Serve(t, wsdebug.HandlerOf([]wsdebug.Named{{Name: "/chat", Proxy: chat}, {Name: "/feed", Proxy: feed}}))

	for query, want := range map[string]string{"": "1 open", "?proxy=/chat": "1 open", "?proxy=%2Ffeed": "0 open"} {
		_, body := get(t, url+"/"+query)
		assert.Contains(t, body, want, query)
		for _, link := range []string{`href="?proxy=%2Fchat"`, `href="?proxy=%2Ffeed"`} {
			assert.Contains(t, body, link)
		}
	}
	res, _ := get(t, url+"/?proxy=none")
	assert.Equal(t, http.StatusNotFound, res.StatusCode)
}

// A link to a proxy whose Name is empty has no parameter. Before, it led to the first
// proxy, and nothing led to that one.
func TestAProxyWithoutANameIsTheDefault(t *testing.T) {
	u := testkit.NewUpstream(t)
	unnamed, addr := testkit.ServeProxy(t, u.URL)
	testkit.Tunnel(t, addr, u)
	url := "http://" + testkit.Serve(t, wsdebug.HandlerOf([]wsdebug.Named{{Name: "/feed", Proxy: testkit.NewProxy(t, u.URL)}, {Proxy: unnamed}}))
	for query, want := range map[string]string{"": "1 open", "?proxy=": "1 open", "?proxy=%2Ffeed": "0 open"} {
		_, body := get(t, url+"/"+query)
		assert.Contains(t, body, want, query)
	}
}

// Without WithClose only GET and HEAD are allowed.
func TestThePageOnlyReads(t *testing.T) {
	p := testkit.NewProxy(t, "http://upstream")
	url := "http://" + testkit.Serve(t, wsdebug.Handler(p, nil))
	for _, method := range []string{"POST", "PUT", "DELETE", "OPTIONS", "PATCH"} {
		req, err := http.NewRequest(method, url, strings.NewReader("close=1"))
		require.NoError(t, err)
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		res.Body.Close()
		assert.Equal(t, http.StatusMethodNotAllowed, res.StatusCode, method)
		assert.Equal(t, "GET, HEAD", res.Header.Get("Allow"), method)
	}
	res, err := http.Head(url)
	require.NoError(t, err)
	assert.Equal(t, http.StatusOK, res.StatusCode)
	assert.Positive(t, res.ContentLength)
	res.Body.Close()
}

// Two proxies with one name could not be distinguished, and one without a Proxy would
// fail only at the first request.
func TestHandlerOfRefusesProxiesThatItCannotShow(t *testing.T) {
	p := testkit.NewProxy(t, "http://upstream")
	assert.PanicsWithValue(t, `wsdebug: two proxies have the name "a"`, func() {
		wsdebug.HandlerOf([]wsdebug.Named{{Name: "a", Proxy: p}, {Name: "a", Proxy: p}})
	})
	assert.PanicsWithValue(t, `wsdebug: the proxy with the name "a" is nil`, func() { wsdebug.HandlerOf([]wsdebug.Named{{Name: "a"}}) })
	res, body := get(t, "http://"+testkit.Serve(t, wsdebug.HandlerOf(nil)))
	assert.Equal(t, http.StatusNotFound, res.StatusCode)
	assert.Contains(t, body, "there is no proxy to show")
}
