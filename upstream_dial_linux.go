//go:build !386 && !s390x && !wsproxy_portable

package wsproxy

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// A loopConn is a TCP connection to a server that was dialed without package net.
// The runtime's poller does not know its socket. A loop watches it from the start
// and runs the tunnel's relay later, so the relay takes over the descriptor and
// its watch. Taking a socket out of the runtime's poller would cost a duplicate, a
// close and two more epoll_ctl.
//
// The handshake owns a loopConn until it closes it or a relay takes it. Either
// sets fd to -1. A relay of the loop frees the slot in the crew or keeps it, and
// takes the loopConn's place among the loop's relays. Any other relay gets a
// connection of package net instead.
//
// A loopConn implements net.Conn. One goroutine may read while another writes. A
// call that has to wait parks its goroutine until the loop has an event, the
// deadline passes or is changed, or the connection is closed. Then it tries again.
type loopConn struct {
	loop          *loop
	watch         watch // if events is not 0
	local, remote netip.AddrPort
	unsure        bool // the stream's end or urgent data has come; crew.mu guards it

	// mu guards these. It is held during system calls, which do not wait, so that
	// Close cannot close the descriptor while a call is about to use its number.
	mu      sync.Mutex
	fd      int    // -1: closed or taken
	events  uint32 // what epoll reports; 0: not watched yet
	in, out side
}

// A side is what a Read or a Write of a loopConn waits for.
type side struct {
	event    uint32        // of epoll
	ready    chan struct{} // has a value if a call that waits is to try again
	waits    bool          // a call waits
	deadline time.Time
}

func newSide(event uint32) side { return side{event: event, ready: make(chan struct{}, 1)} }

func (s *side) wake() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}

