package plain_test

import (
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"weak"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

// A markedBody is what middleware makes of a request's body.
type markedBody struct{ io.ReadCloser }

// A connection that was kept for another request held the body of the last one,
// and with that the request's header: up to 1.7 MB for each of 64 connections.
func TestAKeptConnectionRetainsNothingOfItsLastRequest(t *testing.T) {
	u := testkit.NewUpstream(t)
	p := testkit.NewProxy(t, u.URL, wsproxy.WithKeepAlive())
	last := make(chan weak.Pointer[markedBody], 1)
	client := testkit.Dial(t, testkit.Serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := &markedBody{r.Body}
		last <- weak.Make(body)
		r.Body = body
		p.ServeHTTP(w, r)
	})))
	client.Send(t, "POST / HTTP/1.1\r\nHost: a\r\nX-Large: "+strings.Repeat("x", 100_000)+"\r\nContent-Length: 2\r\n\r\nup")
	server := u.Accept(t)
	req := server.Request(t)
	_, err := io.Copy(io.Discard, req.Body)
	assert.NoError(t, err)
	server.Send(t, testkit.ResponseOK)
	assert.Equal(t, "ok", testkit.Body(t, client.Response(t)))
	client.Close()
	body := <-last
	testkit.Eventually(t, func() bool {
		runtime.GC()
		return body.Value() == nil
	}, "the body is retained")
	client = testkit.Dial(t, testkit.Serve(t, p))
	client.Send(t, testkit.PlainRequest)
	server.Request(t) // on the connection that was kept
	server.Send(t, testkit.ResponseOK)
	assert.Equal(t, 200, client.Response(t).StatusCode)
}
