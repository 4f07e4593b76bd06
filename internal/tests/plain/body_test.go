package plain_test

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAPlainResponseIsForwardedAsItArrives(t *testing.T) {
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
			u := testkit.NewUpstream(t)
			_, addr := testkit.ServeProxy(t, u.URL)
			client := testkit.Dial(t, addr)
			client.Send(t, testkit.PlainRequest)
			server := u.Accept(t)
			server.Request(t)
			server.Send(t, "HTTP/1.1 200 OK\r\n"+c.header+"\r\n")
			res := client.Response(t) // before the body is sent
			for _, event := range []string{"data: 1\n\n", "data: 2\n\n", "data: 3\n\n"} {
				server.Send(t, c.piece(event))
				got := make([]byte, len(event))
				_, err := io.ReadFull(res.Body, got)
				require.NoError(t, err)
				require.Equal(t, event, string(got))
			}
			server.Send(t, c.last)
			assert.Empty(t, testkit.Body(t, res))
		})
	}
}

func TestAPlainRequestIsForwardedAsItArrives(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL)
	client := testkit.Dial(t, addr)
	client.Send(t, "POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
	server := u.Accept(t)
	req := server.Request(t)
	got := make([]byte, 5)
	_, err := io.ReadFull(req.Body, got)
	require.NoError(t, err)
	assert.Equal(t, "first", string(got))
	client.Send(t, "6\r\nsecond\r\n0\r\n\r\n")
	rest, err := io.ReadAll(req.Body)
	require.NoError(t, err)
	assert.Equal(t, "second", string(rest))
	server.Send(t, testkit.ResponseOKClose)
	assert.Equal(t, "ok", testkit.Body(t, client.Response(t)))
}

// When the response begins, net/http's server reads the rest of the request
// itself, unless it closes the connection. The Transport then cannot send that
// rest and closes the upstream connection, which truncates the response. A
// large response to a large upload was truncated now and then.
func TestAResponseCanBeginBeforeTheUploadHasEnded(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL)
	client := testkit.Dial(t, addr)
	client.Send(t, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nfirst")
	server := u.Accept(t)
	server.RawHeader(t)
	server.Expect(t, "first")
	server.Send(t, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n")
	res, err := http.ReadResponse(client.Reader, nil)
	require.NoError(t, err, "the response waits for the upload")
	got := make([]byte, 5)
	_, err = io.ReadFull(res.Body, got)
	require.NoError(t, err)
	client.Send(t, "later")
	server.Expect(t, "later")
	server.Send(t, "4\r\nlate\r\n0\r\n\r\n")
	assert.Equal(t, "late", testkit.Body(t, res))
}

func TestTrailersAreForwardedInBothDirections(t *testing.T) {
	for name, announced := range map[string]string{"announced": "Trailer: X-Sum\r\n", "not announced": ""} {
		t.Run(name, func(t *testing.T) {
			u := testkit.NewUpstream(t)
			_, addr := testkit.ServeProxy(t, u.URL)
			client := testkit.Dial(t, addr)
			client.Send(t, "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n"+announced+
				"Transfer-Encoding: chunked\r\n\r\n2\r\nup\r\n0\r\nX-Sum: 41\r\n\r\n")
			server := u.Accept(t)
			req := server.Request(t)
			assert.Equal(t, "trailers", req.Header.Get("Te"))
			up, err := io.ReadAll(req.Body)
			require.NoError(t, err)
			assert.Equal(t, "up", string(up))
			server.Send(t, "HTTP/1.1 200 OK\r\n"+announced+"Transfer-Encoding: chunked\r\n\r\n4\r\ndown\r\n0\r\nX-Sum: 42\r\n\r\n")
			res := client.Response(t)
			assert.Equal(t, "down", testkit.Body(t, res))
			assert.Equal(t, []string{"42"}, res.Trailer["X-Sum"], "of the response")
			if announced != "" { // net/http drops unannounced trailers of a request
				assert.Equal(t, []string{"41"}, req.Trailer["X-Sum"], "of the request")
			}
		})
	}
}

func TestLargeBodiesArriveIntactInBothDirections(t *testing.T) {
	const size = 32 << 20
	blob := make([]byte, size)
	rand.NewChaCha8([32]byte{2}).Read(blob)
	want := sha256.Sum256(blob)
	backend := testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		io.Copy(sum, r.Body)
		w.Header().Set("X-Got", fmt.Sprintf("%x", sum.Sum(nil)))
		if r.URL.Query().Has("chunked") {
			http.NewResponseController(w).Flush()
		}
		w.Write(blob)
	}))
	_, addr := testkit.ServeProxy(t, "http://"+backend)
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

