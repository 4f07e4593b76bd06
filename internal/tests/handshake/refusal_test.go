package handshake_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// refuse sends the sample handshake through the proxy at addr and makes the
// upstream send response, without closing its connection.
func refuse(t testing.TB, addr string, u *testkit.Upstream, response string) (client, server *testkit.Peer) {
	t.Helper()
	client = testkit.Dial(t, addr)
	client.Send(t, testkit.SampleRequest)
	server = u.Accept(t)
	server.Request(t)
	server.Send(t, response)
	return client, server
}

func TestARefusalOfTheUpstreamReachesTheClient(t *testing.T) {
	for _, c := range []struct {
		name, response string
		status         int
		header         http.Header
		body           string
	}{
		{"200 with the fields of an upgrade", "HTTP/1.1 200 OK\r\nUpgrade: websocket\r\nConnection: Upgrade, X-Hop\r\n" +
			"Sec-WebSocket-Accept: " + testkit.SampleAccept + "\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nContent-Length: 4\r\n\r\npage",
			200, http.Header{"Upgrade": nil, "X-Hop": nil, "Keep-Alive": nil, "Sec-Websocket-Accept": {testkit.SampleAccept}, "Content-Length": {"4"}}, "page"},
		{"302", "HTTP/1.1 302 Found\r\nLocation: http://10.0.0.1:3000/a%2Fb?c#d\r\nContent-Length: 0\r\n\r\n",
			302, http.Header{"Location": {"http://10.0.0.1:3000/a%2Fb?c#d"}}, ""},
		{"401", "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"a\"\r\nWWW-Authenticate: Digest realm=\"b\"\r\n" +
			"Set-Cookie: a=1; Path=/\r\nSet-Cookie: b=2\r\nContent-Length: 2\r\n\r\nno",
			401, http.Header{"Www-Authenticate": {`Basic realm="a"`, `Digest realm="b"`}, "Set-Cookie": {"a=1; Path=/", "b=2"}}, "no"},
		{"426", "HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 13, 8\r\nContent-Length: 3\r\n\r\nold",
			426, http.Header{"Sec-Websocket-Version": {"13, 8"}}, "old"},
		{"503 in chunks", "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 7\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nnot\r\n4\r\n now\r\n0\r\n\r\n",
			503, http.Header{"Retry-After": {"7"}}, "not now"},
		{"gzip that the proxy must not decode", "HTTP/1.1 500 Oops\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x00\xff",
			500, http.Header{"Content-Encoding": {"gzip"}, "Content-Length": {"4"}}, "\x1f\x8b\x00\xff"},
		{"204", "HTTP/1.1 204 No Content\r\n\r\n", 204, nil, ""},
		{"304", "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\n\r\n", 304, http.Header{"Etag": {`"a"`}}, ""},
		{"an unknown status", "HTTP/1.1 799 Hm\r\nContent-Length: 0\r\n\r\n", 799, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := testkit.NewUpstream(t)
			errs := testkit.NewFailures()
			p, addr := testkit.ServeProxy(t, u.URL, errs.Option())
			client, server := refuse(t, addr, u, c.response)
			res := client.Response(t)
			assert.Equal(t, c.status, res.StatusCode)
			for name, values := range c.header {
				assert.Equal(t, values, res.Header[name], "field %s", name)
			}
			assert.Empty(t, res.Header["Upgrade"])
			assert.Equal(t, c.body, testkit.Body(t, res))
			assert.True(t, res.Close, "the response does not announce the end of the connection")
			assert.Empty(t, client.Rest(t, "the client's"))
			assert.Empty(t, server.Rest(t, "the upstream's"))
			assert.Empty(t, errs, "a response of the upstream is not a failure")
			testkit.Eventually(t, func() bool { return testkit.Counted(p) == testkit.Counts{} }, "the handshake is still counted")
		})
	}
}

func TestABodyThatEndsWithTheConnectionIsComplete(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL)
	client, server := refuse(t, addr, u, "HTTP/1.0 403 Forbidden\r\n\r\nto the end")
	server.Close()
	assert.Equal(t, "to the end", testkit.Body(t, client.Response(t)))
}

