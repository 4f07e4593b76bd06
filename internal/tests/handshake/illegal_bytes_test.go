package handshake_test

import (
	"net/http/httputil"
	"strings"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

func TestIllegalBytesInAHeaderAreNeverForwarded(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL)
	for name, line := range map[string]string{
		"a NUL in a value":           "X-A: a\x00b",
		"a control character":        "X-A: a\x01b",
		"a bare CR":                  "X-A: a\rX-Injected: 1",
		"a space in a name":          "X A: 1",
		"a space before the colon":   "X-A : 1",
		"an empty name":              ": 1",
		"a non-ASCII name":           "X-\xc3\xa4: 1",
		"a space before the length":  "Content-Length : 5",
		"two different lengths":      "Content-Length: 0\r\nContent-Length: 5",
		"a length and chunks":        "Transfer-Encoding: chunked\r\nContent-Length: 5",
		"an unknown transfer coding": "Transfer-Encoding: xchunked",
		"a second Host":              "Host: other.example.com",
	} {
		t.Run(name, func(t *testing.T) {
			res, _ := testkit.Do(t, addr, testkit.SampleRequestAnd(line))
			assert.GreaterOrEqual(t, res.StatusCode, 400)
			assert.NotEqual(t, 502, res.StatusCode, "the client's mistake is laid at the upstream's door")
			assert.Empty(t, u.Conns, "the request reached the upstream")
		})
	}

	client := testkit.Dial(t, addr)
	client.Send(t, testkit.SampleRequestAnd("X-A: a\tb \xff\xc3\xa4"))
	assert.Contains(t, u.Accept(t).RawHeader(t), "\r\nX-A: a\tb \xff\xc3\xa4\r\n", "bytes that are legal are changed")
}

func TestAHostThatCannotBeSentCauses400(t *testing.T) {
	u := testkit.NewUpstream(t)
	errs := testkit.NewFailures()
	_, addr := testkit.ServeProxy(t, u.URL, errs.Option())
	for _, host := range []string{"a%zz", "a{b}", "example.com:99999", "[::1", "a@b", "a/b", "a?b", "a b"} {
		t.Run(host, func(t *testing.T) {
			res, _ := testkit.Do(t, addr, testkit.SampleRequestWith(t, "server.example.com", host))
			assert.Equal(t, 400, res.StatusCode)
			if len(errs) > 0 { // otherwise net/http has refused it
				assert.ErrorIs(t, errs.Next(t).Err, wsproxy.ErrBadHandshake)
			}
			assert.Empty(t, u.Conns, "the upstream was dialed")
			for len(u.Conns) > 0 {
				(<-u.Conns).Close()
			}
		})
	}
}

// In httputil an empty Host means the host of the URL, and ProxyRequest.SetURL
// itself sets it so. A rewrite function may do the same here.
func TestAnEmptyHostIsReplacedByTheTargets(t *testing.T) {
	u := testkit.NewUpstream(t)
	headers := u.Respond(testkit.ResponseOKClose)
	_, addr := testkit.ServeProxy(t, u.URL, wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) { pr.Out.Host = "" }))
	for _, request := range []string{testkit.SampleRequest, testkit.SampleRequestWith(t, "Upgrade: websocket", "Upgrade: none")} {
		res, _ := testkit.Do(t, addr, request)
		if assert.Equal(t, 200, res.StatusCode) {
			assert.Contains(t, <-headers, "\r\nHost: "+u.Addr+"\r\n")
		}
	}
}

// An http.Transport takes these from other fields of the Request and ignores
// them in the header. In an upgrade, a second Host or a Content-Length makes
// servers refuse the request or parse it differently.
func TestARewriteCannotBreakTheFramingOfAnUpgrade(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL, wsproxy.WithRewrite(func(pr *httputil.ProxyRequest) {
		pr.Out.Header.Set("Host", "other.example.com")
		pr.Out.Header.Set("Content-Length", "7")
		pr.Out.Header.Set("Transfer-Encoding", "chunked")
		pr.Out.Header.Set("Trailer", "X-T")
		pr.Out.Header.Set("Upgrade", "h2c")
		pr.Out.Header.Set("Connection", "close")
		pr.Out.Header.Set("Sec-WebSocket-Key", "none")
		pr.Out.Header.Del("Sec-WebSocket-Version")
	}))
	client := testkit.Dial(t, addr)
	client.Send(t, testkit.SampleRequest)
	header := strings.ToLower(u.Accept(t).RawHeader(t))
	assert.Equal(t, 1, strings.Count(header, "\r\nhost:"), "in %s", header)
	for _, name := range []string{"content-length", "transfer-encoding", "trailer", "h2c", "close", "none"} {
		assert.NotContains(t, header, name)
	}
	assert.Contains(t, header, "\r\nsec-websocket-version: 13\r\n")
}
