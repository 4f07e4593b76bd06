package wsproxy_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const plainRequest = "GET /page HTTP/1.1\r\nHost: server.example.com\r\n\r\n"

func TestAPlainRequestReachesTheUpstreamAsSent(t *testing.T) {
	for name, c := range map[string]struct {
		opts       []wsproxy.Option
		connection string
	}{
		"by default":      {nil, "Connection: close\r\n"},
		"with keep-alive": {[]wsproxy.Option{wsproxy.WithKeepAlive()}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			headers := u.answers(sampleOK)
			_, addr := serveProxy(t, u.url, c.opts...)
			res, _ := ask(t, addr, plainRequest)
			assert.Equal(t, 200, res.StatusCode)
			assert.Equal(t, "ok", body(t, res))
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

func TestPlainRequestsReuseTheirConnectionOnlyWithKeepAlive(t *testing.T) {
	for name, c := range map[string]struct {
		opts        []wsproxy.Option
		connections int
	}{"by default": {nil, 3}, "with keep-alive": {[]wsproxy.Option{wsproxy.WithKeepAlive()}, 1}} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			used := make(chan struct{}, 10)
			u.script(func(server *peer) {
				used <- struct{}{}
				for {
					if _, err := http.ReadRequest(server.br); err != nil {
						return
					}
					io.WriteString(server, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				}
			})
			_, addr := serveProxy(t, u.url, c.opts...)
			client := dial(t, addr)
			for range 3 {
				client.send(t, plainRequest)
				require.Equal(t, "ok", body(t, client.answer(t)))
			}
			assert.Len(t, used, c.connections)
		})
	}
}

func TestAPlainFailureReachesTheSameErrorHandler(t *testing.T) {
	down := refusing(t)
	u := newUpstream(t)
	for _, c := range []struct {
		name, target, answer string
		opts                 []wsproxy.Option
		status               int
		kind                 error
		says                 string
	}{
		{"down", "http://" + down, "", nil, 502, wsproxy.ErrUpstream, down},
		{"garbage", u.url, "SSH-2.0-OpenSSH_9.6\r\n\r\n", nil, 502, wsproxy.ErrUpstream, "SSH-2.0"},
		{"a status below 100", u.url, "HTTP/1.1 099 Hm\r\nContent-Length: 0\r\n\r\n", nil, 502, wsproxy.ErrUpstream, "99"},
		{"a huge header", u.url, "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2<<20) + "\r\n\r\n", nil, 502, wsproxy.ErrUpstream, "exceeded"},
		{"a slow header", u.url, "HTTP/1.1 200 OK\r\n", []wsproxy.Option{wsproxy.WithReadTimeout(50 * time.Millisecond)},
			504, wsproxy.ErrUpstreamTimeout, "timeout"},
	} {
		t.Run(c.name, func(t *testing.T) {
			respond := func() {
				if c.target == u.url {
					server := u.accept(t)
					server.request(t)
					go io.WriteString(server, c.answer)
				}
			}
			_, addr := serveProxy(t, c.target, c.opts...)
			client := dial(t, addr)
			client.send(t, plainRequest)
			respond()
			expectFailure(t, client, &upstream{addr: strings.TrimPrefix(c.target, "http://")}, c.status)

			errs := newFailures()
			p := newProxy(t, c.target, append(c.opts, errs.option())...)
			in := make(chan *http.Request, 1)
			addr = serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				in <- r
				p.ServeHTTP(w, r)
			}))
			client = dial(t, addr)
			client.send(t, plainRequest)
			respond()
			assert.Equal(t, c.status, client.answer(t).StatusCode)
			got := errs.next(t)
			assert.ErrorIs(t, got.err, c.kind)
			assert.Equal(t, c.status, wsproxy.StatusCode(got.err))
			assert.ErrorContains(t, got.err, c.says)
			want := <-in
			assert.Equal(t, want.URL.String(), got.r.URL.String(), "the handler gets the outgoing request")
			assert.Equal(t, want.Host, got.r.Host)
			assert.Equal(t, want.RequestURI, got.r.RequestURI)
			assert.Equal(t, want.RemoteAddr, got.r.RemoteAddr)
			assert.Equal(t, want.Header, got.r.Header)
		})
	}
}

