package testkit

import (
	"fmt"
	"syscall"
	"testing"
)

// HeldAddr returns a loopback address for a server that a test starts later, or
// starts again, in this or another process. Until the test's end the system gives
// its port to nobody who asks for any free port, on no address. While no server
// listens there, connections are refused.
//
// A socket that is bound with SO_REUSEADDR and does not listen holds the port.
// Linux does not choose a held port, but lets a server that sets SO_REUSEADDR bind
// it by number, also on all addresses.
func HeldAddr(t testing.TB) string {
	t.Helper()
	port, err := hold(t, syscall.AF_INET6, &syscall.SockaddrInet6{}) // IPv4 too
	if err != nil {
		port, err = hold(t, syscall.AF_INET, &syscall.SockaddrInet4{})
	}
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", port)
}

// hold binds a socket to any free port of an address until the test's end.
func hold(t testing.TB, family int, any syscall.Sockaddr) (port int, err error) {
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	t.Cleanup(func() { syscall.Close(fd) })
	if family == syscall.AF_INET6 {
		if err := syscall.SetsockoptInt(fd, syscall.IPPROTO_IPV6, syscall.IPV6_V6ONLY, 0); err != nil {
			return 0, err
		}
	}
	if err := syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1); err != nil {
		return 0, err
	}
	if err := syscall.Bind(fd, any); err != nil {
		return 0, err
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		return 0, err
	}
	switch bound := bound.(type) {
	case *syscall.SockaddrInet6:
		return bound.Port, nil
	case *syscall.SockaddrInet4:
		return bound.Port, nil
	}
	return 0, syscall.EAFNOSUPPORT
}
