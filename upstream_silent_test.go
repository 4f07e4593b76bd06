package wsproxy_test

import (
	"context"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A memNet is servers in memory by their address, for a synctest bubble. At any
// other address is a host that answers nothing.
type memNet map[string]*memListener

func (n memNet) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	l := n[addr]
	if l == nil {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	near, far := newMemConns(room)
	l.conns <- far
	return near, nil
}

// serve adds a server that answers as switching does.
func (n memNet) serve(t *testing.T, addr, name string) {
	n[addr] = newMemListener()
	s := &http.Server{Handler: switching(name)}
	served := make(chan error)
	go func() { served <- s.Serve(n[addr]) }()
	t.Cleanup(func() {
		s.Close()
		assert.ErrorIs(t, <-served, http.ErrServerClosed)
	})
}

// silence adds a server that keeps silent after what it is given.
func (n memNet) silence(t *testing.T, addr, answer string) {
	n[addr] = newMemListener()
	serveConns(t, n[addr], thenSilent(answer))
}

// rig is a memRig whose proxy tries these servers in turn, and the last one
// only when the others have failed.
func (n memNet) rig(t *testing.T, opts []wsproxy.Option, addrs ...string) (*memRig, *wsproxy.Upstream) {
	var servers []wsproxy.Server
	for i, addr := range addrs {
		servers = append(servers, wsproxy.Server{Addr: addr, Backup: i == len(addrs)-1})
	}
	u := newUpstreams(t, wsproxy.RoundRobin(), servers...)
	return newMemRigTo(t, "http://app.example", nil,
		append(opts, wsproxy.WithUpstream(u), wsproxy.WithDialContext(n.dial))...), u
}

// request sends a request, given in full, and returns the client's end.
func (r *memRig) request(t *testing.T, request string) *peer {
	near, far := newMemConns(room)
	t.Cleanup(func() { far.Close() })
	r.l.conns <- near
	client := newPeer(far)
	client.send(t, request)
	return client
}

// finalAnswer reads answers up to the first that is not a hint.
func (p *peer) finalAnswer(t testing.TB) (res *http.Response, hints int) {
	t.Helper()
	for res = p.answer(t); res.StatusCode == http.StatusEarlyHints; res = p.answer(t) {
		hints++
	}
	return res, hints
}

const earlyHints = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"

// Before, the request went from one server to the next, and each was down
// then: one path that hangs took them all.
func TestAServerThatStaysSilentIsA504AndNoOtherIsAsked(t *testing.T) {
	const get, post = "GET / HTTP/1.1\r\nHost: h\r\n\r\n", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody"
	for name, test := range map[string]struct {
		request, answer string
		hints           int
	}{
		"upgrade, silent at once":                {sampleRequest, "", 0},
		"upgrade, silent within a line":          {sampleRequest, "HTTP/1.1 101 Swi", 0},
		"upgrade, silent after a hint":           {sampleRequest, earlyHints, 1},
		"upgrade, silent after a hint, in a 101": {sampleRequest, earlyHints + sampleSwitch[:60], 1},
		"GET":                                    {get, "", 0},
		"GET, silent within a line":              {get, "HTTP/1.1 2", 0},
		"GET, hint":                              {get, earlyHints, 1},
		"POST":                                   {post, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				servers := memNet{}
				servers.silence(t, "silent:80", test.answer)
				servers.serve(t, "healthy:80", "healthy")
				r, u := servers.rig(t, []wsproxy.Option{wsproxy.WithReadTimeout(7 * time.Second)}, "silent:80", "healthy:80")
				start := time.Now()
				res, hints := r.request(t, test.request).finalAnswer(t)
				assert.Equal(t, 7*time.Second, time.Since(start), "the answer comes after")
				assert.Equal(t, test.hints, hints, "hints that the client gets")
				require.Equal(t, 504, res.StatusCode)
				require.Equal(t, "Gateway Timeout\n", body(t, res))
				assert.Equal(t, 1, u.Servers()[0].Fails)
				assert.Zero(t, u.Servers()[1].Fails)

				client := r.request(t, sampleRequest)
				res, _ = client.finalAnswer(t)
				tookOver(t, r.p, u, client, res)
			})
		})
	}
}

func TestTheConnectTimeoutIsEachServersOwn(t *testing.T) {
	for _, request := range []string{sampleRequest, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"} {
		synctest.Test(t, func(t *testing.T) {
			servers := memNet{}
			servers.serve(t, "healthy:80", "healthy")
			r, u := servers.rig(t, []wsproxy.Option{wsproxy.WithConnectTimeout(3 * time.Second)}, "192.0.2.1:80", "192.0.2.2:80", "healthy:80")
			start := time.Now()
			res := r.request(t, request).answer(t)
			assert.Equal(t, 6*time.Second, time.Since(start), "the answer comes after")
			require.Less(t, res.StatusCode, 300)
			require.False(t, u.Servers()[0].Available)
			require.False(t, u.Servers()[1].Available)
		})
	}
}
