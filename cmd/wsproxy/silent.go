package main

import (
	"context"
	"net"
	"net/http"
	"time"
)

// young is the age up to which the drain waits for the first request of a
// connection. After that the client has probably opened it in advance, as
// browsers do.
const young = time.Second

// settle waits until the requests on their way have arrived and the handshakes
// in progress have ended, for a second at most. http.Server.Shutdown drops a
// request whose header is not complete, and Proxy.Shutdown refuses a handshake.
func (v *service) settle(ctx context.Context) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	over := time.Now().Add(young)
	for passes := 1; time.Now().Before(over); passes++ {
		if v.expected() > 0 || v.handshakes() > 0 {
			passes = 0
		}
		if passes == 2 { // over HTTP/2 one may fall between an upgrade's arrival and its handshake
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// connKey is the context key of a request's connection.
type connKey struct{}

// noting returns h, which notes that the first request of a connection is under
// way. Until then net/http drops it if Shutdown is called, and until its
// connection is hijacked the proxy may refuse an upgrade.
func (v *service) noting(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn := r.Context().Value(connKey{})
		if r.Header["Upgrade"] == nil {
			v.fresh.Delete(conn)
		}
		defer v.fresh.Delete(conn)
		h.ServeHTTP(w, r)
	})
}

// expected returns the number of connections whose first request may still come.
func (v *service) expected() (n int) {
	v.fresh.Range(func(_, since any) bool {
		if time.Since(since.(time.Time)) < young {
			n++
		}
		return true
	})
	return n
}

// closeFresh closes the connections without a whole request so far.
// http.Server.Shutdown, which serves none of them any more, would wait five
// seconds for those that are silent. An upgrade that is waiting for its upstream
// keeps its connection, and gets a 503.
func (v *service) closeFresh() {
	v.fresh.Range(func(conn, _ any) bool {
		if _, active := v.requests.Load(conn); !active {
			conn.(net.Conn).Close()
		}
		return true
	})
}

// handshakes returns the number of handshakes in progress.
func (v *service) handshakes() (n int) {
	for _, m := range v.routes {
		n += m.proxy.Stats().Handshakes
	}
	return n
}
