package handshake_test

import (
	"net/http"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

// RFC 8441, section 5: any 2xx opens the stream. The client would read the
// body of a refusal as frames.
func TestWithModifyResponseCannotOpenARefusedStream(t *testing.T) {
	u := testkit.NewUpstream(t)
	u.Respond("HTTP/1.1 403 Forbidden\r\nContent-Length: 6\r\n\r\nbanned")
	c := serveHTTP2(t, u, nil, wsproxy.WithModifyResponse(func(res *http.Response) error {
		res.StatusCode = 200
		return nil
	}))
	res := c.Connect(t, "/", nil).Response
	assert.Equal(t, 502, res.StatusCode)
	assert.NotContains(t, testkit.Body(t, res), "banned")
}

// As over HTTP/1.1, the function sees every response before the proxy does.
func TestWithModifyResponseMayRefuseAStream(t *testing.T) {
	u := testkit.NewUpstream(t)
	u.Respond("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nbanned")
	c := serveHTTP2(t, u, nil, wsproxy.WithModifyResponse(func(res *http.Response) error {
		res.StatusCode = 403
		return nil
	}))
	res := c.Connect(t, "/", nil).Response
	assert.Equal(t, 403, res.StatusCode)
	assert.Equal(t, "banned", testkit.Body(t, res))
}
