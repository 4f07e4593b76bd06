package wsproxy_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAPlainAnswerIsPassedOnAsItComes(t *testing.T) {
	for name, header := range map[string]string{
		"in chunks":          "Transfer-Encoding: chunked\r\n",
		"server-sent events": "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			_, addr := serveProxy(t, u.url)
			client := dial(t, addr)
			client.send(t, plainRequest)
			server := u.accept(t)
			server.request(t)
			server.send(t, "HTTP/1.1 200 OK\r\n"+header+"\r\n")
			res := client.answer(t) // before any of the body
			for _, event := range []string{"data: 1\n\n", "data: 2\n\n", "data: 3\n\n"} {
				server.send(t, fmt.Sprintf("%x\r\n%s\r\n", len(event), event))
				got := make([]byte, len(event))
				_, err := io.ReadFull(res.Body, got)
				require.NoError(t, err)
				require.Equal(t, event, string(got))
			}
			server.send(t, "0\r\n\r\n")
			assert.Empty(t, body(t, res))
		})
	}
}

func TestAPlainRequestIsPassedOnAsItComes(t *testing.T) {
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url)
	client := dial(t, addr)
	client.send(t, "POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
	server := u.accept(t)
	req := server.request(t)
	got := make([]byte, 5)
	_, err := io.ReadFull(req.Body, got)
	require.NoError(t, err)
	assert.Equal(t, "first", string(got))
	client.send(t, "6\r\nsecond\r\n0\r\n\r\n")
	rest, err := io.ReadAll(req.Body)
	require.NoError(t, err)
	assert.Equal(t, "second", string(rest))
	server.send(t, sampleOK)
	assert.Equal(t, "ok", body(t, client.answer(t)))
}

// net/http's server takes the rest of a request for itself when the answer
// begins, unless EnableFullDuplex is called. The Transport then fails to send
// it and closes the connection, and with it what is still to come of the
// answer: a large one to a large upload was cut now and then.
func TestAnAnswerMayBeginBeforeTheUploadHasEnded(t *testing.T) {
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url)
	client := dial(t, addr)
	client.send(t, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nfirst")
	server := u.accept(t)
	server.rawHeader(t)
	server.expect(t, "first")
	server.send(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n")
	client.SetDeadline(time.Now().Add(2 * time.Second))
	res, err := http.ReadResponse(client.br, nil)
	require.NoError(t, err, "the answer waits for the upload")
	got := make([]byte, 5)
	_, err = io.ReadFull(res.Body, got)
	require.NoError(t, err)
	client.send(t, "later")
	server.expect(t, "later")
	server.send(t, "4\r\nlate\r\n0\r\n\r\n")
	assert.Equal(t, "late", body(t, res))
}

func TestTrailersPassBothWays(t *testing.T) {
	for name, announced := range map[string]string{"announced": "Trailer: X-Sum\r\n", "not announced": ""} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			_, addr := serveProxy(t, u.url)
			client := dial(t, addr)
			client.send(t, "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n"+announced+
				"Transfer-Encoding: chunked\r\n\r\n2\r\nup\r\n0\r\nX-Sum: 41\r\n\r\n")
			server := u.accept(t)
			req := server.request(t)
			assert.Equal(t, "trailers", req.Header.Get("Te"))
			up, err := io.ReadAll(req.Body)
			require.NoError(t, err)
			assert.Equal(t, "up", string(up))
			server.send(t, "HTTP/1.1 200 OK\r\n"+announced+"Transfer-Encoding: chunked\r\n\r\n4\r\ndown\r\n0\r\nX-Sum: 42\r\n\r\n")
			res := client.answer(t)
			assert.Equal(t, "down", body(t, res))
			assert.Equal(t, []string{"42"}, res.Trailer["X-Sum"], "of the answer")
			if announced != "" { // net/http keeps no others of a request, and sends none
				assert.Equal(t, []string{"41"}, req.Trailer["X-Sum"], "of the request")
			}
		})
	}
}