func TestALargeRefusalIsStreamedIntact(t *testing.T) {
	blob := make([]byte, 10<<20)
	rand.NewChaCha8([32]byte{1}).Read(blob)
	for name, framing := range map[string]string{
		"with its length": fmt.Sprintf("Content-Length: %d\r\n", len(blob)),
		"to the end":      "",
	} {
		t.Run(name, func(t *testing.T) {
			u := testkit.NewUpstream(t)
			u.Script(func(server *testkit.Peer) {
				http.ReadRequest(server.Reader)
				io.Copy(server, io.MultiReader(strings.NewReader("HTTP/1.1 500 Oops\r\n"+framing+"\r\n"), bytes.NewReader(blob)))
			})
			_, addr := testkit.ServeProxy(t, u.URL)
			res, _ := testkit.Do(t, addr, testkit.SampleRequest)
			assert.Equal(t, 500, res.StatusCode)
			got := sha256.New()
			_, err := io.Copy(got, res.Body)
			require.NoError(t, err)
			assert.Equal(t, sha256.Sum256(blob), [32]byte(got.Sum(nil)))
		})
	}
}

func TestARefusalIsForwardedAsItArrives(t *testing.T) {
	for name, response := range map[string][2]string{
		"with its length": {"HTTP/1.1 403 Forbidden\r\nContent-Length: 11\r\n\r\nfirst ", "second"[:5]},
		"in chunks":       {"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nfirst \r\n", "5\r\nsecon\r\n0\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			u := testkit.NewUpstream(t)
			_, addr := testkit.ServeProxy(t, u.URL)
			client, server := refuse(t, addr, u, response[0])
			res := client.Response(t)
			first := make([]byte, 6)
			_, err := io.ReadFull(res.Body, first)
			require.NoError(t, err)
			assert.Equal(t, "first ", string(first))
			server.Send(t, response[1])
			assert.Equal(t, "secon", testkit.Body(t, res))
		})
	}
}

func TestTheHeaderOfARefusalDoesNotWaitForItsBody(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL)
	client, server := refuse(t, addr, u, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\n")
	res := client.Response(t)
	server.Send(t, "no")
	assert.Equal(t, "no", testkit.Body(t, res))
}

func TestTheTrailersOfARefusalAreForwarded(t *testing.T) {
	for name, announced := range map[string]string{"announced": "Trailer: X-Sum\r\n", "not announced": ""} {
		t.Run(name, func(t *testing.T) {
			u := testkit.NewUpstream(t)
			_, addr := testkit.ServeProxy(t, u.URL)
			client, _ := refuse(t, addr, u, "HTTP/1.1 403 Forbidden\r\n"+announced+
				"Transfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\nX-Sum: 42\r\n\r\n")
			res := client.Response(t)
			assert.Equal(t, "no", testkit.Body(t, res))
			assert.Equal(t, []string{"42"}, res.Trailer["X-Sum"])
		})
	}
}

func TestATruncatedRefusalIsTruncatedForTheClientToo(t *testing.T) {
	for name, response := range map[string]string{
		"with its length":  "HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\npart",
		"in chunks":        "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
		"within a chunk":   "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n9\r\npart",
		"by a broken size": "HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\nzz\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			u := testkit.NewUpstream(t)
			p, addr := testkit.ServeProxy(t, u.URL)
			client, server := refuse(t, addr, u, response)
			server.Close()
			res := client.Response(t)
			got, err := io.ReadAll(res.Body)
			assert.Error(t, err, "the body looks complete")
			assert.Equal(t, "part", string(got))
			testkit.Eventually(t, func() bool { return testkit.Counted(p) == testkit.Counts{} }, "the handshake is still counted")
		})
	}
}

func TestAStalledRefusalIsClosedAfterTheReadTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil, wsproxy.WithReadTimeout(5*time.Second))
		client := r.SendHandshake(t)
		server := <-r.Upstreams
		server.Request(t)
		server.Send(t, "HTTP/1.1 403 Forbidden\r\nContent-Length: 100\r\n\r\n")
		time.Sleep(3 * time.Second)
		server.Send(t, "part")
		start := time.Now()
		res := client.Response(t)
		assert.Equal(t, 403, res.StatusCode)
		got, err := io.ReadAll(res.Body)
		assert.ErrorIs(t, err, io.ErrUnexpectedEOF)
		assert.Equal(t, "part", string(got))
		assert.Empty(t, server.Rest(t, "the upstream's"))
		assert.Equal(t, 5*time.Second, time.Since(start), "the body is truncated after")
	})
}
