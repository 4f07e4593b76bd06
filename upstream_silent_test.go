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

func TestASilentServerIsLeftForTheNextAtTheReadTimeout(t *testing.T) {
	for name, test := range map[string]struct {
		answer string
		hints  int
	}{
		"silent at once":                {"", 0},
		"silent within a line":          {"HTTP/1.1 101 Swi", 0},
		"silent after a hint":           {earlyHints, 1},
		"silent after a hint, in a 101": {earlyHints + sampleSwitch[:60], 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				servers := memNet{}
				servers.silence(t, "silent:80", test.answer)
				servers.serve(t, "healthy:80", "healthy")
				r, u := servers.rig(t, []wsproxy.Option{wsproxy.WithReadTimeout(7 * time.Second)}, "silent:80", "healthy:80")
				start := time.Now()
				client := r.request(t, sampleRequest)
				res, hints := client.finalAnswer(t)
				assert.Equal(t, 7*time.Second, time.Since(start), "the answer comes after")
				assert.Equal(t, test.hints, hints, "hints that the client gets")
				tookOver(t, r.p, u, client, res)
			})
		})
	}
}

func TestAPlainRequestToASilentServerIsSentTwiceOnlyWhereNothingIsLost(t *testing.T) {
	for _, test := range []struct {
		name, request, answer string
		status                int
		body                  string
	}{
		{"GET", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", "", 200, "healthy got GET h "},
		{"GET, hint", "GET / HTTP/1.1\r\nHost: h\r\n\r\n", earlyHints, 200, "healthy got GET h "},
		{"POST", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody", "", 504, "Gateway Timeout\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				servers := memNet{}
				servers.silence(t, "silent:80", test.answer)
				servers.serve(t, "healthy:80", "healthy")
				r, u := servers.rig(t, []wsproxy.Option{wsproxy.WithReadTimeout(7 * time.Second)}, "silent:80", "healthy:80")
				start := time.Now()
				res, _ := r.request(t, test.request).finalAnswer(t)
				assert.Equal(t, 7*time.Second, time.Since(start), "the answer comes after")
				require.Equal(t, test.status, res.StatusCode)
				require.Equal(t, test.body, body(t, res))
				require.False(t, u.Servers()[0].Available, "it counts all the same")
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