func TestLargeBodiesPassBothWaysIntact(t *testing.T) {
	const size = 32 << 20
	blob := make([]byte, size)
	rand.NewChaCha8([32]byte{2}).Read(blob)
	want := sha256.Sum256(blob)
	backend := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		io.Copy(sum, r.Body)
		w.Header().Set("X-Got", fmt.Sprintf("%x", sum.Sum(nil)))
		if r.URL.Query().Has("chunked") {
			http.NewResponseController(w).Flush()
		}
		w.Write(blob)
	}))
	_, addr := serveProxy(t, "http://"+backend)
	for name, path := range map[string]string{"with its length": "/", "in chunks": "/?chunked"} {
		t.Run(name, func(t *testing.T) {
			var upload io.Reader = bytes.NewReader(blob)
			if name == "in chunks" {
				upload = io.MultiReader(upload) // of no known length
			}
			res, err := http.Post("http://"+addr+path, "application/octet-stream", upload)
			require.NoError(t, err)
			defer res.Body.Close()
			assert.Equal(t, fmt.Sprintf("%x", want), res.Header.Get("X-Got"), "what was sent up")
			sum := sha256.New()
			n, err := io.Copy(sum, res.Body)
			require.NoError(t, err)
			assert.EqualValues(t, size, n)
			assert.Equal(t, want, [32]byte(sum.Sum(nil)), "what came down")
		})
	}
}

func TestExpectContinueIsAskedOfTheUpstream(t *testing.T) {
	const request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
	t.Run("which continues", func(t *testing.T) {
		u := newUpstream(t)
		_, addr := serveProxy(t, u.url)
		client := dial(t, addr)
		client.send(t, request)
		server := u.accept(t)
		header := server.rawHeader(t)
		assert.Contains(t, header, "\r\nExpect: 100-continue\r\n")
		server.send(t, "HTTP/1.1 100 Continue\r\n\r\n")
		assert.Equal(t, 100, client.answer(t).StatusCode)
		client.send(t, "body")
		server.expect(t, "body")
		server.send(t, sampleOK)
		res := client.answer(t)
		if res.StatusCode == 100 { // net/http's own, when the body is read before the upstream's is passed on
			res = client.answer(t)
		}
		assert.Equal(t, 200, res.StatusCode)
		assert.Equal(t, "ok", body(t, res))
	})
	t.Run("which refuses", func(t *testing.T) {
		u := newUpstream(t)
		_, addr := serveProxy(t, u.url)
		client := dial(t, addr)
		client.send(t, request)
		server := u.accept(t)
		server.rawHeader(t)
		server.send(t, "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
		res := client.answer(t)
		assert.Equal(t, 413, res.StatusCode)
		assert.Equal(t, "big", body(t, res))
		assert.Empty(t, server.gone(t, "the upstream's"), "a body nobody asked for")
	})
}

func TestCompressionIsTheEndsOwnBusiness(t *testing.T) {
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url)
	for accept, want := range map[string][]string{"": nil, "Accept-Encoding: gzip, br\r\n": {"gzip, br"}} {
		client := dial(t, addr)
		client.send(t, "GET / HTTP/1.1\r\nHost: a\r\n"+accept+"\r\n")
		server := u.accept(t)
		assert.Equal(t, want, server.request(t).Header["Accept-Encoding"])
		server.send(t, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x00\xff")
		res := client.answer(t)
		assert.Equal(t, []string{"gzip"}, res.Header["Content-Encoding"])
		assert.Equal(t, []string{"4"}, res.Header["Content-Length"])
		assert.Equal(t, "\x1f\x8b\x00\xff", body(t, res))
	}
}

// expectCut reads an answer that must not look complete. Of a short one the
// client may not even get the header.
func expectCut(t testing.TB, client *peer) {
	t.Helper()
	res, err := http.ReadResponse(client.br, nil)
	if err == nil {
		assert.Equal(t, 200, res.StatusCode)
		_, err = io.ReadAll(res.Body)
	}
	assert.ErrorIs(t, err, io.ErrUnexpectedEOF, "the answer looks complete")
}

func TestAPlainBodyThatStallsIsCut(t *testing.T) {
	for name, framing := range map[string]string{
		"with its length": "Content-Length: 100\r\n\r\n",
		"in chunks":       "Transfer-Encoding: chunked\r\n\r\n64\r\n",
		"to the end":      "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			_, addr := serveProxy(t, u.url, wsproxy.WithReadTimeout(100*time.Millisecond))
			client := dial(t, addr)
			client.send(t, plainRequest)
			server := u.accept(t)
			server.request(t)
			server.send(t, "HTTP/1.1 200 OK\r\n"+framing+"part")
			expectCut(t, client)
			server.gone(t, "the upstream's")
		})
	}
}