// dial connects to a server. It returns errUseNet if package net must dial instead:
// if the system refuses a descriptor or a watch, or if the connection fails in a way
// after which package net tries again.
func (ls *loops) dial(ctx context.Context, addr netip.AddrPort, timeout time.Duration) (net.Conn, error) {
	if ctx.Err() != nil || new(net.Dialer).MultipathTCP() {
		return nil, errUseNet
	}
	to, family := sockaddr(addr)
	fd, err := syscall.Socket(family, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, errUseNet
	}
	l, err := ls.place() // after the socket: a new loop must not take the last descriptors
	if err != nil {
		syscall.Close(fd)
		return nil, errUseNet
	}
	c := &loopConn{loop: l, fd: fd, remote: addr, in: newSide(syscall.EPOLLIN), out: newSide(syscall.EPOLLOUT)}
	c.setOptions()
	if err := c.connect(ctx, to, timeout); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// setOptions sets what package net sets. It leaves out the number of keep-alive
// probes: net's 9 is the kernel's default.
func (c *loopConn) setOptions() {
	const keepAlive = 15 // seconds
	syscall.SetsockoptInt(c.fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	syscall.SetsockoptInt(c.fd, syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1)
	syscall.SetsockoptInt(c.fd, syscall.IPPROTO_TCP, syscall.TCP_KEEPIDLE, keepAlive)
	syscall.SetsockoptInt(c.fd, syscall.IPPROTO_TCP, syscall.TCP_KEEPINTVL, keepAlive)
}

// connect connects the socket and makes the loop watch it.
//
// A second connect(2) returns EALREADY while the kernel connects, and then the
// outcome. On loopback the second call already returns it.
func (c *loopConn) connect(ctx context.Context, to syscall.Sockaddr, timeout time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := syscall.Connect(c.fd, to)
	if isConnecting(err) {
		err = syscall.Connect(c.fd, to)
	}
	if isConnecting(err) && timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	for isConnecting(err) {
		if c.expect(c.in.event|c.out.event) != nil {
			return errUseNet
		}
		c.wait(&c.out, ctx.Done())
		if ctx.Err() != nil {
			_, err := new(net.Dialer).DialContext(ctx, "tcp", c.remote.String()) // only returns net's error, as ctx is done
			return err
		}
		err = syscall.Connect(c.fd, to)
	}
	switch err {
	case nil, syscall.EISCONN:
	case syscall.EADDRNOTAVAIL: // Linux may report it wrongly; package net tries again
		return errUseNet
	default:
		return &net.OpError{Op: "dial", Net: "tcp", Addr: c.RemoteAddr(), Err: os.NewSyscallError("connect", err)}
	}
	local, err := syscall.Getsockname(c.fd)
	c.local = addrPort(local)
	// A socket connects to itself if nothing listens on the port and Linux chooses
	// the same one as the local port (golang/go#2690). Package net tries again.
	if err != nil || c.local == c.remote || c.expect(c.in.event) != nil {
		return errUseNet
	}
	return nil
}

func isConnecting(err error) bool {
	return err == syscall.EINPROGRESS || err == syscall.EALREADY || err == syscall.EINTR
}

// expect makes epoll report these events, including those that are pending. c.mu is
// held.
func (c *loopConn) expect(events uint32) error {
	if c.events&events == events {
		return nil
	}
	op := syscall.EPOLL_CTL_MOD
	if c.events == 0 {
		op = syscall.EPOLL_CTL_ADD
		c.watch = c.loop.crew.enter(c)
	}
	c.events |= events
	event := c.watch.on(c.events)
	return os.NewSyscallError("epoll_ctl", syscall.EpollCtl(c.loop.epfd, op, c.fd, &event))
}

// event implements watched.
func (c *loopConn) event(events uint32) *half {
	c.unsure = c.unsure || events&(syscall.EPOLLRDHUP|syscall.EPOLLHUP|syscall.EPOLLERR|syscall.EPOLLPRI) != 0
	c.in.wake()
	if events&(syscall.EPOLLOUT|syscall.EPOLLHUP|syscall.EPOLLERR) != 0 {
		c.out.wake()
	}
	return nil
}

// wait waits until s.ready has a value, the deadline passes or done is closed. It
// unlocks c.mu meanwhile.
func (c *loopConn) wait(s *side, done <-chan struct{}) {
	var expired <-chan time.Time
	if !s.deadline.IsZero() {
		timer := time.NewTimer(time.Until(s.deadline))
		defer timer.Stop()
		expired = timer.C
	}
	s.waits = true
	c.mu.Unlock()
	select {
	case <-s.ready:
	case <-expired:
	case <-done:
	}
	c.mu.Lock()
	s.waits = false
}

// try calls recv or send until it does not have to wait.
func (c *loopConn) try(s *side, call func(fd int, b []byte) (int, syscall.Errno), b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if c.fd < 0 {
			return 0, net.ErrClosed
		}
		if !s.deadline.IsZero() && time.Until(s.deadline) <= 0 {
			return 0, os.ErrDeadlineExceeded
		}
		switch n, errno := call(c.fd, b); errno {
		case 0:
			return n, nil
		case syscall.EINTR:
		case syscall.EAGAIN:
			if err := c.expect(s.event); err != nil {
				return 0, err
			}
			c.wait(s, nil)
		default:
			return 0, errno
		}
	}
}

// Read implements net.Conn.
func (c *loopConn) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	n, err := c.try(&c.in, recv, b)
	switch {
	case err != nil:
		return 0, c.failed("read", err)
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}

// Write implements net.Conn.
func (c *loopConn) Write(b []byte) (sent int, err error) {
	for sent < len(b) {
		n, err := c.try(&c.out, send, b[sent:])
		if err != nil {
			return sent, c.failed("write", err)
		}
		sent += n
	}
	return sent, nil
}

// failed returns err as a connection of package net does.
func (c *loopConn) failed(op string, err error) error {
	if errno, ok := err.(syscall.Errno); ok {
		err = os.NewSyscallError(op, errno)
	}
	return &net.OpError{Op: op, Net: "tcp", Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}

// Close implements net.Conn.
func (c *loopConn) Close() error {
	fd := c.take()
	if fd < 0 {
		return c.failed("close", net.ErrClosed)
	}
	if c.events != 0 {
		c.loop.crew.remove(c.watch)
	}
	syscall.Close(fd) // this also removes its watch
	c.loop.dismiss()
	return nil
}

// CloseWrite half-closes the connection for the portable relay, which keeps c if
// no descriptor is free.
func (c *loopConn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return os.NewSyscallError("shutdown", syscall.Shutdown(c.fd, syscall.SHUT_WR))
}

// SetLinger sets SO_LINGER, with which the portable relay makes Close reset the
// connection.
func (c *loopConn) SetLinger(sec int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	linger := &syscall.Linger{Onoff: 1, Linger: int32(sec)}
	return os.NewSyscallError("setsockopt", syscall.SetsockoptLinger(c.fd, syscall.SOL_SOCKET, syscall.SO_LINGER, linger))
}

// take gives fd to the caller, which must free or reuse the slot and the place
// among the loop's relays.
func (c *loopConn) take() (fd int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fd, c.fd = c.fd, -1
	c.in.wake()
	c.out.wake()
	return fd
}

// SetDeadline implements net.Conn.
func (c *loopConn) SetDeadline(t time.Time) error {
	c.setDeadline(&c.in, t)
	return c.setDeadline(&c.out, t)
}

// SetReadDeadline implements net.Conn.
func (c *loopConn) SetReadDeadline(t time.Time) error { return c.setDeadline(&c.in, t) }

// SetWriteDeadline implements net.Conn.
func (c *loopConn) SetWriteDeadline(t time.Time) error { return c.setDeadline(&c.out, t) }

func (c *loopConn) setDeadline(s *side, t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.deadline = t
	if s.waits {
		s.wake()
	}
	return nil
}

// LocalAddr implements net.Conn.
func (c *loopConn) LocalAddr() net.Addr { return net.TCPAddrFromAddrPort(c.local) }

// RemoteAddr implements net.Conn.
func (c *loopConn) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

func sockaddr(a netip.AddrPort) (to syscall.Sockaddr, family int) {
	if a.Addr().Is4() {
		return &syscall.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}, syscall.AF_INET
	}
	return &syscall.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}, syscall.AF_INET6
}

func addrPort(a syscall.Sockaddr) netip.AddrPort {
	switch a := a.(type) {
	case *syscall.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *syscall.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port))
	}
	return netip.AddrPort{}
}
