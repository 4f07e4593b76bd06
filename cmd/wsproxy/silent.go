package main

import (
	"context"
	"net"
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
		if passes == 2 { // one may fall between the header of an upgrade and its handshake
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
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
// seconds for those that are silent.
func (v *service) closeFresh() {
	v.fresh.Range(func(conn, _ any) bool {
		conn.(net.Conn).Close()
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
