package nginx_test

import (
	"net"
	"net/http"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
)

// The outer proxy of two in a row terminates TLS and does not send the client's
// Host. The inner one selects the server by its name.
func nginxOuter(t testing.TB, inner string) side {
	return side{"nginx", startNginx(t, "chain-outer", "192.168.3.1:80", inner), true}
}

func nginxInner(t testing.TB, up string) string {
	return startNginx(t, "chain-inner", "127.0.0.1:3000", up)
}

func wsproxyOuter(t testing.TB, inner string) side {
	u := newUpstream(t, wsproxy.Server{Addr: inner})
	return wsproxySide(t, testkit.NewProxy(t, "http://ws.example.com", wsproxy.WithUpstream(u), wsproxy.WithTargetHost()), true)
}

func wsproxyInner(t testing.TB, up string) string {
	mux := http.NewServeMux()
	mux.Handle("ws.example.com/", testkit.NewProxy(t, "http://"+up))
	return testkit.Serve(t, mux)
}

// chain compares two nginx in a row with two proxies, at least one of which is
// wsproxy.
func chain(name string, outer func(testing.TB, string) side, inner func(testing.TB, string) string, differs ...string) recipe {
	return recipe{
		name:    "two in a row, " + name,
		servers: []string{""},
		differs: differs,
		start: func(t testing.TB, up []string) (side, side) {
			return nginxOuter(t, nginxInner(t, up[0])), outer(t, inner(t, up[0]))
		},
		trials: []trial{{
			name:     "a handshake",
			play:     chained(upgrade("/chat")),
			response: switching,
		}, {
			name:     "a handshake through proxies before",
			play:     chained(upgrade("/chat", "X-Forwarded-For: 192.0.2.1")),
			response: switching,
		}, {
			name: "a GET",
			play: chained(request("GET /page?a=b")),
		}, {
			name: "both ends speak, and the client leaves",
			play: func(x *stage) {
				c, up := x.open("/chat")
				c.send(x, "hello")
				up.expect(x, "hello")
				up.send(x, "world")
				c.expect(x, "world")
				c.Close()
				x.note("upstream: end", "%s", up.rest())
			},
			response: switching,
		}},
	}
}

// chained sends requests from an address that is not the outer proxy's.
func chained(request string) func(x *stage) {
	return func(x *stage) {
		x.ask(x.dialFrom(x, net.IPv4(127, 0, 0, 2)), request)
	}
}

var chainRecipes = []recipe{
	chain("both wsproxy", wsproxyOuter, wsproxyInner, innerForwarding),
	chain("wsproxy outside", wsproxyOuter, nginxInner),
	chain("wsproxy inside", nginxOuter, wsproxyInner, innerForwarding),
}
