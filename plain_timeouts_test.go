package wsproxy_test

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// asks is ask with a request of the test's own.
func (r *memRig) asks(t *testing.T, request string) *peer {
	t.Helper()
	near, far := newMemConns(room)
	t.Cleanup(func() { far.Close() })
	r.l.conns <- near
	client := newPeer(far)
	client.send(t, request)
	return client
}

func TestAPlainBodyThatStallsIsCut(t *testing.T) {
	for name, c := range map[string]struct{ header, piece string }{
		"with its length": {"Content-Length: 100\r\n", "part"},
		"in chunks":       {"Transfer-Encoding: chunked\r\n", "4\r\npart\r\n"},
		"to the end":      {"", "part"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newMemRig(t, nil, wsproxy.WithReadTimeout(5*time.Second))
				client := r.asks(t, plainRequest)
				server := <-r.upstreams
				server.request(t)
				server.send(t, "HTTP/1.1 200 OK\r\n"+c.header+"\r\n")
				for range 2 {
					time.Sleep(3 * time.Second)
					server.send(t, c.piece)
				}
				start := time.Now()
				expectCut(t, client)
				server.gone(t, "the upstream's")
				assert.Equal(t, 5*time.Second, time.Since(start), "the answer is cut after")
			})
		})
	}
}

func TestSlowBodiesThatMakeProgressAreNotCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMemRig(t, nil)
		client := r.asks(t, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\n")
		server := <-r.upstreams
		req := server.request(t)
		for range 8 {
			time.Sleep(59 * time.Second)
			client.send(t, "up...")
		}
		up, err := io.ReadAll(req.Body)
		require.NoError(t, err)
		assert.Equal(t, strings.Repeat("up...", 8), string(up))
		server.send(t, "HTTP/1.1 200 OK\r\nContent-Length: 56\r\n\r\n")
		for range 8 {
			time.Sleep(59 * time.Second)
			server.send(t, "down...")
		}
		assert.Equal(t, strings.Repeat("down...", 8), body(t, client.answer(t)))
	})
}

// An upload that the client interrupts for longer than the read timeout is the
// body timeout's to end: the upstream is not silent, it has nothing to answer yet.
func TestAnUploadThatPausesIsNotTheUpstreamsTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMemRig(t, nil, wsproxy.WithBodyTimeout(0))
		client := r.asks(t, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nfirst")
		server := <-r.upstreams
		req := server.request(t)
		time.Sleep(time.Hour)
		client.send(t, "later")
		up, err := io.ReadAll(req.Body)
		require.NoError(t, err)
		assert.Equal(t, "firstlater", string(up))
		server.send(t, sampleOK)
		assert.Equal(t, "ok", body(t, client.answer(t)))
	})
}

// A client that is slow to take its answer is the send timeout's to cut.
func TestAClientThatReadsSlowlyIsNotTheUpstreamsTimeout(t *testing.T) {
	const size = 1 << 20 // more than there is room for
	for name, request := range map[string]string{"a plain answer": plainRequest, "a refusal": sampleRequest} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newMemRig(t, nil, wsproxy.WithSendTimeout(0))
				client := r.asks(t, request)
				server := <-r.upstreams
				server.request(t)
				server.send(t, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size))
				synctest.Wait() // until httputil has flushed the header, for which a mutex waits later
				go io.CopyN(server, zeros{}, size)
				time.Sleep(time.Hour)
				n, err := io.Copy(io.Discard, client.answer(t).Body)
				assert.NoError(t, err)
				assert.EqualValues(t, size, n)
			})
		})
	}
}

// What counts is the time for which the upstream is waited for, and not that
// since it was last heard of, when the client may have been slow.
func TestTheReadTimeoutIsForWaitingAlone(t *testing.T) {
	const first = room // the proxy holds what there is no room for beside the header
	synctest.Test(t, func(t *testing.T) {
		r := newMemRig(t, nil, wsproxy.WithReadTimeout(5*time.Second))
		client := r.asks(t, plainRequest)
		server := <-r.upstreams
		server.request(t)
		server.send(t, fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", first+4))
		synctest.Wait()
		server.send(t, strings.Repeat("x", first))
		time.Sleep(4 * time.Second)
		res := client.answer(t)
		_, err := io.CopyN(io.Discard, res.Body, first)
		require.NoError(t, err)
		time.Sleep(4 * time.Second)
		server.send(t, "late")
		assert.Equal(t, "late", body(t, res))
	})
}

func TestAnUploadThatTheUpstreamDoesNotTakeIsA504AtTheSendTimeout(t *testing.T) {
	for _, test := range []struct {
		opts []wsproxy.Option
		want time.Duration
	}{
		{nil, time.Minute},
		{[]wsproxy.Option{wsproxy.WithSendTimeout(5 * time.Second)}, 5 * time.Second},
	} {
		t.Run(test.want.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				errs := newFailures()
				r := newMemRig(t, nil, append(test.opts, errs.option())...)
				client := r.asks(t, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n")
				go io.Copy(client.Conn, zeros{})
				server := <-r.upstreams
				server.rawHeader(t)
				client.SetReadDeadline(time.Now().Add(time.Hour))
				gatewayTimeout(t, client, test.want)
				assert.ErrorIs(t, errs.next(t).err, wsproxy.ErrUpstreamTimeout)
				server.gone(t, "the upstream's")
				time.Sleep(time.Second) // for which net/http lingers on a connection with more to read
			})
		})
	}
}

