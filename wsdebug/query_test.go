package wsdebug_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/wsdebug"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A listing is what a test reads of the JSON.
type listing struct {
	Matched int
	Tunnels []tunnel
}

type tunnel struct {
	ID                         uint64
	Client, Host, Path, Server string
	Age, Idle                  float64
}

func (l listing) ids() (ids []uint64) {
	for _, t := range l.Tunnels {
		ids = append(ids, t.ID)
	}
	return ids
}

func getJSON[T any](t *testing.T, url string) (v T) {
	t.Helper()
	res, body := get(t, url)
	require.Equal(t, http.StatusOK, res.StatusCode, body)
	require.Equal(t, "application/json", res.Header.Get("Content-Type"))
	require.NoError(t, json.Unmarshal([]byte(body), &v), body)
	return v
}

// An invalid value gets a 400 that names it and says what is valid. If it were
// ignored, a mistyped filter would show all tunnels.
func TestABadQueryIsExplained(t *testing.T) {
	p := testkit.NewProxy(t, "http://upstream")
	page := "http://" + testkit.Serve(t, wsdebug.Handler(p, nil))
	for query, want := range map[string]string{
		"n=1001":                              `n is "1001": want a number from 0 to 1000`,
		"n=-1":                                `n is "-1": want`,
		"n=ten":                               `n is "ten": want`,
		"refresh=3601":                        `refresh is "3601": want a number from 0 to 3600 seconds`,
		"refresh=0.5":                         `refresh is "0.5": want`,
		"ip=localhost":                        `ip is "localhost": want an address or a prefix, such as 192.0.2.1 or 2001:db8::/64`,
		"ip=192.0.2.0/33":                     `ip is "192.0.2.0/33": want`,
		"ip=fe80::1%25eth0":                   `ip is "fe80::1%eth0": want`,
		"older=10":                            `older is "10": want a duration such as 90s, 10m or 1h30m`,
		"older=-1s":                           `older is "-1s": want`,
		"sort=size":                           `sort is "size": want one of age, client, host,`,
		"sort=--age":                          `sort is "--age": want`,
		"format=xml":                          `format is "xml": want html or json`,
		"sever=a":                             `unknown parameter "sever": want one of proxy, server,`,
		"close=1":                             `unknown parameter "close"`,
		"n=1&n=2":                             `n is given 2 times: want it once`,
		"path=%zz":                            `the query cannot be parsed`,
		"path=a;b":                            `the query cannot be parsed`,
		"n=x&older=y":                         `older is "y"`,
		"server=" + strings.Repeat("a", 5000): "server has 5000 bytes: want at most 4096",
		"sort=%3Cscript%3E%E2%80%AE":          `sort is "<script>\u202e"`,
	} {
		res, body := get(t, page+"/?"+query)
		assert.Equal(t, http.StatusBadRequest, res.StatusCode, query)
		assert.Contains(t, html.UnescapeString(body), want, query)
		assert.NotContains(t, body, "<script", query)
		assert.NotContains(t, body, "\u202e", query)
	}
	res, body := get(t, page+"/?format=json&n=x&older=y")
	assert.Equal(t, http.StatusBadRequest, res.StatusCode)
	assert.JSONEq(t, `{"error": "n is \"x\": want a number from 0 to 1000\nolder is \"y\": want a duration such as 90s, 10m or 1h30m"}`, body)
	_, body = get(t, page+"/?older=10&path=/chat")
	assert.Contains(t, body, `value="10"`, "what was entered is in the form, to be corrected")
	assert.Contains(t, body, `value="/chat"`)
}

