package harness_test

import (
	"fmt"
	"net"
	"testing"

	"example.com/wsproxy/internal/memconn"
	"golang.org/x/net/nettest"
)

// The connections in memory of wsproxytest behave as a net.Conn must, whatever the
// size of their buffers.
func TestConnectionsInMemoryPassNettest(t *testing.T) {
	for _, size := range []int{1 << 10, memconn.Size} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			nettest.TestConn(t, func() (near, far net.Conn, stop func(), err error) {
				a, b := memconn.Pipe(size)
				return a, b, func() {
					a.Close()
					b.Close()
				}, nil
			})
		})
	}
}
