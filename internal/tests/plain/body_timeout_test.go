package plain_test

import (
	"context"
	"io"
	"net"
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

const (
	stalledPost   = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf."
	stalledChunks = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf.\r\n"
)

// Before, a POST that stopped in the middle of its body held both connections
// until the client closed its own.
func TestAStalledRequestBodyCauses408AtTheBodyTimeout(t *testing.T) {
	for name, test := range map[string]struct {
		request string
		opts    []wsproxy.Option
		want    time.Duration
	}{
		"by default":            {stalledPost, nil, time.Minute},
		"with its length":       {stalledPost, []wsproxy.Option{wsproxy.WithBodyTimeout(5 * time.Second)}, 5 * time.Second},
		"in chunks":             {stalledChunks, []wsproxy.Option{wsproxy.WithBodyTimeout(5 * time.Second)}, 5 * time.Second},
		"before the first byte": {strings.TrimSuffix(stalledPost, "half."), []wsproxy.Option{wsproxy.WithBodyTimeout(time.Hour)}, time.Hour},
		"with keep-alive":       {stalledPost, []wsproxy.Option{wsproxy.WithBodyTimeout(time.Second), wsproxy.WithKeepAlive()}, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				errs := testkit.NewFailures()
				servers := testkit.Servers(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: "a:1"}, wsproxy.Server{Addr: "b:1", Backup: true})
				r := testkit.NewMemRig(t, nil, append(test.opts, errs.Option(), wsproxy.WithUpstream(servers))...)
				start := time.Now()
				client := r.Send(t, test.request)
				server := <-r.Upstreams
				server.RawHeader(t)
				res := client.Response(t)
				assert.Equal(t, http.StatusRequestTimeout, res.StatusCode)
				assert.True(t, res.Close, "RFC 9110, section 15.5.9")
				assert.Equal(t, test.want, time.Since(start), "the response arrives after")
				err := errs.Next(t).Err
				assert.Equal(t, http.StatusRequestTimeout, wsproxy.StatusCode(err))
				assert.NotErrorIs(t, err, wsproxy.ErrUpstreamTimeout)
				server.Rest(t, "the upstream's")
				closed := expectClosed(t, client)
				assert.LessOrEqual(t, closed.Sub(start), test.want+5*time.Second, "the server reads on")
				assert.Empty(t, r.Upstreams, "another server is asked")
				assert.Zero(t, servers.Servers()[0].Fails, "the server gets a mark")
			})
		})
	}
}

// The timeouts of the response apply to bytes that the client sends after the
// response has begun.
func TestTheBodyTimeoutEndsWhenTheResponseBegins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil, wsproxy.WithBodyTimeout(time.Second))
		client := r.Send(t, stalledChunks)
		server := <-r.Upstreams
		server.RawHeader(t)
		server.Send(t, "HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n")
		res := client.Response(t)
		for range 3 {
			time.Sleep(30 * time.Second)
			server.Send(t, "part.")
		}
		assert.Equal(t, "part.part.part.", testkit.Body(t, res))
		server.Rest(t, "the upstream's")
		expectClosed(t, client)
	})
}

