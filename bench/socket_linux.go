package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The calls below are on non-blocking sockets, so they bypass the scheduler.

// rawRead reads once; the end of the stream is io.EOF.
func rawRead(fd int, p []byte) (int, error) { return receive(fd, &p[0], len(p), 0) }

// rawDiscard removes up to n bytes from a TCP socket's buffer without copying
// them.
func rawDiscard(fd int, scratch []byte, n int) (int, error) {
	return receive(fd, &scratch[0], n, unix.MSG_TRUNC)
}

func receive(fd int, p *byte, n, flags int) (int, error) {
	for {
		got, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(p)), uintptr(n), uintptr(flags), 0, 0)
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			return 0, errno
		case got == 0:
			return 0, io.EOF
		default:
			return int(got), nil
		}
	}
}

// rawWrite writes once.
func rawWrite(fd int, p []byte) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

func sockaddr(addr string) (unix.Sockaddr, error) {
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	if !a.Addr().Is4() {
		return nil, fmt.Errorf("%s is not an IPv4 address", addr)
	}
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}, nil
}

// epollWait waits for events and returns an error if none arrives in time.
func epollWait(epoll int, events []unix.EpollEvent, limit time.Duration) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), uintptr(limit.Milliseconds()), 0, 0)
		switch {
		case errno == unix.EINTR:
		case errno != 0:
			return 0, errno
		case n == 0:
			return 0, errors.New("nothing came in " + limit.String())
		default:
			return int(n), nil
		}
	}
}
