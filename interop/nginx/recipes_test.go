package nginx_test

import (
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A recipe is a configuration of nginx, its counterpart in wsproxy, and trials
// to run with both.
type recipe struct {
	name        string
	conf        string
	servers     []string // addresses in the configuration, each replaced by a recorder's
	params      []string // parameters to add to the servers
	replace     []string // more text in the configuration and its replacement, in pairs
	tls         bool
	instead     func(testing.TB) string // returns an address to use instead of the recorder's
	counterpart func(t testing.TB, up []string) http.Handler
	start       func(t testing.TB, up []string) (nginx, wsproxy side) // instead of conf and counterpart
	trials      []trial
	differs     []string // titles of differences that may show in every trial
}

func newUpstream(t testing.TB, servers ...wsproxy.Server) *wsproxy.Upstream {
	t.Helper()
	u, err := wsproxy.NewUpstream(wsproxy.RoundRobin(), servers...)
	require.NoError(t, err)
	return u
}

// under returns a handler for an nginx location whose path has no slash at its
// end.
func under(path string, h http.Handler) *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle(path, h)
	mux.Handle(path+"/", h)
	return mux
}

// single returns the counterpart of a recipe with one server and one location.
func single(path string, opts ...wsproxy.Option) func(t testing.TB, up []string) http.Handler {
	return func(t testing.TB, up []string) http.Handler {
		p := testkit.NewProxy(t, "http://"+up[0], opts...)
		if path == "/" {
			return p
		}
		return under(path, p)
	}
}

var recipes = slices.Concat([]recipe{{
	name: "one server", conf: "one-server", servers: []string{"localhost:3000"},
	counterpart: single("/websocket"),
	trials:      slices.Concat(handshakes, endings, buffering),
}, {
	name: "the server is down", conf: "one-server", servers: []string{"localhost:3000"}, instead: testkit.RefusingAddr,
	counterpart: single("/websocket"),
	trials: []trial{
		{name: "an upgrade", differs: []string{closeAfter, errorPages}, request: upgrade("/websocket")},
		{name: "a GET", request: request("GET /websocket"), differs: []string{errorPages}},
	},
}, {
	name: "every path", conf: "every-path", servers: []string{"127.0.0.1:8080"},
	differs:     []string{hardWired, unsetForwarding},
	counterpart: single("/", wsproxy.WithTargetHost()),
	trials:      plains,
}, {
	name: "wss and an application", conf: "wss", servers: []string{"localhost:8888", "localhost:8080"}, tls: true,
	differs: []string{unsetForwarding},
	counterpart: func(t testing.TB, up []string) http.Handler {
		mux := under("/wss", testkit.NewProxy(t, "http://"+up[0], wsproxy.WithTargetHost()))
		mux.Handle("/", testkit.NewProxy(t, "http://"+up[1]))
		return mux
	},
	trials: []trial{{
		name: "a sample handshake with subprotocols",
		request: request("GET /wss", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==",
			"Sec-WebSocket-Protocol: chat, superchat", version, "Origin: https://example.com"),
		response: strings.Replace(switching, "{accept}", "HSmrc0sMlYUkAGmm5OPpG2HaGWk=\r\nSec-WebSocket-Protocol: chat", 1),
	}, {
		name:     "forwarding fields of the client's own",
		request:  upgrade("/wss", "X-Real-IP: 192.0.2.1", "X-Forwarded-For: 192.0.2.1"),
		response: switching,
	}, {
		name: "a page of the application", differs: []string{oldUpstreams},
		request: request("GET /app/page"),
	}, {
		name: "a POST to the application", differs: []string{oldUpstreams},
		request:  request("POST /app/form", "Content-Length: 3") + "a=b",
		response: response("303 See Other", "Location: /app/page", "Set-Cookie: JSESSIONID=1; Path=/; Secure; HttpOnly"),
	}, {
		name: "an upgrade to the application", differs: []string{oldUpstreams, everyRoute, closeAfter},
		request: upgrade("/app"),
	}, {
		name: "http to the port of https", differs: []string{errorPages},
		play: func(x *stage) {
			x.side.tls = false
			x.ask(x.dial(x), request("GET /"))
		},
	}},
}, {
	name: "everything", conf: "full", servers: []string{"127.0.0.1:3000"}, tls: true,
	counterpart: func(t testing.TB, up []string) http.Handler {
		u := newUpstream(t, wsproxy.Server{Addr: up[0]})
		return testkit.NewProxy(t, "http://ws", wsproxy.WithUpstream(u),
			wsproxy.WithConnectTimeout(10*time.Second),
			wsproxy.WithReadTimeout(300*time.Second),
			wsproxy.WithSendTimeout(300*time.Second))
	},
	trials: []trial{
		{name: "a handshake", request: upgrade("/chat", "X-Forwarded-For: 192.0.2.1"), response: switching},
		{name: "a GET", request: request("GET /")},
		{name: "a POST", request: request("POST /", "Content-Length: 4") + "body"},
		{name: "a refusal", differs: []string{closeAfter}, request: upgrade("/chat"), response: response("403 Forbidden")},
		{name: "both ends speak, and the upstream leaves", response: switching, play: func(x *stage) {
			c, up := x.open("/chat")
			c.send(x, "hello")
			up.expect(x, "hello")
			up.send(x, "world")
			up.Close()
			x.note("client: end", "%s", c.rest())
		}},
	},
}, {
	name: "a path in proxy_pass", conf: "uri", servers: []string{"localhost:3000"},
	differs: []string{unsetForwarding},
	counterpart: func(t testing.TB, up []string) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("/app/", http.StripPrefix("/app", testkit.NewProxy(t, "http://"+up[0]+"/base")))
		return mux
	},
	trials: []trial{
		{name: "a path and a query", request: request("GET /app/a/b?c=d")},
		{name: "the location itself", request: request("GET /app/")},
		{name: "the location without its slash", differs: []string{locationSlash}, request: request("GET /app")},
		{name: "an escaped space", request: request("GET /app/a%20b")},
		{name: "an escaped slash", differs: []string{decodedPaths}, request: request("GET /app/a%2Fb")},
		{name: "a needless escape", differs: []string{decodedPaths}, request: request("GET /app/%61")},
		{name: "two slashes", differs: []string{uncleanPaths}, request: request("GET /app/a//b")},
		{name: "a redirect to itself", differs: []string{proxyRedirect}, request: request("GET /app/"), reply: redirectsToItself("/base/next")},
	},
}, {
	name: "trusted proxies", conf: "real-ip", servers: []string{"localhost:3000"},
	counterpart: single("/", wsproxy.WithTrustedProxies("127.0.0.1", "10.0.0.0/8")),
	trials: []trial{
		{name: "no list", request: request("GET /")},
		{name: "a client and a proxy", differs: []string{trustedList}, request: request("GET /", "X-Forwarded-For: 192.0.2.1, 10.0.0.1")},
		{name: "a claim of the client's before", differs: []string{trustedList}, request: request("GET /", "X-Forwarded-For: 192.0.2.66, 192.0.2.1, 10.0.0.1")},
		{name: "proxies alone", differs: []string{trustedList}, request: request("GET /", "X-Forwarded-For: 10.0.0.2, 10.0.0.1")},
		{name: "something that is no address", differs: []string{trustedList}, request: request("GET /", "X-Forwarded-For: unknown, 10.0.0.1")},
		{name: "what a proxy says of the request", request: request("GET /", "X-Forwarded-Proto: https", "X-Forwarded-Host: a.example")},
		{name: "a peer that is not trusted", differs: []string{untrustedList}, play: func(x *stage) {
			c := x.dialFrom(x, net.IPv4(127, 0, 0, 2))
			x.ask(c, request("GET /", "X-Forwarded-For: 192.0.2.1", "X-Real-IP: 192.0.2.1"))
		}},
	},
}, {
	name: "keepalive", conf: "keepalive", servers: []string{"localhost:3000"},
	differs:     []string{unsetForwarding},
	counterpart: single("/", wsproxy.WithKeepAlive()),
	trials: []trial{
		{name: "two clients, one connection", play: func(x *stage) {
			x.ask(x.dial(x), request("GET /one"))
			x.ask(x.dial(x), request("GET /two"))
		}},
		{name: "an upgrade", request: upgrade("/"), response: switching},
	},
}}, serverRecipes, chainRecipes, timed())

