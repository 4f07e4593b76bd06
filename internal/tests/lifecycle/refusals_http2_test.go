package lifecycle_test

import (
	"errors"
	"net/http"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A stream is refused as a connection is, but for a 200 of the upstream's, which
// would open it.
func TestEachRefusalOfAStreamIsToldAndCountedOnce(t *testing.T) {
	for name, test := range map[string]struct {
		edit     func(*http.Request)
		response string // "": the upstream refuses connections
		opts     []wsproxy.Option
		status   int
		err      error
		got      int // by the client; 0: a reset
	}{
		"no version":                   {func(r *http.Request) { r.Header.Del("Sec-Websocket-Version") }, "", nil, 426, wsproxy.ErrBadHandshake, 426},
		"another site":                 {func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }, "", []wsproxy.Option{wsproxy.WithOrigins("https://a.example")}, 403, wsproxy.ErrForbiddenOrigin, 403},
		"no server":                    {nil, "", nil, 502, wsproxy.ErrUpstream, 502},
		"the upstream's 401":           {nil, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno", nil, 401, nil, 401},
		"the upstream's 200":           {nil, testkit.ResponseOK, nil, 502, wsproxy.ErrUpstream, 502},
		"a wrong 101":                  {nil, testkit.SampleSwitch, nil, 502, wsproxy.ErrUpstream, 502},
		"an error handler that panics": {nil, "", []wsproxy.Option{wsproxy.WithErrorHandler(func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) })}, 502, wsproxy.ErrUpstream, 0},
		"a WithModifyResponse":         {nil, "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", []wsproxy.Option{wsproxy.WithModifyResponse(func(*http.Response) error { return errors.New("no") })}, 502, wsproxy.ErrUpstream, 502},
		"an upstream that cuts":        {nil, "HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nno", nil, 403, nil, 403},
	} {
		t.Run(name, func(t *testing.T) {
			target := "http://" + testkit.RefusingAddr(t)
			if test.response != "" {
				target = "http://" + testkit.ServeResponse(t, test.response)
			}
			refusals := make(chan refusal, 10)
			p := testkit.NewProxy(t, target, append(test.opts, onRefuse(refusals))...)
			c := testkit.DialHTTP2(t, testkit.ServeHTTP2(t, p, nil))
			r, _ := c.Request(t, "/x")
			if test.edit != nil {
				test.edit(r)
			}
			answered := make(chan int, 1)
			go func() {
				status := 0
				if res, err := c.RoundTrip(r); err == nil {
					status = res.StatusCode
				}
				answered <- status
			}()
			got := testkit.Within(t, refusals, "OnRefuse")
			assert.Equal(t, "/x", got.path)
			assert.Equal(t, test.status, got.status)
			if test.err == nil {
				assert.NoError(t, got.err)
			} else {
				assert.ErrorIs(t, got.err, test.err)
			}
			assert.Equal(t, test.got, testkit.Within(t, answered, "the response"))
			assert.Empty(t, refusals)
			require.EqualValues(t, 1, p.Stats().Refused(test.status))
			assert.EqualValues(t, 1, sumRefused(p.Stats()))
		})
	}
}

func TestAStreamThatIsResetBeforeTheResponseIsRefusedOnce(t *testing.T) {
	refusals := make(chan refusal, 10)
	u := testkit.NewUpstream(t)
	p := testkit.NewProxy(t, u.URL, onRefuse(refusals))
	c := testkit.DialHTTP2(t, testkit.ServeHTTP2(t, p, nil))
	r, stream := c.Request(t, "/x")
	go c.RoundTrip(r)
	u.Accept(t).Request(t)
	stream.Reset()
	assert.Equal(t, 499, testkit.Within(t, refusals, "OnRefuse").status)
	r, _ = c.Request(t, "/x")
	go c.RoundTrip(r)
	u.Accept(t).Request(t)
	p.Close()
	got := testkit.Within(t, refusals, "OnRefuse")
	assert.Equal(t, 503, got.status)
	assert.ErrorIs(t, got.err, wsproxy.ErrShutdown)
	assert.EqualValues(t, 2, sumRefused(p.Stats()))
	assert.Empty(t, refusals)
}

// sumRefused returns how many upgrades were refused, with whatever status.
func sumRefused(s wsproxy.Stats) (n int64) {
	for status := range 1000 {
		n += s.Refused(status)
	}
	return n
}
