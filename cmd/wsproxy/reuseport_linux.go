package main

import (
	"net"
	"runtime"
	"strings"
	"syscall"
	"unsafe"
)

// Options of Linux that package syscall lacks on some or all processors.
const (
	soAttachReuseportCBPF = 51
	soDetachReuseportBPF  = 68
)

// shareAddress sets SO_REUSEPORT.
func shareAddress(fd uintptr) error {
	option := 15
	if strings.HasPrefix(runtime.GOARCH, "mips") {
		option = 0x200
	}
	return syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, option, 1)
}

// second is a BPF program that gives each new connection to the second of the
// sockets that share an address. Without a second the kernel ignores it.
var second = [...]syscall.SockFilter{{Code: syscall.BPF_RET | syscall.BPF_K, K: 1}}

// steerAway makes the kernel give new connections to the second of the sockets
// that share l's address. l is the first of them if it is the one that has
// listened longest: the kernel numbers them in the order in which they began to
// listen, and gives the number of one that closes to the last.
//
// Linux resets the connections that nobody has accepted when it closes a
// listener, and those whose TCP handshake is not complete. With the sysctl
// net.ipv4.tcp_migrate_req they go to another socket instead.
func steerAway(l net.Listener) (done bool) {
	program := syscall.SockFprog{Len: uint16(len(second)), Filter: &second[0]}
	bytes := unsafe.Slice((*byte)(unsafe.Pointer(&program)), unsafe.Sizeof(program))
	return control(l, func(fd int) error {
		return syscall.SetsockoptString(fd, syscall.SOL_SOCKET, soAttachReuseportCBPF, string(bytes))
	})
}

// balance makes the kernel spread new connections over the sockets that share l's
// address. An earlier steerAway also has an effect on later sockets.
func balance(l net.Listener) {
	control(l, func(fd int) error {
		return syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, soDetachReuseportBPF, 0) // ENOENT without one
	})
}

func control(l net.Listener, set func(fd int) error) (ok bool) {
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		return false
	}
	raw.Control(func(fd uintptr) { ok = set(int(fd)) == nil })
	return ok
}
