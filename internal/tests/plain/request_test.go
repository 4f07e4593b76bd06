package plain_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAPlainRequestReachesTheUpstreamAsSent(t *testing.T) {
	for name, c := range map[string]struct {
		opts       []wsproxy.Option
		connection string
	}{
		"by default":      {nil, "Connection: close\r\n"},
		"with keep-alive": {[]wsproxy.Option{wsproxy.WithKeepAlive()}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			u := testkit.NewUpstream(t)
			headers := u.Respond(testkit.ResponseOKClose)
			_, addr := testkit.ServeProxy(t, u.URL, c.opts...)
			res, _ := testkit.Do(t, addr, testkit.PlainRequest)
			assert.Equal(t, 200, res.StatusCode)
			assert.Equal(t, "ok", testkit.Body(t, res))
			assert.Equal(t, "GET /page HTTP/1.1\r\nHost: server.example.com\r\n"+c.connection+
				"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: server.example.com\r\nX-Forwarded-Proto: http\r\nX-Real-Ip: 127.0.0.1\r\n\r\n",
				sortedHeader(<-headers), "no User-Agent or Accept-Encoding of the proxy's")
		})
	}
}

// sortedHeader puts the fields after Host in order.
func sortedHeader(header string) string {
	lines := strings.SplitAfter(strings.TrimSuffix(header, "\r\n"), "\r\n")
	for i := 2; i < len(lines); i++ {
		for j := i; j > 2 && lines[j] != "" && lines[j] < lines[j-1]; j-- {
			lines[j], lines[j-1] = lines[j-1], lines[j]
		}
	}
	return strings.Join(lines, "") + "\r\n"
}

func TestAPlainFailureReachesTheSameErrorHandler(t *testing.T) {
	down := testkit.RefusingAddr(t)
	u := testkit.NewUpstream(t)
	for _, c := range []struct {
		name, target, response string
		opts                   []wsproxy.Option
		status                 int
		kind                   error
		says                   string
	}{
		{"down", "http://" + down, "", nil, 502, wsproxy.ErrUpstream, down},
		{"garbage", u.URL, "SSH-2.0-OpenSSH_9.6\r\n\r\n", nil, 502, wsproxy.ErrUpstream, "SSH-2.0"},
		{"a status below 100", u.URL, "HTTP/1.1 099 Hm\r\nContent-Length: 0\r\n\r\n", nil, 502, wsproxy.ErrUpstream, "99"},
		{"a huge header", u.URL, "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2<<20) + "\r\n\r\n", nil, 502, wsproxy.ErrUpstream, "exceeded"},
		{"a slow header", u.URL, "HTTP/1.1 200 OK\r\n", []wsproxy.Option{wsproxy.WithReadTimeout(50 * time.Millisecond)},
			504, wsproxy.ErrUpstreamTimeout, "timeout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			respond := func() {
				if c.target == u.URL {
					server := u.Accept(t)
					server.Request(t)
					go io.WriteString(server, c.response)
				}
			}
			_, addr := testkit.ServeProxy(t, c.target, c.opts...)
			client := testkit.Dial(t, addr)
			client.Send(t, testkit.PlainRequest)
			respond()
			testkit.WantFailure(t, client, &testkit.Upstream{Addr: strings.TrimPrefix(c.target, "http://")}, c.status)

			errs := testkit.NewFailures()
			p := testkit.NewProxy(t, c.target, append(c.opts, errs.Option())...)
			in := make(chan *http.Request, 1)
			addr = testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				in <- r
				p.ServeHTTP(w, r)
			}))
			client = testkit.Dial(t, addr)
			client.Send(t, testkit.PlainRequest)
			respond()
			assert.Equal(t, c.status, client.Response(t).StatusCode)
			got := errs.Next(t)
			assert.ErrorIs(t, got.Err, c.kind)
			assert.Equal(t, c.status, wsproxy.StatusCode(got.Err))
			assert.ErrorContains(t, got.Err, c.says)
			want := <-in
			assert.Equal(t, want.URL.String(), got.Request.URL.String(), "the handler gets the outgoing request")
			assert.Equal(t, want.Host, got.Request.Host)
			assert.Equal(t, want.RequestURI, got.Request.RequestURI)
			assert.Equal(t, want.RemoteAddr, got.Request.RemoteAddr)
			assert.Equal(t, want.Header, got.Request.Header)
		})
	}
}

func TestAClientThatDisconnectsCancelsItsPlainRequest(t *testing.T) {
	for name, response := range map[string]string{
		"before the response": "",
		"within the body":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			u := testkit.NewUpstream(t)
			errs := testkit.NewFailures()
			_, addr := testkit.ServeProxy(t, u.URL, errs.Option(), wsproxy.WithKeepAlive())
			client := testkit.Dial(t, addr)
			client.Send(t, testkit.PlainRequest)
			server := u.Accept(t)
			server.Request(t)
			server.Send(t, response)
			if response != "" {
				client.Response(t)
			}
			client.Reset()
			assert.Empty(t, server.Rest(t, "the upstream's"))
			if response == "" {
				err := errs.Next(t).Err
				assert.Equal(t, 499, wsproxy.StatusCode(err))
				assert.NotErrorIs(t, err, wsproxy.ErrUpstream, "the upstream is blamed")
			}
		})
	}
}

