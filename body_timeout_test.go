package wsproxy_test

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
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	stalledPost   = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf."
	stalledChunks = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhalf.\r\n"
)

// Before, a POST that stopped in the middle of its body held both connections
// until the client closed its own.
func TestABodyThatStallsIsA408AtTheBodyTimeout(t *testing.T) {
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
				errs := newFailures()
				servers := newUpstreams(t, wsproxy.RoundRobin(), wsproxy.Server{Addr: "a:1"}, wsproxy.Server{Addr: "b:1", Backup: true})
				r := newMemRig(t, nil, append(test.opts, errs.option(), wsproxy.WithUpstream(servers))...)
				start := time.Now()
				client := r.asks(t, test.request)
				server := <-r.upstreams
				server.rawHeader(t)
				res := client.answer(t)
				assert.Equal(t, http.StatusRequestTimeout, res.StatusCode)
				assert.True(t, res.Close, "RFC 9110, section 15.5.9")
				assert.Equal(t, test.want, time.Since(start), "the answer comes after")
				err := errs.next(t).err
				assert.Equal(t, http.StatusRequestTimeout, wsproxy.StatusCode(err))
				assert.NotErrorIs(t, err, wsproxy.ErrUpstreamTimeout)
				server.gone(t, "the upstream's")
				closed := expectClosed(t, client)
				assert.LessOrEqual(t, closed.Sub(start), test.want+5*time.Second, "the server reads on")
				assert.Empty(t, r.upstreams, "another server is asked")
				assert.Zero(t, servers.Servers()[0].Fails, "the server gets a mark")
			})
		})
	}
}

// What the client sends after the response's begin is for the timeouts of the
// response.
func TestTheBodyTimeoutEndsWithTheResponsesBegin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMemRig(t, nil, wsproxy.WithBodyTimeout(time.Second))
		client := r.asks(t, stalledChunks)
		server := <-r.upstreams
		server.rawHeader(t)
		server.send(t, "HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n")
		res := client.answer(t)
		for range 3 {
			time.Sleep(30 * time.Second)
			server.send(t, "part.")
		}
		assert.Equal(t, "part.part.part.", body(t, res))
		server.gone(t, "the upstream's")
		expectClosed(t, client)
	})
}

// net/http reads on after the handler, for which it knows no time, if the client
// has not sent its whole body. A Read that is under way then cleared deadlines.
func TestAStalledBodyHoldsNothingAfterTheAnswer(t *testing.T) {
	down := wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) { return nil, io.EOF })
	for name, test := range map[string]struct {
		opts   []wsproxy.Option
		answer string
		status int
		linger time.Duration
	}{
		"of the upstream":                     {nil, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", 403, 5 * time.Second},
		"of the upstream, without its length": {nil, "HTTP/1.1 403 Forbidden\r\n\r\nno", 403, 5 * time.Second},
		"of the proxy":                        {[]wsproxy.Option{down}, "", 502, 5 * time.Second},
		"with a short body timeout":           {[]wsproxy.Option{down, wsproxy.WithBodyTimeout(time.Second)}, "", 502, time.Second},
		"with none":                           {[]wsproxy.Option{down, wsproxy.WithBodyTimeout(0)}, "", 502, 5 * time.Second},
	} {
		for body, request := range map[string]string{"by its length": stalledPost, "in chunks": stalledChunks} {
			t.Run(name+", "+body, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					r := newMemRig(t, nil, test.opts...)
					client := r.asks(t, request)
					if test.answer != "" {
						server := <-r.upstreams
						server.rawHeader(t)
						server.expectBody(t, request)
						server.send(t, test.answer)
						server.Close()
					}
					start := time.Now()
					res := client.answer(t)
					assert.Equal(t, test.status, res.StatusCode)
					assert.True(t, res.Close)
					closed := expectClosed(t, client)
					// The error of a Read that was interrupted stays with chunks.
					assert.LessOrEqual(t, closed.Sub(start), test.linger, "the client's connection is closed after")
				})
			})
		}
	}
}

// net/http waited for the rest of the body as long as the client liked.
func TestAnUpgradeThatIsRefusedForItsBodyHoldsNothing(t *testing.T) {
	for name, framing := range map[string]string{
		"by its length": "Content-Length: 100\r\n\r\nhello",
		"in chunks":     "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newMemRig(t, nil)
				start := time.Now()
				client := r.asks(t, strings.TrimSuffix(sampleRequest, "\r\n")+framing)
				assert.Equal(t, 400, client.answer(t).StatusCode)
				assert.LessOrEqual(t, expectClosed(t, client).Sub(start), 5*time.Second)
			})
		})
	}
}

// expectClosed wants the client's connection to be closed, in a synctest bubble,
// and returns the time at which it was.
func expectClosed(t *testing.T, client *peer) time.Time {
	t.Helper()
	client.gone(t, "the client's")
	closed := time.Now()
	time.Sleep(time.Second) // for which net/http lingers on a connection with more to read
	return closed
}

// expectBody reads what a stalled request has of its body.
func (p *peer) expectBody(t *testing.T, request string) {
	t.Helper()
	_, half, _ := strings.Cut(request, "\r\n\r\n")
	p.expect(t, half)
}

func TestTheServersOwnTimeoutsHold(t *testing.T) {
	t.Run("ReadTimeout", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			r := newMemRig(t, &http.Server{ReadTimeout: 2 * time.Second})
			client := r.asks(t, stalledPost)
			server := <-r.upstreams
			server.rawHeader(t)
			server.gone(t, "the upstream's")
			assert.Equal(t, 2*time.Second, expectClosed(t, client).Sub(start))
		})
	})
	t.Run("WriteTimeout", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			start := time.Now()
			r := newMemRig(t, &http.Server{WriteTimeout: 2 * time.Second})
			r.asks(t, plainRequest)
			server := <-r.upstreams
			server.request(t)
			server.send(t, "HTTP/1.1 200 OK\r\n\r\n")
			synctest.Wait() // until httputil has flushed the header, for which a mutex waits later
			io.Copy(server, zeros{})
			assert.Equal(t, 2*time.Second, time.Since(start))
		})
	})
}

func TestTheTimeoutsOfARequestAreNotThoseOfTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMemRig(t, nil, wsproxy.WithBodyTimeout(time.Second), wsproxy.WithSendTimeout(time.Second))
		client := r.asks(t, shortPost)
		for range 3 {
			server := <-r.upstreams
			req := server.request(t)
			up, err := io.ReadAll(req.Body)
			require.NoError(t, err)
			assert.Equal(t, "hello", string(up))
			server.send(t, sampleOK)
			assert.Equal(t, "ok", body(t, client.answer(t)))
			time.Sleep(time.Hour)
			client.send(t, shortPost)
		}
		server := <-r.upstreams
		server.Close()
	})
}