func TestCompressedBodiesAreForwardedUnchanged(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL)
	for accept, want := range map[string][]string{"": nil, "Accept-Encoding: gzip, br\r\n": {"gzip, br"}} {
		client := testkit.Dial(t, addr)
		client.Send(t, "GET / HTTP/1.1\r\nHost: a\r\n"+accept+"\r\n")
		server := u.Accept(t)
		assert.Equal(t, want, server.Request(t).Header["Accept-Encoding"])
		server.Send(t, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x00\xff")
		res := client.Response(t)
		assert.Equal(t, []string{"gzip"}, res.Header["Content-Encoding"])
		assert.Equal(t, []string{"4"}, res.Header["Content-Length"])
		assert.Equal(t, "\x1f\x8b\x00\xff", testkit.Body(t, res))
	}
}

// expectTruncated reads a response that must not look complete. If it is short,
// the client may not even receive the header.
func expectTruncated(t testing.TB, client *testkit.Peer) {
	t.Helper()
	res, err := http.ReadResponse(client.Reader, nil)
	if err == nil {
		assert.Equal(t, 200, res.StatusCode)
		_, err = io.ReadAll(res.Body)
	}
	assert.ErrorIs(t, err, io.ErrUnexpectedEOF, "the response looks complete")
}

func TestATruncatedBodyIsTruncatedForTheClientToo(t *testing.T) {
	for name, framing := range map[string]string{
		"with its length": "Content-Length: 100\r\n\r\n",
		"in chunks":       "Transfer-Encoding: chunked\r\n\r\n64\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			u := testkit.NewUpstream(t)
			u.Respond("HTTP/1.1 200 OK\r\n" + framing + "part")
			_, addr := testkit.ServeProxy(t, u.URL)
			client := testkit.Dial(t, addr)
			client.Send(t, testkit.PlainRequest)
			expectTruncated(t, client)
		})
	}
}

func TestPlainRequestsLeaveNothingBehind(t *testing.T) {
	backend := testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(w, r.Body)
		if r.URL.Path == "/cut" {
			panic(http.ErrAbortHandler)
		}
	}))
	_, addr := testkit.ServeProxy(t, "http://"+backend)
	request := func(path string) {
		res, client := testkit.Do(t, addr, "POST "+path+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody")
		io.Copy(io.Discard, res.Body)
		client.Close()
	}
	request("/")
	goroutines, descriptors := runtime.NumGoroutine(), testkit.Descriptors()
	for i := range 50 {
		request([]string{"/", "/cut"}[i%2])
	}
	testkit.Eventually(t, func() bool {
		return runtime.NumGoroutine() <= goroutines+2 && testkit.Descriptors() <= descriptors+2
	}, "goroutines or descriptors are left behind")
}

func TestABodyKeepsItsFramingAndItsEncoding(t *testing.T) {
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	io.WriteString(z, "abcde")
	z.Close()
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL)
	for coding, content := range map[string]string{"": "abcde", "gzip": zipped.String()} {
		for _, chunked := range []bool{false, true} {
			lines, want := []string{fmt.Sprint("Content-Length: ", len(content))}, int64(len(content))
			wire := content
			if chunked {
				lines, want = []string{"Transfer-Encoding: chunked"}, -1
				wire = fmt.Sprintf("1\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n", content[:1], len(content)-1, content[1:])
			}
			var codings []string
			if coding != "" {
				lines, codings = append(lines, "Content-Encoding: "+coding), []string{coding}
			}
			client := testkit.Dial(t, addr)
			client.Send(t, strings.Replace(testkit.PlainGet("/", lines...), "GET", "POST", 1)+wire)
			server := u.Accept(t)
			got := server.Request(t)
			received, err := io.ReadAll(got.Body)
			require.NoError(t, err)
			assert.Equal(t, content, string(received), "%q", lines)
			assert.Equal(t, want, got.ContentLength, "%q", lines)
			assert.Equal(t, codings, got.Header["Content-Encoding"])
			server.Send(t, testkit.ResponseOK)
			assert.Equal(t, 200, client.Response(t).StatusCode)
		}
	}
}
