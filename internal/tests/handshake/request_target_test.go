package handshake_test

import (
	"strings"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

func TestOriginQueryAndEncodedPathReachTheUpstreamAsSent(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL)
	for _, origin := range []string{"", "http://127.0.0.2", "https://other.example:8443", "null", "not an origin"} {
		for _, target := range []string{"/ws?query=test", "/ws/http%3A%2F%2Ftest", "/%3A%2F%2F?redirect=http%3A%2F%2Fa%2Fb&x=%20+;y", "/?"} {
			request, want := testkit.SampleRequestWith(t, "/chat", target), []string(nil)
			if origin != "" {
				request, want = strings.Replace(request, "\r\n\r\n", "\r\nOrigin: "+origin+"\r\n\r\n", 1), []string{origin}
			}
			client := testkit.Dial(t, addr)
			client.Send(t, request)
			server := u.Accept(t)
			got := server.Request(t)
			assert.Equal(t, want, got.Header["Origin"])
			assert.Equal(t, target, got.RequestURI)
			server.Send(t, testkit.SampleSwitch)
			assert.Equal(t, 101, client.Response(t).StatusCode)
		}
	}
}

func TestTheRequestTargetOfAnUpgradeIsForwardedByteForByte(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL+"/base/?t=1")
	for name, target := range map[string]string{
		"encoded slashes":            "/a%2Fb/c%2fd//e/%2eE/%252e/",
		"semicolons and bad escapes": "/x?a;b=%zz&=&&c=%&d=1;2",
		"an empty query":             "/x",
		"raw bytes":                  "/x?q=\xff\xfe\"<>\\^`{|}",
		"ten thousand parameters":    "/x?" + strings.Repeat("p=v&", 10_000),
	} {
		t.Run(name, func(t *testing.T) {
			client := testkit.Dial(t, addr)
			client.Send(t, testkit.SampleRequestWith(t, "/chat", target))
			line, _, _ := strings.Cut(u.Accept(t).RawHeader(t), "\r\n")
			path, query, found := strings.Cut(target, "?")
			want := "GET /base" + path + "?t=1"
			if found {
				want += "&" + query
			}
			assert.Equal(t, want+" HTTP/1.1", line)
		})
	}
}

// A request target such as x:http://other/admin leaves URL.Path empty, which
// is all that rules in front of the proxy look at. What the upstream gets must
// lie under the target's path like any other request.
func TestARequestTargetWithoutAPathCannotEscapeTheTarget(t *testing.T) {
	u := testkit.NewUpstream(t)
	headers := u.Respond(testkit.ResponseOKClose)
	_, addr := testkit.ServeProxy(t, u.URL+"/base")
	for _, target := range []string{"x:http://internal.example.com/admin", "x:admin", "http:*", "x:..%2fadmin?q"} {
		for _, request := range []string{
			testkit.SampleRequestWith(t, "/chat", target),
			"GET " + target + " HTTP/1.1\r\nHost: example.com\r\n\r\n",
		} {
			res, _ := testkit.Do(t, addr, request)
			select {
			case header := <-headers:
				line, _, _ := strings.Cut(header, "\r\n")
				assert.True(t, strings.HasPrefix(line, "GET /base"), "%q became %q", target, line)
			default:
				assert.Equal(t, 400, res.StatusCode, "a request that is not forwarded")
			}
		}
	}
}
