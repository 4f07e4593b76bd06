package upstream_test

import (
	"context"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A memNet is a set of in-memory servers by address, for a synctest bubble. A
// dial of any other address gets no reply.
type memNet map[string]*testkit.MemListener

func (n memNet) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	l := n[addr]
	if l == nil {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	near, far := testkit.NewMemConns(testkit.Room)
	l.Conns <- far
	return near, nil
}

// serve adds a server that responds with SampleSwitch.
func (n memNet) serve(t *testing.T, addr, name string) {
	n[addr] = testkit.NewMemListener()
	s := &http.Server{Handler: testkit.Echo(name)}
	served := make(chan error)
	go func() { served <- s.Serve(n[addr]) }()
	t.Cleanup(func() {
		s.Close()
		assert.ErrorIs(t, <-served, http.ErrServerClosed)
	})
}

// silence adds a server that sends response and nothing more.
func (n memNet) silence(t *testing.T, addr, response string) {
	n[addr] = testkit.NewMemListener()
	testkit.ServeConns(t, n[addr], testkit.ThenSilent(response))
}

// rig returns a MemRig whose proxy tries these servers in turn, the last one
// only after the others have failed.
func (n memNet) rig(t *testing.T, opts []wsproxy.Option, addrs ...string) (*testkit.MemRig, *wsproxy.Upstream) {
	var servers []wsproxy.Server
	for i, addr := range addrs {
		servers = append(servers, wsproxy.Server{Addr: addr, Backup: i == len(addrs)-1})
	}
	u := testkit.Servers(t, wsproxy.RoundRobin(), servers...)
	return testkit.NewMemRigTo(t, "http://app.example", nil,
		append(opts, wsproxy.WithUpstream(u), wsproxy.WithDialContext(n.dial))...), u
}

// finalResponse reads responses up to the first one that is not informational.
func finalResponse(t testing.TB, p *testkit.Peer) (res *http.Response, hints int) {
	t.Helper()
	for res = p.Response(t); res.StatusCode == http.StatusEarlyHints; res = p.Response(t) {
		hints++
	}
	return res, hints
}

const earlyHints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"

// Before, the request went from one server to the next and marked each one
// down. One path that hangs took all servers down.
func TestASilentServerCauses504AndNoOtherServerIsTried(t *testing.T) {
	const get, post = "GET / HTTP/1.1\r\nHost: h\r\n\r\n", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody"
	for name, test := range map[string]struct {
		request, response string
		hints             int
	}{
		"upgrade, silent at once":                {testkit.SampleRequest, "", 0},
		"upgrade, silent within a line":          {testkit.SampleRequest, "HTTP/1.1 101 Swi", 0},
		"upgrade, silent after a hint":           {testkit.SampleRequest, earlyHints, 1},
		"upgrade, silent after a hint, in a 101": {testkit.SampleRequest, earlyHints + testkit.SampleSwitch[:60], 1},
		"GET":                                    {get, "", 0},
		"GET, silent within a line":              {get, "HTTP/1.1 2", 0},
		"GET, hint":                              {get, earlyHints, 1},
		"POST":                                   {post, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				servers := memNet{}
				servers.silence(t, "silent:80", test.response)
				servers.serve(t, "healthy:80", "healthy")
				r, u := servers.rig(t, []wsproxy.Option{wsproxy.WithReadTimeout(7 * time.Second)}, "silent:80", "healthy:80")
				start := time.Now()
				res, hints := finalResponse(t, r.Send(t, test.request))
				assert.Equal(t, 7*time.Second, time.Since(start), "the response comes after")
				assert.Equal(t, test.hints, hints, "hints that the client gets")
				require.Equal(t, 504, res.StatusCode)
				require.Equal(t, "Gateway Timeout\n", testkit.Body(t, res))
				assert.Equal(t, 1, u.Servers()[0].Fails)
				assert.Zero(t, u.Servers()[1].Fails)

				client := r.Send(t, testkit.SampleRequest)
				res, _ = finalResponse(t, client)
				tookOver(t, r.Proxy, u, client, res)
			})
		})
	}
}

func TestTheConnectTimeoutAppliesToEachServer(t *testing.T) {
	for _, request := range []string{testkit.SampleRequest, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"} {
		synctest.Test(t, func(t *testing.T) {
			servers := memNet{}
			servers.serve(t, "healthy:80", "healthy")
			r, u := servers.rig(t, []wsproxy.Option{wsproxy.WithConnectTimeout(3 * time.Second)}, "192.0.2.1:80", "192.0.2.2:80", "healthy:80")
			start := time.Now()
			res := r.Send(t, request).Response(t)
			assert.Equal(t, 6*time.Second, time.Since(start), "the response comes after")
			require.Less(t, res.StatusCode, 300)
			require.False(t, u.Servers()[0].Available)
			require.False(t, u.Servers()[1].Available)
		})
	}
}