func TestAClientThatLeavesCancelsItsPlainRequest(t *testing.T) {
	for name, answer := range map[string]string{
		"before the answer": "",
		"within the body":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			errs := newFailures()
			_, addr := serveProxy(t, u.url, errs.option(), wsproxy.WithKeepAlive())
			client := dial(t, addr)
			client.send(t, plainRequest)
			server := u.accept(t)
			server.request(t)
			server.send(t, answer)
			if answer != "" {
				client.answer(t)
			}
			client.reset()
			assert.Empty(t, server.gone(t, "the upstream's"))
			if answer == "" {
				err := errs.next(t).err
				assert.Equal(t, 499, wsproxy.StatusCode(err))
				assert.NotErrorIs(t, err, wsproxy.ErrUpstream, "the upstream is blamed")
			}
		})
	}
}

// The Transport dials on behind the back of a request that was cancelled, to
// have the connection for the next. Without keep-alive there is no such next.
func TestAConnectionThatComesTooLateIsNotKept(t *testing.T) {
	u := newUpstream(t)
	errs := newFailures()
	dialing, left := make(chan struct{}), make(chan struct{})
	_, addr := serveProxy(t, u.url, errs.option(), wsproxy.WithDialContext(func(_ context.Context, network, addr string) (net.Conn, error) {
		close(dialing)
		<-left
		return net.Dial(network, addr)
	}))
	client := dial(t, addr)
	client.send(t, plainRequest)
	<-dialing
	client.Close()
	errs.next(t)
	close(left)
	assert.Empty(t, u.accept(t).gone(t, "the upstream's"))
}

func TestAPlainAnswerCanBeModified(t *testing.T) {
	u := newUpstream(t)
	u.answers("HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nContent-Length: 2\r\n\r\nok")
	broken := errors.New("broken rule")
	errs := newFailures()
	var fail bool
	_, addr := serveProxy(t, u.url, errs.option(), wsproxy.WithModifyResponse(func(res *http.Response) error {
		if fail {
			return broken
		}
		res.Header.Set("X-Hops", res.Header.Get("X-Hop"))
		res.StatusCode = 203
		return nil
	}))
	res, _ := ask(t, addr, plainRequest)
	assert.Equal(t, 203, res.StatusCode)
	assert.Equal(t, []string{""}, res.Header["X-Hops"], "hop-by-hop fields are removed first")
	fail = true
	res, _ = ask(t, addr, plainRequest)
	assert.Equal(t, 502, res.StatusCode)
	err := errs.next(t).err
	assert.ErrorIs(t, err, wsproxy.ErrUpstream)
	assert.ErrorIs(t, err, broken)
}

func TestAUnixSocketCanBeTheTarget(t *testing.T) {
	dir, err := os.MkdirTemp("", "") // t.TempDir's can be too long for a socket
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		missing(t, "no unix sockets here: %v", err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") == "" {
			io.WriteString(w, r.Host+r.URL.Path)
			return
		}
		conn, brw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, sampleSwitch)
		io.Copy(conn, brw)
	})}
	served := make(chan struct{})
	go func() {
		defer close(served)
		s.Serve(l)
	}()
	t.Cleanup(func() {
		s.Close()
		<-served
	})
	_, addr := serveProxy(t, "http://unix:"+path+":/base")
	res, _ := ask(t, addr, plainRequest)
	assert.Equal(t, "server.example.com/base/page", body(t, res))
	res, client := ask(t, addr, sampleRequest)
	require.Equal(t, 101, res.StatusCode)
	client.send(t, "echo")
	client.expect(t, "echo")
	require.NoError(t, client.CloseWrite())
	client.expectEOF(t, "")
}

func TestATLSUpstreamGetsPlainRequests(t *testing.T) {
	u, opts := newTLSUpstream(t)
	_, addr := serveProxy(t, u.url, append(opts, wsproxy.WithTargetHost())...)
	client := dial(t, addr)
	client.send(t, plainRequest)
	server := u.accept(t)
	assert.Equal(t, u.addr, server.request(t).Host)
	server.send(t, sampleOK)
	assert.Equal(t, "ok", body(t, client.answer(t)))
}

