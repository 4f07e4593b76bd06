package plain_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// withoutEnd responds with an endless body until the proxy closes the
// connection.
func withoutEnd(t *testing.T, server *testkit.Peer, length string) {
	t.Helper()
	server.Request(t)
	server.Send(t, "HTTP/1.1 200 OK\r\n"+length+"\r\n")
	synctest.Wait() // httputil has flushed the header, which later holds a mutex
	io.Copy(server, testkit.Zeros{})
}

// Before, only http.Server's WriteTimeout ended a response that the client does
// not read, and it ended slow ones as well.
func TestAResponseThatTheClientDoesNotReadIsTruncatedAtTheSendTimeout(t *testing.T) {
	for name, request := range map[string]string{"a plain response": testkit.PlainRequest, "a refusal": testkit.SampleRequest} {
		for framing, length := range map[string]string{"by its length": "Content-Length: 1000000000\r\n", "to the end": ""} {
			t.Run(name+", "+framing, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := testkit.NewMemRig(t, nil)
					client := r.Send(t, request)
					start := time.Now()
					withoutEnd(t, <-r.Upstreams, length)
					assert.Equal(t, time.Minute, time.Since(start), "the upstream's connection is closed after")
					expectClosed(t, client)
				})
			})
		}
	}
}

func TestASlowClientThatReadsDoesNotTimeOut(t *testing.T) {
	const size, each = 40 * (16 << 10), 16 << 10
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil, wsproxy.WithSendTimeout(5*time.Second), wsproxy.WithReadTimeout(0))
		client := r.Send(t, testkit.PlainRequest)
		server := <-r.Upstreams
		server.Request(t)
		server.Send(t, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size))
		synctest.Wait()
		go io.CopyN(server, testkit.Zeros{}, size)
		res := client.Response(t)
		for range size / each {
			time.Sleep(4 * time.Second)
			_, err := io.CopyN(io.Discard, res.Body, each)
			if !assert.NoError(t, err, "16 KiB each 4 s, and a send timeout of 5") {
				break
			}
		}
		server.Close()
	})
}

func TestAClientThatDoesNotReadInformationalResponsesIsClosedAtTheSendTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil, wsproxy.WithSendTimeout(5*time.Second))
		client := r.Send(t, testkit.PlainRequest)
		server := <-r.Upstreams
		server.Request(t)
		start := time.Now()
		hint := "HTTP/1.1 103 Early Hints\r\nX: " + strings.Repeat("x", 9000) + "\r\n\r\n"
		io.WriteString(server, strings.Repeat(hint, 100))
		server.Rest(t, "the upstream's")
		assert.Equal(t, 5*time.Second, expectClosed(t, client).Sub(start))
	})
}

// An HTTP/2 client loses this stream and keeps the others. In Go 1.25.0, net/http's
// HTTP/2 shares channels between bubbles of synctest, so the time is real.
func TestTimeoutsOfAPlainRequestEndOnlyItsHTTP2Stream(t *testing.T) {
	t.Parallel()
	const timeout = 150 * time.Millisecond
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	r := testkit.NewMemRig(t, &http.Server{Protocols: &protocols}, wsproxy.WithBodyTimeout(timeout), wsproxy.WithSendTimeout(timeout))
	dials := 0
	h2 := &http.Transport{Protocols: &protocols, DialContext: func(context.Context, string, string) (net.Conn, error) {
		dials++
		near, far := testkit.NewMemConns(testkit.Room)
		r.Listener.Conns <- near
		return far, nil
	}}
	defer h2.CloseIdleConnections()
	ask := func(method string, body io.Reader) *http.Response {
		req, err := http.NewRequest(method, "http://proxy/", body)
		require.NoError(t, err)
		res, err := h2.RoundTrip(req)
		require.NoError(t, err)
		return res
	}

	upload, stalls := io.Pipe()
	go stalls.Write([]byte("half"))
	start := time.Now()
	assert.Equal(t, http.StatusRequestTimeout, ask("POST", upload).StatusCode)
	assert.GreaterOrEqual(t, time.Since(start), timeout)
	server := <-r.Upstreams
	server.RawHeader(t)
	server.Rest(t, "the upstream's")
	stalls.Close()

	start = time.Now()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		server := <-r.Upstreams
		server.Request(t)
		server.Send(t, "HTTP/1.1 200 OK\r\n\r\n")
		io.Copy(server, testkit.Zeros{})
	}()
	res := ask("GET", nil)
	<-ended
	assert.GreaterOrEqual(t, time.Since(start), timeout)
	_, err := io.Copy(io.Discard, res.Body)
	assert.Error(t, err, "the response looks complete")

	go func() {
		server := <-r.Upstreams
		server.Request(t)
		server.Send(t, testkit.ResponseOKClose)
	}()
	assert.Equal(t, "ok", testkit.Body(t, ask("GET", nil)))
	assert.Equal(t, 1, dials)
}

// 100 POSTs that stopped within their body and 50 clients that stopped reading
// held 300 descriptors, with every timeout at a second.
func TestClientsThatStopHoldNoDescriptors(t *testing.T) {
	const posts, readers = 40, 20
	const timeout = 500 * time.Millisecond
	before := testkit.Descriptors()
	u := testkit.NewUpstream(t)
	u.Script(func(server *testkit.Peer) {
		req, err := http.ReadRequest(server.Reader)
		if err != nil {
			return
		}
		if req.Method == "POST" {
			io.Copy(io.Discard, req.Body)
			return
		}
		io.WriteString(server, "HTTP/1.1 200 OK\r\n\r\n")
		io.Copy(server.Conn, testkit.Zeros{})
	})
	p := testkit.NewProxy(t, u.URL, wsproxy.WithSendTimeout(timeout), wsproxy.WithBodyTimeout(timeout), wsproxy.WithCloseTimeout(timeout))
	var open atomic.Int64
	s := httptest.NewUnstartedServer(p)
	s.Config.ConnState = func(conn net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			conn.(*net.TCPConn).SetWriteBuffer(4 << 10)
			open.Add(1)
		case http.StateClosed:
			open.Add(-1)
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	clients := make([]*testkit.Peer, posts+readers)
	for i := range clients {
		clients[i] = testkit.Dial(t, s.Listener.Addr().String())
		clients[i].Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
		if i < posts {
			clients[i].Send(t, []string{stalledPost, stalledChunks}[i%2])
		} else {
			clients[i].Send(t, testkit.PlainRequest)
		}
	}
	testkit.Eventually(t, func() bool { return open.Load() > 0 }, "no client is connected")
	testkit.Eventually(t, func() bool { return open.Load() == 0 }, "connections of clients stay open")
	for _, client := range clients {
		client.Close()
	}
	s.Close()
	testkit.Eventually(t, func() bool { return testkit.Descriptors() <= before+2 }, "descriptors stay open")
}
