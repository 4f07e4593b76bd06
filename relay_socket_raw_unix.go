//go:build unix

package wsproxy

import (
	"crypto/tls"
	"net"
	"syscall"
)

// rawConn returns the descriptor's side of a plain TCP or unix socket. A type
// that embeds one is not one: it may change what passes.
func rawConn(conn net.Conn) syscall.RawConn {
	var raw syscall.RawConn
	switch c := conn.(type) {
	case *net.TCPConn:
		raw, _ = c.SyscallConn()
	case *net.UnixConn:
		raw, _ = c.SyscallConn()
	}
	return raw
}

// unblock makes a socket non-blocking again. A dialer that sets socket options
// through conn.File() and Fd() has left it blocking, as the duplicate shares
// the file description: no deadline and no Close then ends a read of conn.
func unblock(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	if raw := rawConn(conn); raw != nil {
		raw.Control(func(fd uintptr) { syscall.SetNonblock(int(fd), true) })
	}
}
