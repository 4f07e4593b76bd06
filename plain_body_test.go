package wsproxy_test

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAPlainAnswerIsPassedOnAsItComes(t *testing.T) {
	chunk := func(event string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(event), event) }
	for name, c := range map[string]struct {
		header string
		piece  func(event string) string
		last   string
	}{
		"with its length":    {"Content-Length: 27\r\n", func(event string) string { return event }, ""},
		"in chunks":          {"Transfer-Encoding: chunked\r\n", chunk, "0\r\n\r\n"},
		"server-sent events": {"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n", chunk, "0\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			u := newUpstream(t)
			_, addr := serveProxy(t, u.url)
			client := dial(t, addr)
			client.send(t, plainRequest)
			server := u.accept(t)
			server.request(t)
			server.send(t, "HTTP/1.1 200 OK\r\n"+c.header+"\r\n")
			res := client.answer(t) // before any of the body
			for _, event := range []string{"data: 1\n\n", "data: 2\n\n", "data: 3\n\n"} {
				server.send(t, c.piece(event))
				got := make([]byte, len(event))
				_, err := io.ReadFull(res.Body, got)
				require.NoError(t, err)
				require.Equal(t, event, string(got))
			}
			server.send(t, c.last)
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
// begins, unless it gives the connection up. The Transport then fails to send
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
