//go:build darwin || dragonfly || freebsd || netbsd || openbsd

package main

import (
	"net"
	"syscall"
)

// shareAddress sets SO_REUSEPORT.
func shareAddress(fd uintptr) error {
	return syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_REUSEPORT, 1)
}

// steerAway does nothing. Connections that nobody has accepted when l closes are
// reset.
func steerAway(net.Listener) bool { return false }

func balance(net.Listener) {}