func TestAPlainBodyThatIsCutIsCutForTheClientToo(t *testing.T) {
	for name, framing := range map[string]string{
		"with its length": "Content-Length: 100\r\n\r\n",
		"in chunks":       "Transfer-Encoding: chunked\r\n\r\n64\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			u.answers("HTTP/1.1 200 OK\r\n" + framing + "part")
			_, addr := serveProxy(t, u.url)
			client := dial(t, addr)
			client.send(t, plainRequest)
			expectCut(t, client)
		})
	}
}

func TestSlowBodiesThatMakeProgressAreNotCut(t *testing.T) {
	const limit = 600 * time.Millisecond
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url, wsproxy.WithReadTimeout(limit), wsproxy.WithSendTimeout(limit))
	client := dial(t, addr)
	client.send(t, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\n")
	server := u.accept(t)
	req := server.request(t)
	for range 8 {
		pass(limit / 5)
		client.send(t, "up...")
	}
	up, err := io.ReadAll(req.Body)
	require.NoError(t, err)
	assert.Equal(t, strings.Repeat("up...", 8), string(up))
	server.send(t, "HTTP/1.1 200 OK\r\nContent-Length: 56\r\n\r\n")
	for range 8 {
		pass(limit / 5)
		server.send(t, "down...")
	}
	assert.Equal(t, strings.Repeat("down...", 8), body(t, client.answer(t)))
}

// An upload that the client interrupts for longer than the read timeout is the
// server's to cut: the upstream is not silent, it has nothing to answer yet.
func TestAnUploadThatPausesIsNotTheUpstreamsTimeout(t *testing.T) {
	const limit = 200 * time.Millisecond
	u := newUpstream(t)
	_, addr := serveProxy(t, u.url, wsproxy.WithReadTimeout(limit), wsproxy.WithSendTimeout(limit))
	client := dial(t, addr)
	client.send(t, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nfirst")
	server := u.accept(t)
	req := server.request(t)
	pass(3 * limit)
	client.send(t, "later")
	up, err := io.ReadAll(req.Body)
	require.NoError(t, err)
	assert.Equal(t, "firstlater", string(up))
	server.send(t, sampleOK)
	assert.Equal(t, "ok", body(t, client.answer(t)))
}

// A client that is slow to take its answer is the server's to cut.
func TestAClientThatReadsSlowlyIsNotTheUpstreamsTimeout(t *testing.T) {
	const limit, size = 300 * time.Millisecond, 16 << 20
	u := newUpstream(t)
	u.script(func(server *peer) {
		http.ReadRequest(server.br)
		fmt.Fprintf(server, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", size)
		io.CopyN(server, zeros{}, size)
	})
	for _, request := range []string{plainRequest, sampleRequest} {
		_, addr := serveProxy(t, u.url, wsproxy.WithReadTimeout(limit))
		res, _ := ask(t, addr, request)
		pass(3 * limit)
		n, err := io.Copy(io.Discard, res.Body)
		assert.NoError(t, err)
		assert.EqualValues(t, size, n)
	}
}

func TestPlainRequestsLeaveNothingBehind(t *testing.T) {
	backend := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
		if r.URL.Path == "/cut" {
			panic(http.ErrAbortHandler)
		}
	}))
	_, addr := serveProxy(t, "http://"+backend)
	request := func(path string) {
		res, client := ask(t, addr, "POST "+path+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody")
		io.Copy(io.Discard, res.Body)
		client.Close()
	}
	request("/")
	goroutines, descriptors := runtime.NumGoroutine(), openDescriptors()
	for i := range 50 {
		request([]string{"/", "/cut"}[i%2])
	}
	eventually(t, func() bool {
		return runtime.NumGoroutine() <= goroutines+2 && openDescriptors() <= descriptors+2
	}, "goroutines or descriptors are left behind")
}