// If the client has not sent its whole body, net/http keeps reading after the
// handler has returned, without a timeout. A pending Read cleared the
// deadlines.
func TestAStalledBodyHoldsNothingAfterTheResponse(t *testing.T) {
	down := wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) { return nil, io.EOF })
	for name, test := range map[string]struct {
		opts     []wsproxy.Option
		response string
		status   int
		linger   time.Duration
	}{
		"of the upstream":                     {nil, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403, 5 * time.Second},
		"of the upstream, without its length": {nil, "HTTP/1.1 403 Forbidden\r\n\r\nno", 403, 5 * time.Second},
		"of the proxy":                        {[]wsproxy.Option{down}, "", 502, 5 * time.Second},
		"with a short body timeout":           {[]wsproxy.Option{down, wsproxy.WithBodyTimeout(time.Second)}, "", 502, time.Second},
		"without a body timeout":              {[]wsproxy.Option{down, wsproxy.WithBodyTimeout(0)}, "", 502, 5 * time.Second},
	} {
		for body, request := range map[string]string{"by its length": stalledPost, "in chunks": stalledChunks} {
			t.Run(name+", "+body, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := testkit.NewMemRig(t, nil, test.opts...)
					client := r.Send(t, request)
					if test.response != "" {
						server := <-r.Upstreams
						server.RawHeader(t)
						expectBody(t, server, request)
						server.Send(t, test.response)
						server.Close()
					}
					start := time.Now()
					res := client.Response(t)
					assert.Equal(t, test.status, res.StatusCode)
					assert.True(t, res.Close)
					closed := expectClosed(t, client)
					// In a chunked body the error of an interrupted Read is
					// sticky.
					assert.LessOrEqual(t, closed.Sub(start), test.linger, "the client's connection is closed after")
				})
			})
		}
	}
}

// net/http waited without limit for the rest of the body.
func TestAnUpgradeThatIsRefusedForItsBodyHoldsNothing(t *testing.T) {
	for name, framing := range map[string]string{
		"by its length": "Content-Length: 100\r\n\r\nhello",
		"in chunks":     "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := testkit.NewMemRig(t, nil)
				start := time.Now()
				client := r.Send(t, strings.TrimSuffix(testkit.SampleRequest, "\r\n")+framing)
				assert.Equal(t, 400, client.Response(t).StatusCode)
				assert.LessOrEqual(t, expectClosed(t, client).Sub(start), 5*time.Second)
			})
		})
	}
}

// expectClosed waits until the client's connection is closed, in a synctest
// bubble, and returns the time.
func expectClosed(t *testing.T, client *testkit.Peer) time.Time {
	t.Helper()
	client.Rest(t, "the client's")
	closed := time.Now()
	time.Sleep(time.Second) // net/http lingers on a connection with unread bytes
	return closed
}

// expectBody reads the part of a stalled body that was sent.
func expectBody(t *testing.T, p *testkit.Peer, request string) {
	t.Helper()
	_, half, _ := strings.Cut(request, "\r\n\r\n")
	p.Expect(t, half)
}

func TestTheServersTimeoutsStillApply(t *testing.T) {
	t.Run("ReadTimeout", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			r := testkit.NewMemRig(t, &http.Server{ReadTimeout: 2 * time.Second})
			client := r.Send(t, stalledPost)
			server := <-r.Upstreams
			server.RawHeader(t)
			server.Rest(t, "the upstream's")
			assert.Equal(t, 2*time.Second, expectClosed(t, client).Sub(start))
		})
	})
	t.Run("WriteTimeout", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			r := testkit.NewMemRig(t, &http.Server{WriteTimeout: 2 * time.Second})
			r.Send(t, testkit.PlainRequest)
			server := <-r.Upstreams
			server.Request(t)
			server.Send(t, "HTTP/1.1 200 OK\r\n\r\n")
			synctest.Wait() // httputil has flushed the header, which later holds a mutex
			io.Copy(server, testkit.Zeros{})
			assert.Equal(t, 2*time.Second, time.Since(start))
		})
	})
}

func TestTheTimeoutsOfARequestDoNotApplyToTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil, wsproxy.WithBodyTimeout(time.Second), wsproxy.WithSendTimeout(time.Second))
		client := r.Send(t, shortPost)
		for range 3 {
			server := <-r.Upstreams
			req := server.Request(t)
			up, err := io.ReadAll(req.Body)
			require.NoError(t, err)
			assert.Equal(t, "hello", string(up))
			server.Send(t, testkit.ResponseOKClose)
			assert.Equal(t, "ok", testkit.Body(t, client.Response(t)))
			time.Sleep(time.Hour)
			client.Send(t, shortPost)
		}
		server := <-r.Upstreams
		server.Close()
	})
}
