package upstream_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// One client's requests must not mark a server down for all others.

const anyGet = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

// Before, the first request for such a path marked all four servers down, and
// every client got 503 for ten seconds.
func TestAPathThatResponds503MarksNoServerDown(t *testing.T) {
	for name, request := range map[string]string{
		"plain": "GET /room HTTP/1.1\r\nHost: a\r\n\r\n", "WebSocket": strings.Replace(testkit.SampleRequest, "/chat", "/room", 1),
	} {
		for _, opts := range [][]wsproxy.Option{nil, {wsproxy.WithRetryStatus(503), wsproxy.WithMaxTries(0)}} {
			t.Run(fmt.Sprint(name, ", options: ", len(opts)), func(t *testing.T) {
				var servers []wsproxy.Server
				for i := range 4 {
					healthy := testkit.Echo(fmt.Sprint(i))
					servers = append(servers, wsproxy.Server{Addr: testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
						if r.URL.Path == "/room" {
							http.Error(w, "the room is full", http.StatusServiceUnavailable)
							return
						}
						healthy.ServeHTTP(w, r)
					}))})
				}
				u := testkit.Servers(t, wsproxy.RoundRobin(), servers...)
				_, proxy := testkit.ServeProxy(t, "http://app.example", append(opts, wsproxy.WithUpstream(u))...)
				res, _ := testkit.Do(t, proxy, request)
				assert.Equal(t, 503, res.StatusCode)
				assert.Equal(t, "the room is full\n", testkit.Body(t, res))
				for range servers {
					res, _ = testkit.Do(t, proxy, anyGet)
					assert.Equal(t, 200, res.StatusCode, "everybody else's plain request")
					res, client := testkit.Do(t, proxy, testkit.SampleRequest)
					assert.Equal(t, 101, res.StatusCode, "everybody else's handshake")
					client.Close()
				}
				allUp(t, u)
			})
		}
	}
}

// allUp checks that no server has failed.
func allUp(t testing.TB, u *wsproxy.Upstream) {
	t.Helper()
	for _, s := range u.Servers() {
		assert.Zero(t, s.Fails, "failures of server %s", s.Addr)
		assert.True(t, s.Available)
	}
}

// refuseUnread responds with a status before it has read the whole request, and
// closes, which resets the connection.
func refuseUnread(status string) func(net.Conn) {
	return func(conn net.Conn) {
		io.ReadAtLeast(conn, make([]byte, 1000), 1000)
		io.WriteString(conn, "HTTP/1.1 "+status+"\r\nContent-Length: 2\r\n\r\nno")
	}
}

// upload sends a header and n bytes of body while it reads the response.
func upload(t testing.TB, addr, header string, n int64) *http.Response {
	t.Helper()
	client := testkit.Dial(t, addr)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		io.WriteString(client, header)
		io.CopyN(client.Conn, testkit.Zeros{}, n) // fails when the proxy closes
	}()
	res, err := http.ReadResponse(client.Reader, nil)
	require.NoError(t, err)
	res.Body = io.NopCloser(strings.NewReader(testkit.Body(t, res)))
	client.Close()
	<-sent
	return res
}

// Before, the proxy counted the write error as the server's failure. After 17
// uploads to three servers a handshake got 503.
func TestAnEarlyResponseToAnUploadIsForwardedAndItsServerStaysUp(t *testing.T) {
	t.Parallel()
	const size = 8 << 20
	goServer := func() string {
		return testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == "POST" {
				w.Header().Set("Connection", "close")
				w.WriteHeader(http.StatusRequestEntityTooLarge)
				io.WriteString(w, "no")
				return
			}
			testkit.Echo("healthy").ServeHTTP(w, r)
		}))
	}
	rawServer := func() string {
		return testkit.ServeTCP(t, func(conn net.Conn) {
			br := bufio.NewReaderSize(conn, 512)
			if method, _ := br.Peek(4); string(method) == "POST" {
				refuseUnread("413 Content Too Large")(conn)
				return
			}
			if _, err := http.ReadRequest(br); err == nil {
				io.WriteString(conn, testkit.SampleSwitch)
			}
		})
	}
	for name, server := range map[string]func() string{"net/http": goServer, "closes at once": rawServer} {
		for _, opts := range [][]wsproxy.Option{nil, {wsproxy.WithKeepAlive()}} {
			t.Run(fmt.Sprint(name, ", options: ", len(opts)), func(t *testing.T) {
				t.Parallel()
				u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: server()}, wsproxy.Server{Addr: server()}, wsproxy.Server{Addr: server()})
				_, proxy := testkit.ServeProxy(t, "http://app.example", append(opts, wsproxy.WithUpstream(u))...)
				for range 17 {
					res := upload(t, proxy, fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", size), size)
					require.Equal(t, 413, res.StatusCode)
					require.Equal(t, "no", testkit.Body(t, res))
				}
				allUp(t, u)
				res, _ := testkit.Do(t, proxy, testkit.SampleRequest)
				assert.Equal(t, 101, res.StatusCode)
			})
		}
	}
}