func TestAPlainResponseCanBeModified(t *testing.T) {
	u := testkit.NewUpstream(t)
	u.Respond("HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nContent-Length: 2\r\n\r\nok")
	broken := errors.New("broken rule")
	errs := testkit.NewFailures()
	var fail bool
	_, addr := testkit.ServeProxy(t, u.URL, errs.Option(), wsproxy.WithModifyResponse(func(res *http.Response) error {
		if fail {
			return broken
		}
		res.Header.Set("X-Hops", res.Header.Get("X-Hop"))
		res.StatusCode = 203
		return nil
	}))
	res, _ := testkit.Do(t, addr, testkit.PlainRequest)
	assert.Equal(t, 203, res.StatusCode)
	assert.Equal(t, []string{""}, res.Header["X-Hops"], "hop-by-hop fields are removed first")
	fail = true
	res, _ = testkit.Do(t, addr, testkit.PlainRequest)
	assert.Equal(t, 502, res.StatusCode)
	err := errs.Next(t).Err
	assert.ErrorIs(t, err, wsproxy.ErrUpstream)
	assert.ErrorIs(t, err, broken)
}

func TestTheRequestTargetOfAPlainRequestIsForwardedByteForByte(t *testing.T) {
	u := testkit.NewUpstream(t)
	headers := u.Respond(testkit.ResponseOKClose)
	_, addr := testkit.ServeProxy(t, u.URL+"/base/?t=1")
	for name, target := range map[string]string{
		"encoded slashes":            "/a%2Fb/c%2fd//e/%2eE/%252e/",
		"semicolons and bad escapes": "/x?a;b=%zz&=&&c=%&d=1;2",
		"no query":                   "/x",
		"raw bytes":                  "/x?q=\xff\xfe\"<>\\^`{|}",
		"ten thousand parameters":    "/x?" + strings.Repeat("p=v&", 10_001),
	} {
		t.Run(name, func(t *testing.T) {
			testkit.Do(t, addr, "GET "+target+" HTTP/1.1\r\nHost: example.com\r\n\r\n")
			line, _, _ := strings.Cut(<-headers, "\r\n")
			path, query, found := strings.Cut(target, "?")
			want := "GET /base" + path + "?t=1"
			if found {
				want += "&" + query
			}
			assert.Equal(t, want+" HTTP/1.1", line)
		})
	}
}

func TestAPlainHandlerReceivesPlainRequests(t *testing.T) {
	page := testkit.NewUpstream(t)
	headers := page.Respond(testkit.ResponseOKClose)
	to, err := url.Parse(page.URL + "/own")
	require.NoError(t, err)
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL, wsproxy.WithPlainHandler(&httputil.ReverseProxy{
		Transport: &http.Transport{DisableKeepAlives: true},
		Rewrite:   func(pr *httputil.ProxyRequest) { pr.SetURL(to) },
	}))
	for _, request := range []string{testkit.PlainRequest, testkit.SampleRequestWith(t, "Upgrade: websocket", "Upgrade: h2c")} {
		res, _ := testkit.Do(t, addr, request)
		assert.Equal(t, "ok", testkit.Body(t, res))
		header := <-headers
		assert.True(t, strings.HasPrefix(header, "GET /own/"), header)
		assert.NotContains(t, header, "h2c")
		assert.NotContains(t, header, "Upgrade")
	}
	assert.Empty(t, u.Conns)
	client, server := testkit.Tunnel(t, addr, u)
	client.Send(t, "there")
	server.Expect(t, "there")
}

func TestAHEADRequestGetsNoBody(t *testing.T) {
	u := testkit.NewUpstream(t)
	headers := u.Respond("HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nConnection: close\r\n\r\n")
	_, addr := testkit.ServeProxy(t, u.URL)
	client := testkit.Dial(t, addr)
	client.Send(t, "HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	assert.True(t, strings.HasPrefix(<-headers, "HEAD / HTTP/1.1\r\n"))
	res, err := http.ReadResponse(client.Reader, &http.Request{Method: "HEAD"})
	require.NoError(t, err)
	assert.Equal(t, int64(12345), res.ContentLength)
	assert.Empty(t, client.Rest(t, "the client's"))
}

func TestInformationalResponsesToPlainRequestsAreForwarded(t *testing.T) {
	u := testkit.NewUpstream(t)
	u.Respond("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" + strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 100) + testkit.ResponseOKClose)
	_, addr := testkit.ServeProxy(t, u.URL)
	client := testkit.Dial(t, addr)
	client.Send(t, testkit.PlainRequest)
	res := client.Response(t)
	assert.Equal(t, 103, res.StatusCode)
	assert.Equal(t, http.Header{"Link": {"</a.css>"}}, res.Header)
	for range 100 {
		require.Equal(t, 102, client.Response(t).StatusCode)
	}
	assert.Equal(t, "ok", testkit.Body(t, client.Response(t)))
}

// net/http sometimes added a Content-Type: it did if the first byte of the body
// came before httputil's flush.
func TestAResponseWithoutAContentTypeGetsNone(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // makes it likely
	_, addr := testkit.ServeProxy(t, "http://"+testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Type"] = nil
		if r.Header.Get("Upgrade") != "" {
			w.WriteHeader(http.StatusForbidden)
		}
		io.WriteString(w, "<html>body")
	})))
	for _, request := range []string{testkit.PlainGet("/"), testkit.SampleRequest} {
		for range 300 {
			res, c := testkit.Do(t, addr, request)
			require.Equal(t, "<html>body", testkit.Body(t, res))
			require.NotContains(t, res.Header, "Content-Type", "status %d", res.StatusCode)
			c.Close()
		}
	}
}

func TestARequestWithoutHostHasNoForwardedHost(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL, wsproxy.WithForwarded())
	header := u.Received(t, addr, "GET / HTTP/1.0\r\n\r\n").Header
	assert.NotContains(t, header, "X-Forwarded-Host")
	assert.Equal(t, []string{"for=127.0.0.1;proto=http"}, header["Forwarded"])
}
