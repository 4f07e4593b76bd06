package testkit

import (
	"net/netip"
	"syscall"
	"testing"
)

// HeldAddr returns a loopback address for a server that a test starts later, or
// starts again, in this or another process. Until the test's end the system gives
// its port to nobody who asks for any free port. While no server listens there,
// connections are refused.
//
// A socket that is bound with SO_REUSEADDR and does not listen holds the port.
// Linux does not choose a held port, but lets a server that sets SO_REUSEADDR bind
// it by number.
func HeldAddr(t testing.TB) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		t.Fatal(err)
	}
	loopback := syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if err := syscall.Bind(fd, &loopback); err != nil {
		t.Fatal(err)
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return netip.AddrPortFrom(netip.AddrFrom4(loopback.Addr), uint16(bound.(*syscall.SockaddrInet4).Port)).String()
}