func TestTheRequestTargetOfAPlainRequestSurvivesToTheByte(t *testing.T) {
	u := newUpstream(t)
	headers := u.answers(sampleOK)
	_, addr := serveProxy(t, u.url+"/base/?t=1")
	for name, target := range map[string]string{
		"encoded slashes":            "/a%2Fb/c%2fd//e/%2eE/%252e/",
		"semicolons and bad escapes": "/x?a;b=%zz&=&&c=%&d=1;2",
		"no query":                   "/x",
		"raw bytes":                  "/x?q=\xff\xfe\"<>\\^`{|}",
		"ten thousand parameters":    "/x?" + strings.Repeat("p=v&", 10_001),
	} {
		t.Run(name, func(t *testing.T) {
			ask(t, addr, "GET "+target+" HTTP/1.1\r\nHost: example.com\r\n\r\n")
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

func TestAPlainHandlerOfTheUsersGetsPlainRequests(t *testing.T) {
	page := newUpstream(t)
	headers := page.answers(sampleOK)
	to, err := url.Parse(page.url + "/own")
	require.NoError(t, err)
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url, wsproxy.WithPlainHandler(&httputil.ReverseProxy{
		Transport: &http.Transport{DisableKeepAlives: true},
		Rewrite:   func(pr *httputil.ProxyRequest) { pr.SetURL(to) },
	}))
	for _, request := range []string{plainRequest, sampleWith(t, "Upgrade: websocket", "Upgrade: h2c")} {
		res, _ := ask(t, addr, request)
		assert.Equal(t, "ok", body(t, res))
		header := <-headers
		assert.True(t, strings.HasPrefix(header, "GET /own/"), header)
		assert.NotContains(t, header, "h2c")
		assert.NotContains(t, header, "Upgrade")
	}
	assert.Empty(t, u.conns)
	client, server := tunnel(t, addr, u)
	client.send(t, "there")
	server.expect(t, "there")
}

func TestAHEADRequestGetsNoBody(t *testing.T) {
	u := newUpstream(t)
	headers := u.answers("HTTP/1.1 200 OK\r\nContent-Length: 12345\r\nConnection: close\r\n\r\n")
	_, addr := serveProxy(t, u.url)
	client := dial(t, addr)
	client.send(t, "HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
	assert.True(t, strings.HasPrefix(<-headers, "HEAD / HTTP/1.1\r\n"))
	res, err := http.ReadResponse(client.br, &http.Request{Method: "HEAD"})
	require.NoError(t, err)
	assert.Equal(t, int64(12345), res.ContentLength)
	assert.Empty(t, client.gone(t, "the client's"))
}

func TestInformationalAnswersOfPlainRequestsArePassedOn(t *testing.T) {
	u := newUpstream(t)
	u.answers("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" + strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 100) + sampleOK)
	_, addr := serveProxy(t, u.url)
	client := dial(t, addr)
	client.send(t, plainRequest)
	res := client.answer(t)
	assert.Equal(t, 103, res.StatusCode)
	assert.Equal(t, http.Header{"Link": {"</a.css>"}}, res.Header)
	for range 100 {
		require.Equal(t, 102, client.answer(t).StatusCode)
	}
	assert.Equal(t, "ok", body(t, client.answer(t)))
}

// Whether net/http made up a type was chance: it did where the first byte of
// the body came before httputil's flush.
func TestAnAnswerWithoutATypeGetsNone(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // makes it likely
	_, addr := serveProxy(t, "http://"+serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Type"] = nil
		if r.Header.Get("Upgrade") != "" {
			w.WriteHeader(http.StatusForbidden)
		}
		io.WriteString(w, "<html>body")
	})))
	for _, request := range []string{plainGet("/"), sampleRequest} {
		for range 300 {
			res, c := ask(t, addr, request)
			require.Equal(t, "<html>body", body(t, res))
			require.NotContains(t, res.Header, "Content-Type", "status %d", res.StatusCode)
			c.Close()
		}
	}
}

func TestARequestWithoutHostHasNoForwardedHost(t *testing.T) {
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url, wsproxy.WithForwarded())
	header := u.receives(t, addr, "GET / HTTP/1.0\r\n\r\n").Header
	assert.NotContains(t, header, "X-Forwarded-Host")
	assert.Equal(t, []string{"for=127.0.0.1;proto=http"}, header["Forwarded"])
}
