//go:build unix

package main

import (
	"net"
	"syscall"
)

// listens reports whether listen(2) was called on l's socket. Otherwise the
// first accept would fail.
func listens(l net.Listener) bool {
	raw, err := l.(syscall.Conn).SyscallConn()
	if err != nil {
		return false
	}
	on := 0
	raw.Control(func(fd uintptr) { on, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ACCEPTCONN) })
	return err == nil && on != 0
}