// Before, each unknown parameter had a message of its own: 1,000 of them made a page
// of 142 kB, and a query may have 1 MB.
func TestAnEndlessQueryGetsAShortAnswer(t *testing.T) {
	h := wsdebug.Handler(testkit.NewProxy(t, "http://upstream"), nil)
	var some, many strings.Builder
	for i := range 100_000 {
		if i < 1000 {
			fmt.Fprintf(&some, "a%d&", i)
		}
		fmt.Fprintf(&many, "a%d&", i)
	}
	for _, query := range []string{some.String(), many.String(), strings.Repeat("n=1&", 8000), strings.Repeat("x", 30_000)} {
		for _, format := range []string{"", "format=json&"} {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/?"+format+query, nil))
			assert.Equal(t, http.StatusBadRequest, w.Code)
			assert.Less(t, w.Body.Len(), 30_000)
		}
	}
}

// Each filter leaves the tunnels that it names, and all apply at once.
func TestAQueryFilters(t *testing.T) {
	a, b := testkit.Serve(t, testkit.Echo("a")), testkit.Serve(t, testkit.Echo("b"))
	u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: a}, wsproxy.Server{Addr: b})
	p, addr := testkit.ServeProxy(t, "http://chat", wsproxy.WithUpstream(u), wsproxy.WithTrustedProxies("127.0.0.0/8"))
	page := "http://" + testkit.Serve(t, wsdebug.Handler(p, u))
	open := func(path, ip string) {
		request := strings.Replace(testkit.SampleRequestAnd("X-Forwarded-For: "+ip), "GET /chat", "GET "+path, 1)
		res, _ := testkit.Do(t, addr, request)
		require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	}
	open("/chat/1", "192.0.2.1") // 1, to a
	open("/chat/2", "192.0.2.9") // 2, to b
	open("/feed", "2001:db8::1") // 3, to a

	for query, want := range map[string][]uint64{
		"":                             {1, 2, 3},
		"server=" + a:                  {1, 3},
		"server=" + b:                  {2},
		"server=192.0.2.1:1":           nil,
		"ip=192.0.2.1":                 {1},
		"ip=::ffff:192.0.2.1":          {1},
		"ip=192.0.2.0/29":              {1},
		"ip=::ffff:192.0.2.0/120":      {1, 2},
		"ip=2001:db8:0:0:ffff::/32":    {3},
		"path=/chat":                   {1, 2},
		"path=ee":                      {3},
		"older=1h":                     nil,
		"older=0s":                     {1, 2, 3},
		"path=chat&ip=192.0.2.9":       {2},
		"path=chat&server=" + a:        {1},
		"server=&ip=&path=&older=&n=2": {2, 3},
		"n=0":                          nil,
	} {
		l := getJSON[listing](t, page+"/?sort=-age&format=json&"+query)
		if strings.Contains(query, "n=2") {
			l = getJSON[listing](t, page+"/?sort=age&format=json&"+query)
			assert.ElementsMatch(t, want, l.ids(), query)
			assert.Equal(t, 3, l.Matched, query)
			continue
		}
		assert.Equal(t, want, l.ids(), query)
	}
	_, body := get(t, page+"/?n=1")
	assert.Contains(t, body, "1 of 3 open")
	_, body = get(t, page+"/?n=1&path=chat")
	assert.Contains(t, body, "1 of 2 that match, of 3 open")
}