// Before, a header that the server did not read completely caused a 502 and
// marked one server after another down.
func TestAnEarlyResponseToALargeHeaderIsForwardedAndItsServerStaysUp(t *testing.T) {
	t.Parallel()
	cookie := "\r\nCookie: a=" + strings.Repeat("x", 900_000) + "\r\n\r\n" // more than the buffers between two sockets hold
	for name, request := range map[string]string{"plain": anyGet, "WebSocket": testkit.SampleRequest} {
		t.Run(name, func(t *testing.T) {
			var servers []wsproxy.Server
			for range 3 {
				servers = append(servers, wsproxy.Server{Addr: testkit.ServeTCP(t, refuseUnread("431 Request Header Fields Too Large"))})
			}
			u := testkit.Servers(t, wsproxy.RoundRobin(), servers...)
			_, proxy := testkit.ServeProxy(t, "http://app.example", wsproxy.WithUpstream(u))
			for range 9 {
				res := upload(t, proxy, strings.Replace(request, "\r\n\r\n", cookie, 1), 0)
				require.Equal(t, 431, res.StatusCode)
				require.Equal(t, "no", testkit.Body(t, res))
			}
			allUp(t, u)
		})
	}
}

func TestABrokenConnectionCountsAsAFailureOnlyForASmallRequest(t *testing.T) {
	t.Parallel()
	field := func(n int) string { return "\r\nX-Pad: " + strings.Repeat("x", n) + "\r\n\r\n" }
	pad := func(request string, n int) string { return strings.Replace(request, "\r\n\r\n", field(n), 1) }
	for _, test := range []struct {
		name, request string
		body          int64
		fails         int
	}{
		{"GET", anyGet, 0, 1},
		{"GET, 7 kB", pad(anyGet, 7000), 0, 1},
		{"GET, 9 kB", pad(anyGet, 9000), 0, 0},
		{"GET, 900 kB", pad(anyGet, 900_000), 0, 0},
		{"GET, a long path", strings.Replace(anyGet, "/", "/"+strings.Repeat("x", 9000), 1), 0, 0},
		{"handshake", testkit.SampleRequest, 0, 1},
		{"handshake, 7 kB", pad(testkit.SampleRequest, 7000), 0, 1},
		{"handshake, 9 kB", pad(testkit.SampleRequest, 9000), 0, 0},
		{"handshake, 900 kB", pad(testkit.SampleRequest, 900_000), 0, 0},
		{"POST without a body", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 0, 1},
		{"POST of 1 byte", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n", 1, 0},
		{"POST of 8 MB", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 8388608\r\n\r\n", 8 << 20, 0},
		{"POST that gets a 100 first", "POST / HTTP/1.1\r\nHost: a\r\nX-Hint: 1\r\nContent-Length: 1\r\n\r\n", 1, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			breaking := testkit.ServeTCP(t, func(conn net.Conn) {
				line := make([]byte, 100)
				io.ReadFull(conn, line[:50])
				n, _ := conn.Read(line[50:])
				if strings.Contains(string(line[:50+n]), "X-Hint") {
					io.WriteString(conn, earlyHints)
				}
				conn.(*net.TCPConn).SetLinger(0)
			})
			u := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: breaking},
				wsproxy.Server{Addr: testkit.Serve(t, testkit.Echo("backup")), Backup: true})
			_, proxy := testkit.ServeProxy(t, "http://app.example", wsproxy.WithUpstream(u), wsproxy.WithMaxTries(1))
			client := testkit.Dial(t, proxy)
			sent := make(chan struct{})
			go func() {
				defer close(sent)
				io.WriteString(client, test.request)
				io.CopyN(client.Conn, testkit.Zeros{}, test.body)
			}()
			res, _ := finalResponse(t, client)
			assert.Equal(t, 502, res.StatusCode)
			assert.Equal(t, test.fails, u.Servers()[0].Fails)
			client.Close()
			<-sent
		})
	}
}
