package plain_test

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAStalledResponseIsTruncatedAtTheReadTimeout(t *testing.T) {
	for name, c := range map[string]struct{ header, piece string }{
		"with its length": {"Content-Length: 100\r\n", "part"},
		"in chunks":       {"Transfer-Encoding: chunked\r\n", "4\r\npart\r\n"},
		"to the end":      {"", "part"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := testkit.NewMemRig(t, nil, wsproxy.WithReadTimeout(5*time.Second))
				client := r.Send(t, testkit.PlainRequest)
				server := <-r.Upstreams
				server.Request(t)
				server.Send(t, "HTTP/1.1 200 OK\r\n"+c.header+"\r\n")
				for range 2 {
					time.Sleep(3 * time.Second)
					server.Send(t, c.piece)
				}
				start := time.Now()
				expectTruncated(t, client)
				server.Rest(t, "the upstream's")
				assert.Equal(t, 5*time.Second, time.Since(start), "the response is truncated after")
			})
		})
	}
}

func TestSlowBodiesThatMakeProgressDoNotTimeOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil)
		client := r.Send(t, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\n")
		server := <-r.Upstreams
		req := server.Request(t)
		for range 8 {
			time.Sleep(59 * time.Second)
			client.Send(t, "up...")
		}
		up, err := io.ReadAll(req.Body)
		require.NoError(t, err)
		assert.Equal(t, strings.Repeat("up...", 8), string(up))
		server.Send(t, "HTTP/1.1 200 OK\r\nContent-Length: 56\r\n\r\n")
		for range 8 {
			time.Sleep(59 * time.Second)
			server.Send(t, "down...")
		}
		assert.Equal(t, strings.Repeat("down...", 8), testkit.Body(t, client.Response(t)))
	})
}

// The body timeout, not the read timeout, ends an upload that the client
// interrupts. The upstream cannot respond yet.
func TestAPausedUploadDoesNotMakeTheUpstreamTimeOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil, wsproxy.WithBodyTimeout(0))
		client := r.Send(t, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nfirst")
		server := <-r.Upstreams
		req := server.Request(t)
		time.Sleep(time.Hour)
		client.Send(t, "later")
		up, err := io.ReadAll(req.Body)
		require.NoError(t, err)
		assert.Equal(t, "firstlater", string(up))
		server.Send(t, testkit.ResponseOKClose)
		assert.Equal(t, "ok", testkit.Body(t, client.Response(t)))
	})
}

// The send timeout, not the read timeout, applies to a client that reads its
// response slowly.
func TestASlowReaderDoesNotMakeTheUpstreamTimeOut(t *testing.T) {
	const size = 1 << 20 // more than the connections hold
	for name, request := range map[string]string{"a plain response": testkit.PlainRequest, "a refusal": testkit.SampleRequest} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := testkit.NewMemRig(t, nil, wsproxy.WithSendTimeout(0))
				client := r.Send(t, request)
				server := <-r.Upstreams
				server.Request(t)
				server.Send(t, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size))
				synctest.Wait() // httputil has flushed the header, which later holds a mutex
				go io.CopyN(server, testkit.Zeros{}, size)
				time.Sleep(time.Hour)
				n, err := io.Copy(io.Discard, client.Response(t).Body)
				assert.NoError(t, err)
				assert.EqualValues(t, size, n)
			})
		})
	}
}

// The read timeout measures the time spent waiting for the upstream, not the
// time since its last byte, because the client may have been slow meanwhile.
func TestTheReadTimeoutCountsOnlyTheWaitForTheUpstream(t *testing.T) {
	const first = testkit.Room // the proxy buffers the rest, which does not fit beside the header
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil, wsproxy.WithReadTimeout(5*time.Second))
		client := r.Send(t, testkit.PlainRequest)
		server := <-r.Upstreams
		server.Request(t)
		server.Send(t, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", first+4))
		synctest.Wait()
		server.Send(t, strings.Repeat("x", first))
		time.Sleep(4 * time.Second)
		res := client.Response(t)
		_, err := io.CopyN(io.Discard, res.Body, first)
		require.NoError(t, err)
		time.Sleep(4 * time.Second)
		server.Send(t, "late")
		assert.Equal(t, "late", testkit.Body(t, res))
	})
}

func TestAnUploadThatTheUpstreamDoesNotReadCauses504AtTheSendTimeout(t *testing.T) {
	for _, test := range []struct {
		opts []wsproxy.Option
		want time.Duration
	}{
		{nil, time.Minute},
		{[]wsproxy.Option{wsproxy.WithSendTimeout(5 * time.Second)}, 5 * time.Second},
	} {
		t.Run(test.want.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				errs := testkit.NewFailures()
				r := testkit.NewMemRig(t, nil, append(test.opts, errs.Option())...)
				client := r.Send(t, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
				go io.Copy(client.Conn, testkit.Zeros{})
				server := <-r.Upstreams
				server.RawHeader(t)
				client.SetReadDeadline(time.Now().Add(time.Hour))
				testkit.WantGatewayTimeout(t, client, test.want)
				assert.ErrorIs(t, errs.Next(t).Err, wsproxy.ErrUpstreamTimeout)
				server.Rest(t, "the upstream's")
				time.Sleep(time.Second) // net/http lingers on a connection with unread bytes
			})
		})
	}
}

func TestWithoutASendTimeoutAnUploadIsNotBounded(t *testing.T) {
	const size = 1 << 20
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil, wsproxy.WithSendTimeout(0))
		client := r.Send(t, fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", size))
		go io.CopyN(client.Conn, testkit.Zeros{}, size)
		server := <-r.Upstreams
		req := server.Request(t)
		time.Sleep(1000 * time.Hour)
		n, err := io.Copy(io.Discard, req.Body)
		require.NoError(t, err)
		assert.EqualValues(t, size, n)
		server.Send(t, testkit.ResponseOKClose)
		assert.Equal(t, "ok", testkit.Body(t, client.Response(t)))
	})
}

func TestASteadyChunkDoesNotTimeOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil, wsproxy.WithReadTimeout(5*time.Second))
		client := r.Send(t, testkit.PlainRequest)
		server := <-r.Upstreams
		server.Request(t)
		server.Send(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n")
		for range 10 {
			time.Sleep(time.Second)
			_, err := io.WriteString(server, "ten bytes.")
			require.NoError(t, err, "ten bytes each second, and a read timeout of 5")
		}
		server.Send(t, "\r\n0\r\n\r\n")
		assert.Equal(t, strings.Repeat("ten bytes.", 10), testkit.Body(t, client.Response(t)))
	})
}

func TestASteadyUploadDoesNotTimeOut(t *testing.T) {
	const size, each = 480_000, 8_000 // 16 KiB within 3 s, and two writes of 16 KiB not within 4
	synctest.Test(t, func(t *testing.T) {
		r := testkit.NewMemRig(t, nil, wsproxy.WithSendTimeout(5*time.Second))
		client := r.Send(t, fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", size))
		go io.CopyN(client.Conn, testkit.Zeros{}, size)
		server := <-r.Upstreams
		server.RawHeader(t)
		for n := 0; n < size; n += each {
			time.Sleep(time.Second)
			_, err := io.CopyN(io.Discard, server, each)
			if !assert.NoError(t, err, "%d bytes each second, and a send timeout of 5, after %d", each, n) {
				client.Close()
				time.Sleep(time.Second)
				return
			}
		}
		server.Send(t, testkit.ResponseOKClose)
		assert.Equal(t, "ok", testkit.Body(t, client.Response(t)))
	})
}
