package handshake_test

import (
	"context"
	"errors"
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

func TestAnUpstreamThatIsDownCauses502(t *testing.T) {
	u := &testkit.Upstream{Addr: testkit.RefusingAddr(t)}
	p, addr := testkit.ServeProxy(t, "http://"+u.Addr)
	client := testkit.Dial(t, addr)
	client.Send(t, testkit.SampleRequest)
	testkit.WantFailure(t, client, u, 502)
	assert.Empty(t, client.Rest(t, "the client's"))
	assert.Equal(t, testkit.Counts{}, testkit.Counted(p))

	errs := testkit.NewFailures()
	_, addr = testkit.ServeProxy(t, "http://"+u.Addr, errs.Option())
	testkit.Do(t, addr, testkit.SampleRequest)
	err := errs.Next(t).Err
	assert.ErrorIs(t, err, wsproxy.ErrUpstream)
	var dialing *net.OpError
	assert.ErrorAs(t, err, &dialing, "the dial's own error is not wrapped")
	assert.ErrorContains(t, err, u.Addr, "the error does not name the upstream")
}

func TestAnUpstreamThatHangsCauses504(t *testing.T) {
	for name, part := range map[string]string{
		"before its response":          "",
		"in its status line":           "HTTP/1.1 1",
		"in its header":                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: webs",
		"after an informational":       "HTTP/1.1 103 Early Hints\r\n\r\n",
		"in the header of a refusal":   "HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n",
		"before the end of the header": strings.TrimSuffix(testkit.SampleSwitch, "\n"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				u := &testkit.Upstream{Addr: "upstream.example:3000"}
				r := testkit.NewMemRigTo(t, "http://"+u.Addr, nil, wsproxy.WithReadTimeout(5*time.Second))
				client := r.SendHandshake(t)
				server := <-r.Upstreams
				server.Request(t)
				start := time.Now()
				server.Send(t, part)
				if strings.Contains(part, "103") {
					require.Equal(t, 103, client.Response(t).StatusCode)
				}
				testkit.WantFailure(t, client, u, 504)
				assert.Equal(t, 5*time.Second, time.Since(start), "the response arrives after")
				assert.Empty(t, client.Rest(t, "the client's"))
				assert.Empty(t, server.Rest(t, "the upstream's"))
				assert.Equal(t, testkit.Counts{}, testkit.Counted(r.Proxy))

				errs := testkit.NewFailures()
				r = testkit.NewMemRigTo(t, "http://"+u.Addr, nil, wsproxy.WithReadTimeout(5*time.Second), errs.Option())
				r.SendHandshake(t)
				(<-r.Upstreams).Send(t, part)
				err := errs.Next(t).Err
				assert.ErrorIs(t, err, wsproxy.ErrUpstreamTimeout)
				assert.NotErrorIs(t, err, wsproxy.ErrUpstream)
				assert.ErrorContains(t, err, u.Addr, "the error does not name the upstream")
			})
		})
	}
}

// A connWithoutWrites is a connection whose writes fail at once.
type connWithoutWrites struct {
	net.Conn
	err error
}

func (c connWithoutWrites) Write([]byte) (int, error) { return 0, c.err }

func TestTheErrorOfAConnectionReachesTheErrorHandler(t *testing.T) {
	broken := errors.New("broken")
	errs := testkit.NewFailures()
	_, addr := testkit.ServeProxy(t, "http://upstream.example.com", errs.Option(),
		wsproxy.WithDialContext(func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			go io.Copy(io.Discard, far) // until near is closed
			return connWithoutWrites{near, broken}, nil
		}))
	testkit.BothKinds(t, func(t *testing.T, request func(string, ...string) string, _ func(http.Header) http.Header) {
		res, _ := testkit.Do(t, addr, request("/"))
		assert.Equal(t, 502, res.StatusCode)
		err := errs.Next(t).Err
		assert.ErrorIs(t, err, broken)
		assert.ErrorIs(t, err, wsproxy.ErrUpstream)
	})
}
