package node_test

import (
	"crypto/rand"
	"encoding/json"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/talk"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// socketIOClients is the number of clients in a test. With three servers, the
// checks below that depend on chance fail once in 3^19 runs.
const socketIOClients = 20

func query(name string) func(*http.Request) string {
	return func(r *http.Request) string { return r.URL.Query().Get(name) }
}

func cookie(r *http.Request) string {
	if c, err := r.Cookie("route"); err == nil {
		return c.Value
	}
	return ""
}

func sidOrAddress(r *http.Request) string {
	if sid := query("sid")(r); sid != "" {
		return sid
	}
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	return host
}

// withCookie gives each client a cookie, and adds it to the client's first
// request before h sees it.
func withCookie(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if cookie(r) == "" {
			c := &http.Cookie{Name: "route", Value: rand.Text(), Path: "/", HttpOnly: true}
			http.SetCookie(w, c)
			r.AddCookie(c)
		}
		h.ServeHTTP(w, r)
	})
}

// ownerOfSID is a policy for servers that put their address into session ids.
// first picks the server for a client without a session.
type ownerOfSID struct{ first wsproxy.Policy }

func (p ownerOfSID) Pick(r *http.Request, client netip.Addr, servers []*wsproxy.Candidate) *wsproxy.Candidate {
	sid := query("sid")(r)
	if sid == "" {
		return p.first.Pick(r, client, servers)
	}
	for _, s := range servers {
		if strings.HasPrefix(sid, s.Addr()+"/") {
			return s
		}
	}
	return nil
}

// A socketIO is three socket.io servers behind one proxy and route.
type socketIO struct {
	*wsproxy.Proxy
	url     string
	plain   atomic.Int64
	unknown atomic.Int64 // responses that say that the session is unknown
}

func startSocketIO(t *testing.T, servers []wsproxy.Server, policy wsproxy.Policy, wrap func(http.Handler) http.Handler) *socketIO {
	t.Helper()
	u, err := wsproxy.NewUpstream(policy, servers...)
	require.NoError(t, err)
	s := &socketIO{}
	s.Proxy = testkit.NewProxy(t, "http://chat", wsproxy.WithUpstream(u), wsproxy.WithModifyResponse(func(res *http.Response) error {
		switch res.StatusCode {
		case http.StatusOK:
			s.plain.Add(1)
		case http.StatusBadRequest:
			s.unknown.Add(1)
		}
		return nil
	}))
	mux := http.NewServeMux()
	mux.Handle("/socket.io/", wrap(s))
	s.url = "http://" + testkit.Serve(t, mux)
	return s
}

// clients runs all clients, which differ in identity, and returns the lines
// that they print.
func (s *socketIO) clients(t *testing.T, identity string) []talk.Line {
	t.Helper()
	if identity == "address" {
		if l, err := net.Listen("tcp", "127.0.0.21:0"); err != nil {
			testkit.Missing(t, "no loopback addresses beside 127.0.0.1: %v", err)
		} else {
			l.Close()
		}
	}
	lines := talk.Run(t, node(t, "socketio-client.mjs", s.url, strconv.Itoa(socketIOClients), identity))
	require.Len(t, lines, socketIOClients)
	return lines
}

func TestSocketIO(t *testing.T) {
	var servers []wsproxy.Server
	for _, name := range []string{"a", "b", "c"} {
		servers = append(servers, wsproxy.Server{Addr: talk.Listen(t, node(t, "socketio-server.mjs", name))})
	}
	unwrapped := func(h http.Handler) http.Handler { return h }

	for _, c := range []struct {
		what, identity string
		policy         wsproxy.Policy
		wrap           func(http.Handler) http.Handler
	}{
		{"the client's address", "address", wsproxy.HashByClientIP(), unwrapped},
		{"a parameter of the client's own", "query", wsproxy.HashBy(query("client")), unwrapped},
		{"a cookie set before the proxy", "cookie", wsproxy.HashBy(cookie), withCookie},
		{"the server's address in the sid", "", ownerOfSID{wsproxy.RoundRobin()}, unwrapped},
	} {
		t.Run("keeps a client at one server by "+c.what, func(t *testing.T) {
			s := startSocketIO(t, servers, c.policy, c.wrap)
			served := map[string]int{}
			for _, line := range s.clients(t, c.identity) {
				require.Empty(t, line.Error)
				var got struct {
					Servers   []string
					Transport string
				}
				require.NoError(t, json.Unmarshal(line.Result, &got))
				assert.Equal(t, "websocket", got.Transport)
				require.Len(t, got.Servers, 1, "servers of one client")
				served[got.Servers[0]]++
			}
			assert.Greater(t, len(served), 1, "servers of all clients")
			assert.Zero(t, s.unknown.Load(), "sessions sought at another server than theirs")
			assert.GreaterOrEqual(t, s.plain.Load(), int64(2*socketIOClients), "polls")
			assert.EqualValues(t, socketIOClients, s.Stats().Opened, "upgrades")
			testkit.Eventually(t, func() bool { return s.Stats().Live == 0 }, "tunnels are left")
		})
	}

	// A client's first request has no sid. A hash of the sid uses one key for
	// that request and another for all later ones.
	for _, c := range []struct {
		what, identity string
		key            func(*http.Request) string
	}{
		{"the sid", "", query("sid")},
		{"the sid or else the client's address", "address", sidOrAddress},
	} {
		t.Run("loses clients by "+c.what, func(t *testing.T) {
			s := startSocketIO(t, servers, wsproxy.HashBy(c.key), unwrapped)
			lost := 0
			for _, line := range s.clients(t, c.identity) {
				if line.Error != "" {
					lost++
				}
			}
			assert.Positive(t, lost)
			assert.Positive(t, s.unknown.Load())
			t.Logf("%d of %d clients lost", lost, socketIOClients)
		})
	}
}
