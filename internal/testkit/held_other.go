//go:build !linux

package testkit

import (
	"net"
	"testing"
)

// HeldAddr returns a loopback address for a server that a test starts later, or
// starts again. Nothing holds its port meanwhile.
func HeldAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