func TestWithoutASendTimeoutAnUploadMayTakeForEver(t *testing.T) {
	const size = 1 << 20
	synctest.Test(t, func(t *testing.T) {
		r := newMemRig(t, nil, wsproxy.WithSendTimeout(0))
		client := r.asks(t, fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", size))
		go io.CopyN(client.Conn, zeros{}, size)
		server := <-r.upstreams
		req := server.request(t)
		time.Sleep(1000 * time.Hour)
		n, err := io.Copy(io.Discard, req.Body)
		require.NoError(t, err)
		assert.EqualValues(t, size, n)
		server.send(t, sampleOK)
		assert.Equal(t, "ok", body(t, client.answer(t)))
	})
}

func TestExpectContinueIsAskedOfTheUpstream(t *testing.T) {
	const request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
	ask := func(t *testing.T, test func(client, server *peer)) {
		synctest.Test(t, func(t *testing.T) {
			r := newMemRig(t, nil)
			client := r.asks(t, request)
			server := <-r.upstreams
			assert.Contains(t, server.rawHeader(t), "\r\nExpect: 100-continue\r\n")
			wireEnd{client, true}.expectNothing(t, 900*time.Millisecond)
			test(client, server)
		})
	}
	t.Run("which continues", func(t *testing.T) {
		ask(t, func(client, server *peer) {
			server.send(t, "HTTP/1.1 100 Continue\r\nX-From: upstream\r\n\r\n")
			res := client.answer(t)
			if res.Header["X-From"] == nil { // net/http's own, when the body is read before the upstream's is passed on
				require.Equal(t, 100, res.StatusCode)
				res = client.answer(t)
			}
			require.Equal(t, 100, res.StatusCode)
			require.Equal(t, []string{"upstream"}, res.Header["X-From"])
			client.send(t, "body")
			server.expect(t, "body")
			server.send(t, sampleOK)
			res = client.answer(t)
			assert.Equal(t, 200, res.StatusCode)
			assert.Equal(t, "ok", body(t, res))
		})
	})
	t.Run("which refuses", func(t *testing.T) {
		ask(t, func(client, server *peer) {
			start := time.Now()
			server.send(t, "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
			res := client.answer(t)
			assert.Equal(t, 413, res.StatusCode)
			assert.Equal(t, "big", body(t, res))
			assert.Empty(t, server.gone(t, "the upstream's"), "a body nobody asked for")
			assert.Zero(t, time.Since(start), "the refusal waits for a timeout")
		})
	})
}

func TestASteadyChunkIsNotCutHoweverLongItTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newMemRig(t, nil, wsproxy.WithReadTimeout(5*time.Second))
		client := r.asks(t, plainRequest)
		server := <-r.upstreams
		server.request(t)
		server.send(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\n")
		for range 10 {
			time.Sleep(time.Second)
			_, err := io.WriteString(server, "ten bytes.")
			require.NoError(t, err, "ten bytes each second, and a read timeout of 5")
		}
		server.send(t, "\r\n0\r\n\r\n")
		assert.Equal(t, strings.Repeat("ten bytes.", 10), body(t, client.answer(t)))
	})
}

func TestASteadyUploadIsNotCutHoweverLongItTakes(t *testing.T) {
	const size, each = 480_000, 8_000 // 16 KiB within 3 s, and two writes of 16 KiB not within 4
	synctest.Test(t, func(t *testing.T) {
		r := newMemRig(t, nil, wsproxy.WithSendTimeout(5*time.Second))
		client := r.asks(t, fmt.Sprintf("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", size))
		go io.CopyN(client.Conn, zeros{}, size)
		server := <-r.upstreams
		server.rawHeader(t)
		for n := 0; n < size; n += each {
			time.Sleep(time.Second)
			_, err := io.CopyN(io.Discard, server, each)
			if !assert.NoError(t, err, "%d bytes each second, and a send timeout of 5, after %d", each, n) {
				client.Close()
				time.Sleep(time.Second)
				return
			}
		}
		server.send(t, sampleOK)
		assert.Equal(t, "ok", body(t, client.answer(t)))
	})
}
