package nginx_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

// switched sends a handshake and returns the server that switched, or the
// status.
func (x *stage) switched(path string) (c *peer, who string) {
	x.Helper()
	c = x.dial(x)
	c.send(x, upgrade(path))
	_, m, err := c.response("GET")
	require.NoError(x, err)
	if m.status() == 101 {
		return c, m.all("x-server")[0]
	}
	return c, fmt.Sprint(m.status())
}

// asked returns a play that opens n tunnels, one after the other, and notes
// their servers.
func asked(n int, path string) func(x *stage) {
	return func(x *stage) {
		var where []string
		for range n {
			_, who := x.switched(path)
			where = append(where, who)
		}
		x.note("servers", "%s", strings.Join(where, " "))
		x.requestsOnly = true
	}
}

// each returns a reply for every server. The reply names its server.
func each(responses ...string) []reply {
	var replies []reply
	for i, text := range responses {
		text = strings.Replace(text, "\r\n", fmt.Sprintf("\r\nX-Server: %d\r\n", i+1), 1)
		if text == "" {
			replies = append(replies, func(*peer, message) fate { return closes })
		} else {
			replies = append(replies, respondWith(text))
		}
	}
	return replies
}

const busy = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"

// twoServers adds a recipe with two servers and more text in its upstream block
// or after each server.
func twoServers(name, directive, params string, policy func() wsproxy.Policy, server wsproxy.Server, trials ...trial) recipe {
	r := recipe{
		name: name, conf: "two-servers", servers: []string{"192.168.3.1:3000", "192.168.3.2:300"}, params: []string{params, params},
		counterpart: func(t testing.TB, up []string) http.Handler {
			var servers []wsproxy.Server
			for _, addr := range up {
				s := server
				s.Addr = addr
				servers = append(servers, s)
			}
			u, err := wsproxy.NewUpstream(policy(), servers...)
			require.NoError(t, err)
			return under("/websocket", testkit.NewProxy(t, "http://websocket", wsproxy.WithUpstream(u)))
		},
		trials: trials,
	}
	if directive != "" {
		r.replace = []string{"upstream websocket {", "upstream websocket { " + directive}
	}
	return r
}

func byURI() wsproxy.Policy {
	return wsproxy.HashBy(func(r *http.Request) string { return r.RequestURI })
}

var both = each(switching, switching)

var serverRecipes = []recipe{
	twoServers("two servers in turn", "", "", wsproxy.RoundRobin, wsproxy.Server{},
		trial{name: "six tunnels", play: asked(6, "/websocket"), replies: both},
		trial{name: "the upstream's name is not the Host", request: upgrade("/websocket"), replies: both}),
	twoServers("least_conn", "least_conn;", "", wsproxy.LeastTunnels, wsproxy.Server{},
		trial{name: "six tunnels", play: asked(6, "/websocket"), replies: both}),
	twoServers("hash consistent", "hash $request_uri consistent;", "", byURI, wsproxy.Server{},
		trial{name: "the same path", play: sameServer(6), replies: both}),
	twoServers("ip_hash", "ip_hash;", "", wsproxy.HashByClientIP, wsproxy.Server{},
		trial{name: "the same client", play: sameServer(6), replies: both}),
	twoServers("random two", "random two least_conn;", "", wsproxy.Random2, wsproxy.Server{},
		trial{name: "six tunnels", play: spread(6), replies: both}),
	twoServers("max_conns", "", "max_conns=1", wsproxy.RoundRobin, wsproxy.Server{MaxTunnels: 1},
		trial{name: "a third tunnel for two places", differs: []string{noServerLeft}, play: asked(3, "/websocket"), replies: both}),
	twoServers("one server fails", "", "", wsproxy.RoundRobin, wsproxy.Server{},
		trial{name: "and is left out", play: asked(4, "/websocket"), replies: each("", switching)}),
	twoServers("a failed server comes back", "", "fail_timeout=1s", wsproxy.RoundRobin, wsproxy.Server{FailTimeout: time.Second},
		trial{name: "after fail_timeout", play: comesBack, replies: each("", switching)}),
	twoServers("all servers fail", "", "", wsproxy.RoundRobin, wsproxy.Server{},
		trial{name: "twice in a row", differs: []string{allDown}, play: asked(2, "/websocket"), replies: each("", "")}),
	twoServers("a server responds with 503", "", "", wsproxy.RoundRobin, wsproxy.Server{},
		trial{name: "the recipe", play: asked(2, "/websocket"), replies: each(busy, switching)}),
	twoServers("a request that must not be sent twice", "", "", wsproxy.RoundRobin, wsproxy.Server{},
		trial{name: "a POST", differs: []string{errorPages}, request: request("POST /websocket", "Content-Length: 4") + "body", replies: each("", "")}),
	{
		name: "weights, a backup, one down", conf: "balance",
		servers: []string{"192.168.3.1:3000", "192.168.3.2:3000", "192.168.3.3:3000", "192.168.3.4:3000"},
		counterpart: func(t testing.TB, up []string) http.Handler {
			return testkit.NewProxy(t, "http://websocket", wsproxy.WithRetryStatus(502, 503, 504), wsproxy.WithUpstream(newUpstream(t,
				wsproxy.Server{Addr: up[0], Weight: 2},
				wsproxy.Server{Addr: up[1], MaxFails: 3, FailTimeout: 30 * time.Second},
				wsproxy.Server{Addr: up[2], Backup: true},
				wsproxy.Server{Addr: up[3], Down: true})))
		},
		trials: []trial{
			{name: "six tunnels", play: asked(6, "/"), replies: each(switching, switching, switching, switching)},
			{name: "503 goes to the next server", differs: []string{retryStatus}, play: asked(6, "/"), replies: each(busy, switching, switching, switching)},
			{name: "the backup serves when all others fail", differs: []string{retryStatus}, play: asked(6, "/"), replies: each(busy, "", switching, switching)},
		},
	},
}

// sameServer notes how many servers n handshakes for one path reach.
func sameServer(n int) func(x *stage) {
	return func(x *stage) {
		asked(n, "/websocket")(x)
		first := strings.Fields(x.seen["servers"])[0]
		x.note("servers", "%d of the same server", strings.Count(x.seen["servers"], first))
		x.up = nil // which server it is is not compared
	}
}

// spread notes how many of n tunnels each server has.
func spread(n int) func(x *stage) {
	return func(x *stage) {
		asked(n, "/websocket")(x)
		x.note("servers", "%d and %d", strings.Count(x.seen["servers"], "1"), strings.Count(x.seen["servers"], "2"))
	}
}

// comesBack makes the first server fail once and then waits until it is tried
// again.
func comesBack(x *stage) {
	asked(2, "/websocket")(x)
	x.up[0].begin(both[0])
	testkit.Eventually(x, func() bool {
		c, who := x.switched("/websocket")
		c.Close()
		return who == "1"
	}, "the server does not come back")
	x.up[0].begin(both[0])
	x.up[1].begin(both[1])
}
