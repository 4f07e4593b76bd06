package wsdebug_test

import (
	"net/http"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/wsdebug"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Clients choose paths, hosts and subprotocols. None becomes markup, moves the text
// around it, or makes the page long.
func TestWhatClientsSendIsShownAsText(t *testing.T) {
	t.Parallel()
	u := testkit.NewUpstream(t)
	p, addr := testkit.ServeProxy(t, u.URL, wsproxy.WithTrustedProxies("127.0.0.0/8"))
	page := "http://" + testkit.Serve(t, wsdebug.Handler(p, nil, wsdebug.WithClose()))
	open := func(path, host, subprotocol string) {
		request := strings.Replace(testkit.SampleRequest, "GET /chat", "GET "+path, 1)
		request = strings.Replace(request, "server.example.com", host, 1)
		client := testkit.Dial(t, addr)
		client.Send(t, request)
		server := u.Accept(t)
		server.Request(t)
		server.Send(t, testkit.SampleSwitchWith(t, "\r\n\r\n", "\r\nSec-WebSocket-Protocol: "+subprotocol+"\r\n\r\n"))
		res := client.Response(t)
		require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
	}
	open(`/<script>alert(1)</script>`, `a.example`, `"><img/src=x>`)
	open(`/'"onmouseover=alert(1)//<!--`, `a.example`, `</title><svg/onload=alert(1)>`)
	open(`/%00%07%1b%5b31m%0d%0a%ff%fe`, `a.example`, "javascript:alert(1)")
	open(`/%e2%80%ae%e2%81%a6gnp.exe%e2%80%8b%c2%a0`, `a.example`, "x")
	open(`/z`+strings.Repeat(`%cc%81`, 100), `a.example`, "{{.}}")
	open(`/`+strings.Repeat("%ff", 5000), strings.Repeat("a.", 2000)+"example", strings.Repeat("p", 3000))

	for _, query := range []string{"", "?n=1000", "?close=1", "?close=2", "?close=3", "?close=4", "?close=5", "?close=6", "?path=%3Cscript%3E%E2%80%AE%00&refresh=2", "?path=%FF",
		"?server=%22%3E%3Cscript%3E", "?closed=9"} {
		res, body := get(t, page+"/"+query)
		require.Equal(t, http.StatusOK, res.StatusCode, query)
		assert.True(t, utf8.ValidString(body), query)
		for _, bad := range []string{"<script", "<img", "onload=alert(1)>", `"onmouseover`, "<!--", "\u202e", "\u2066", "\u200b"} {
			if strings.Contains(query, "path=") && bad == "\u202e" {
				continue
			}
			assert.NotContains(t, body, bad, query)
		}
		for _, r := range body {
			if unicode.IsControl(r) && r != '\n' {
				require.Fail(t, "a control character", "%q in %s", r, query)
			}
		}
		assert.Less(t, len(body), 60_000, query)
	}
	_, body := get(t, page)
	for _, want := range []string{`/&lt;script&gt;alert(1)&lt;/script&gt;`, `/\x00\a\x1b[31m\r\n\xff\xfe`, `/\u202e\u2066gnp.exe\u200b\u00a0`,
		`\xff…`, `a.…`, `ppp…`, "javascript:alert(1)"} {
		assert.Contains(t, body, want)
	}
	res, body := get(t, page+"/?format=json")
	require.Equal(t, http.StatusOK, res.StatusCode)
	assert.True(t, utf8.ValidString(body))
	assert.NotContains(t, body, "<script")
	assert.Less(t, len(body), 20_000)
}

// The headers keep browsers from storing the page, sniffing its type, framing it,
// telling others its URL, and running or loading anything.
func TestThePageHasStrictHeaders(t *testing.T) {
	t.Parallel()
	page := "http://" + testkit.Serve(t, wsdebug.Handler(testkit.NewProxy(t, "http://upstream"), nil))
	for _, query := range []string{"", "?format=json", "?n=x", "?proxy=x"} {
		res, body := get(t, page+"/"+query)
		for name, want := range map[string]string{
			"Cache-Control": "no-store", "Referrer-Policy": "same-origin",
			"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY",
		} {
			assert.Equal(t, want, res.Header.Get(name), query)
		}
		policy := res.Header.Get("Content-Security-Policy")
		assert.Regexp(t, `^default-src 'none'; style-src 'sha256-[A-Za-z0-9+/]{43}='; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'$`, policy)
		assert.NotContains(t, body, "style=", "the policy forbids the attribute")
	}
}