// The table has the first n of all tunnels, in each order. A heap finds them; this
// compares it with a sort of all.
func TestAQuerySorts(t *testing.T) {
	const tunnels = 300
	p := testkit.OpenIdle(t, tunnels, func(i int, r *http.Request) {
		r.URL.Path = fmt.Sprintf("/%d", i*7919%tunnels%50) // not in the order of the IDs, with equals
		r.Host = strconv.Itoa(i % 3)
	})
	page := "http://" + testkit.Serve(t, wsdebug.Handler(p, nil))
	type order func(a, b tunnel) int
	same := func(a, b tunnel) int { return 0 }
	for name, order := range map[string]order{
		"age":          func(a, b tunnel) int { return cmp.Compare(a.Age, b.Age) },
		"idle":         func(a, b tunnel) int { return cmp.Compare(a.Idle, b.Idle) },
		"path":         func(a, b tunnel) int { return cmp.Compare(a.Path, b.Path) },
		"host":         func(a, b tunnel) int { return cmp.Compare(a.Host, b.Host) },
		"client":       func(a, b tunnel) int { return netip.MustParseAddr(a.Client).Compare(netip.MustParseAddr(b.Client)) },
		"server":       same,
		"protocol":     same,
		"client_bytes": same, "client_messages": same,
		"upstream_bytes": same, "upstream_messages": same,
	} {
		for sign, of := range map[string]int{"": 1, "-": -1} {
			whole := getJSON[listing](t, page+"/?format=json&n=1000&sort="+sign+name)
			require.Len(t, whole.Tunnels, tunnels)
			assert.True(t, slices.IsSortedFunc(whole.Tunnels, func(a, b tunnel) int {
				return cmp.Or(of*order(a, b), cmp.Compare(a.ID, b.ID))
			}), "%s%s, and equals by ID", sign, name)
			some := getJSON[listing](t, page+"/?format=json&n=20&sort="+sign+name)
			assert.Equal(t, tunnels, some.Matched)
			assert.Equal(t, whole.ids()[:20], some.ids(), "%s%s", sign, name)
		}
	}
}

// Links have no path, so that they work wherever the handler is mounted. They keep
// the rest of the query.
func TestLinksWorkBelowAnyPath(t *testing.T) {
	p := testkit.OpenIdle(t, 1, func(_ int, r *http.Request) { r.URL.Path = "/a&b" })
	h := wsdebug.HandlerOf([]wsdebug.Named{{Name: "a&b", Proxy: p}, {Name: `<"c">`, Proxy: testkit.NewProxy(t, "http://upstream")}}, wsdebug.WithClose())
	mux := http.NewServeMux()
	mux.Handle("/debug/ws", h)
	mux.Handle("/debug/ws/", h)
	mux.Handle("/stripped/", http.StripPrefix("/stripped", h))
	mux.Handle("/{$}", h)
	site := "http://" + testkit.Serve(t, mux)

	attribute := regexp.MustCompile(`(?:href|src|action)="([^"]*)"`)
	for _, path := range []string{"/", "/debug/ws", "/debug/ws/", "/stripped/"} {
		base, err := url.Parse(site + path + "?path=%2Fa%26b&older=1ns")
		require.NoError(t, err)
		res, body := get(t, base.String())
		require.Equal(t, http.StatusOK, res.StatusCode, path)
		links := attribute.FindAllStringSubmatch(body, -1)
		assert.Greater(t, len(links), 20)
		seen := map[string]bool{}
		for _, each := range links {
			link := html.UnescapeString(each[1])
			if strings.HasPrefix(link, "data:image/svg+xml,") || seen[link] {
				continue
			}
			seen[link] = true
			to, err := base.Parse(link)
			require.NoError(t, err, link)
			assert.Equal(t, path, to.Path, link)
			assert.Equal(t, base.Host, to.Host, link)
			if to.Query().Has("sort") {
				assert.Equal(t, "/a&b", to.Query().Get("path"), link)
				assert.Equal(t, "1ns", to.Query().Get("older"), link)
			}
			res, body := get(t, to.String())
			assert.Equal(t, http.StatusOK, res.StatusCode, "%s: %s", link, body)
		}
	}
}

// With refresh, the page has its own URL loaded again, without a fragment. If the URL
// differs in a byte, browsers go to the top. If it has a fragment, they only scroll.
func TestRefreshLoadsTheSameURL(t *testing.T) {
	p := testkit.NewProxy(t, "http://upstream")
	page := "http://" + testkit.Serve(t, wsdebug.Handler(p, nil))
	for _, query := range []string{"refresh=2", "refresh=2&sort=-idle", "sort=-idle&refresh=2&path=", "path=%2fa+b%20&refresh=2"} {
		_, body := get(t, page+"/?"+query)
		assert.Contains(t, html.UnescapeString(body), `<meta http-equiv="refresh" content="2; url=?`+query+`">`)
	}
	_, body := get(t, page+"/?refresh=0")
	assert.NotContains(t, body, "http-equiv")
}
