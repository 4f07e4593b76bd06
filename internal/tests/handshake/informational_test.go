package handshake_test

import (
	"context"
	"io"
	"net/http"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestInformationalResponsesAreForwarded(t *testing.T) {
	u := testkit.NewUpstream(t)
	p := testkit.NewProxy(t, u.URL)
	addr := testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Middleware", "here")
		p.ServeHTTP(w, r)
	}))
	client := testkit.Dial(t, addr)
	client.Send(t, testkit.SampleRequest)
	server := u.Accept(t)
	server.Request(t)
	for range 100 {
		server.Send(t, "HTTP/1.1 100 Continue\r\n\r\n")
	}
	server.Send(t, "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nLink: </b.js>\r\n"+
		"Connection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\r\n"+testkit.SampleSwitch)
	for range 100 {
		res := client.Response(t)
		require.Equal(t, 100, res.StatusCode)
		require.Empty(t, res.Header)
	}
	res := client.Response(t)
	assert.Equal(t, 103, res.StatusCode)
	assert.Equal(t, http.Header{"Link": {"</a.css>; rel=preload", "</b.js>"}}, res.Header)
	res = client.Response(t)
	assert.Equal(t, 101, res.StatusCode)
	assert.Equal(t, []string{"here"}, res.Header["X-Middleware"], "a field that middleware set is lost")
	assert.Empty(t, res.Header["Link"], "a field of an informational response in the final one")
	server.Send(t, "bytes")
	client.Expect(t, "bytes")
}

// golang/go#65123
func TestInformationalResponsesEndWithTheRequest(t *testing.T) {
	u := testkit.NewUpstream(t)
	u.Script(func(server *testkit.Peer) {
		if _, err := http.ReadRequest(server.Reader); err != nil {
			return
		}
		for err := error(nil); err == nil; { // until the proxy refuses more
			_, err = io.WriteString(server, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n")
		}
	})
	p := testkit.NewProxy(t, u.URL)
	left := make(chan http.Header, 1)
	addr := testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		hints := &hintWriter{w, cancel}
		p.ServeHTTP(hints, r.WithContext(ctx))
		for range 1000 { // a late change is a race
			for range hints.Header() {
			}
		}
		left <- w.Header().Clone()
	}))
	testkit.BothKinds(t, func(t *testing.T, request func(string, ...string) string, _ func(http.Header) http.Header) {
		client := testkit.Dial(t, addr)
		client.Send(t, request("/"))
		assert.Empty(t, testkit.Within(t, left, "ServeHTTP does not return")["Link"])
	})
}

// A hintWriter cancels the request at the first informational response.
type hintWriter struct {
	http.ResponseWriter
	cancel context.CancelFunc
}

func (h *hintWriter) Unwrap() http.ResponseWriter { return h.ResponseWriter }

func (h *hintWriter) WriteHeader(status int) {
	h.ResponseWriter.WriteHeader(status)
	if status < 200 {
		h.cancel()
	}
}
