package libraries_test

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/lab"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A cell is a client, a server and the transports between them and the proxy.
// With plain sockets on both sides the proxy uses its Linux relay if there is
// one. With TLS on either side it uses the portable relay. With HTTP/2, which
// HAProxy makes of the client's WebSockets, it uses the stream relay.
type cell struct {
	client, server library
	front          string // ws, wss or h2
	back           string // ws or wss
}

func (c cell) String() string {
	return fmt.Sprintf("%s to %s by %s and %s", c.client, c.server, c.front, c.back)
}

// pairs returns every client with every server, by ws and by wss; by h2 and by
// wss to the upstream only each library with itself.
func pairs() (cells []cell) {
	for _, client := range libraries {
		for _, server := range libraries {
			cells = append(cells, cell{client, server, "ws", "ws"}, cell{client, server, "wss", "ws"})
			if client == server {
				cells = append(cells, cell{client, server, "h2", "ws"},
					cell{client, server, "wss", "wss"}, cell{client, server, "ws", "wss"})
			}
		}
	}
	return cells
}

// forEachPair runs a test for each pair.
func forEachPair(t *testing.T, test func(t *testing.T, c cell)) {
	t.Parallel()
	for _, c := range pairs() {
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			test(t, c)
		})
	}
}

// A rig is a server behind a proxy.
type rig struct {
	cell
	*wsproxy.Proxy
	url     string
	trust   *tls.Config
	direct  string // the URL of the server itself
	trusted *tls.Config
	offer   options // of the client
	ends    chan *end
	opened  chan *wsproxy.Tunnel
	tunnel  *wsproxy.Tunnel // the last one
	endings chan wsproxy.Ending
}

func newRig(t *testing.T, c cell, offer, accept options, opts ...wsproxy.Option) *rig {
	r := &rig{cell: c, offer: offer, ends: make(chan *end, 1),
		opened: make(chan *wsproxy.Tunnel, 1), endings: make(chan wsproxy.Ending, 1)}
	serve := http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		e := newEnd(c.server)
		e.offered = req.Header.Get("Sec-WebSocket-Extensions")
		var err error
		if e.conn, err = c.server.accept(w, req, accept, e.inbox); err == nil {
			r.ends <- e
			e.run()
		}
	})
	target := "http://"
	if c.back == "wss" {
		target = "https://"
		r.direct, r.trusted = testkit.ServeTLS(t, serve)
		opts = append(opts, wsproxy.WithTLSConfig(r.trusted))
	} else {
		r.direct = testkit.Serve(t, serve)
	}
	opts = append(opts, testkit.OnOpen(func(tunnel *wsproxy.Tunnel, _ *http.Request) { r.opened <- tunnel }), testkit.OnClose(func(_ *wsproxy.Tunnel, e wsproxy.Ending) { r.endings <- e }))
	r.Proxy = testkit.NewProxy(t, target+r.direct, opts...)
	switch c.front {
	case "wss":
		r.url, r.trust = testkit.ServeTLS(t, r.Proxy)
		r.url = "wss://" + r.url + "/chat"
	case "h2":
		r.url = "ws://" + lab.HAProxy(t, testkit.ServeHTTP2Cleartext(t, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			assert.Equal(t, "CONNECT HTTP/2.0", req.Method+" "+req.Proto)
			r.Proxy.ServeHTTP(w, req)
		}))) + "/chat"
	default:
		r.url = "ws://" + testkit.Serve(t, r.Proxy) + "/chat"
	}
	r.direct = c.back + "://" + r.direct + "/chat"
	return r
}

// open opens a tunnel and returns its ends.
func (r *rig) open(t *testing.T) (client, server *end) {
	t.Helper()
	client, server = r.dial(t, r.url, r.trust)
	r.tunnel = <-r.opened
	return client, server
}

func (r *rig) dial(t *testing.T, url string, trust *tls.Config) (client, server *end) {
	t.Helper()
	client = newEnd(r.client)
	var err error
	client.conn, err = r.client.dial(url, trust, r.offer, client.inbox)
	require.NoError(t, err)
	go client.run()
	t.Cleanup(client.leave)
	select {
	case server = <-r.ends:
		t.Cleanup(server.leave)
	case <-time.After(testkit.Patience):
		require.Fail(t, "the server got no connection")
	}
	return client, server
}

// ending returns how the tunnel ended.
func (r *rig) ending(t *testing.T) wsproxy.Ending {
	t.Helper()
	select {
	case e := <-r.endings:
		return e
	case <-time.After(testkit.Patience):
		require.Fail(t, "the tunnel did not end")
		return wsproxy.Ending{}
	}
}