func TestNginxAndWsproxyDifferOnlyAsListed(t *testing.T) {
	var mu sync.Mutex
	total, ran, seen := 0, 0, map[string][]int{}
	t.Run("recipes", func(t *testing.T) {
		for _, r := range recipes {
			total += len(r.trials)
			t.Run(r.name, func(t *testing.T) {
				t.Parallel()
				up, nginx, wsproxy := r.run(t)
				for _, tr := range r.trials {
					t.Run(tr.name, func(t *testing.T) {
						shown := judge(t, tr, r.differs, compare(through(t, nginx, up, tr), through(t, wsproxy, up, tr)))
						mu.Lock()
						defer mu.Unlock()
						ran++
						for title, lines := range shown {
							seen[title] = append(seen[title], lines...)
						}
					})
				}
			})
		}
	})
	if ran < total || t.Failed() {
		return // skipped, or only some tests run
	}
	for _, d := range differences {
		for i, line := range d.lines {
			assert.Contains(t, seen[d.title], i, "the difference shows in no trial: %s, %s", d.title, line)
		}
	}
}

// run starts both sides in front of the same servers.
func (r recipe) run(t *testing.T) (up []*recorder, nginx, wsproxy side) {
	var addrs []string
	replace := slices.Clone(r.replace)
	for i, server := range r.servers {
		u := newRecorder(t)
		if r.instead != nil {
			u.addr = r.instead(t)
		}
		up, addrs = append(up, u), append(addrs, u.addr)
		here := u.addr
		if r.params != nil {
			here += " " + r.params[i]
		}
		replace = append(replace, server, here)
	}
	if r.start != nil {
		nginx, wsproxy = r.start(t, addrs)
		return up, nginx, wsproxy
	}
	nginx = side{"nginx", startNginx(t, r.conf, replace...), r.tls}
	return up, nginx, wsproxySide(t, r.counterpart(t, addrs), r.tls)
}
