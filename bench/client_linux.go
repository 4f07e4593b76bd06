package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"time"

	"example.com/wsproxy/internal/frame"
	"golang.org/x/sys/unix"
)

// A client is one WebSocket of the load generator. It starts as an ordinary
// connection; after detach its reads never block.
type client struct {
	net.Conn
	socket *socket
	secure bool
}

// openTimeout is how long a client's handshake may take.
const openTimeout = 20 * time.Second

// open makes a connection and upgrades it.
func open(addr, path string, config *tls.Config) (*client, error) {
	dialer := net.Dialer{Timeout: openTimeout, KeepAlive: -1}
	conn, err := dialer.DialContext(context.Background(), "tcp", addr)
	if err != nil {
		return nil, err
	}
	s := &socket{Conn: conn, fd: -1}
	c := &client{Conn: s, socket: s}
	if config != nil {
		c.Conn, c.secure = tls.Client(s, config), true
	}
	if err := c.upgrade(addr, path); err != nil {
		c.abort()
		return nil, err
	}
	return c, nil
}

func (c *client) upgrade(addr, path string) error {
	c.SetDeadline(time.Now().Add(openTimeout))
	_, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: "+addr+"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Key: "+clientKey+"\r\nSec-WebSocket-Version: 13\r\n\r\n")
	if err != nil {
		return err
	}
	var head [2048]byte
	n := 0
	for !bytes.HasSuffix(head[:n], []byte("\r\n\r\n")) {
		got, err := c.Read(head[n:])
		if n += got; err != nil {
			return fmt.Errorf("reading the response to a handshake: %w", err)
		}
	}
	reply := string(head[:n])
	if !bytes.HasPrefix(head[:], []byte("HTTP/1.1 101 ")) || headerField(reply, "Sec-WebSocket-Accept") != acceptFor(clientKey) {
		return fmt.Errorf("not a handshake's response: %.200q", reply)
	}
	return nil
}

// exchange sends a message and checks every byte of what comes back.
func (c *client) exchange(frame, want []byte) error {
	if _, err := c.Write(frame); err != nil {
		return err
	}
	return c.expect(want)
}

func (c *client) expect(want []byte) error {
	got := make([]byte, len(want))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("a wrong message of %d bytes came back", len(got))
	}
	return nil
}

// hangUp closes after the server, as RFC 6455 requires.
func (c *client) hangUp() error {
	defer c.socket.Close()
	if _, err := c.Write(frame.AppendControl(nil, frame.OpClose, nil, true)); err != nil {
		return err
	}
	if err := c.expect(frame.AppendControl(nil, frame.OpClose, nil, false)); err != nil {
		return err
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		return fmt.Errorf("more after the end")
	}
	return nil
}

// abort resets the connection, which leaves no port in TIME_WAIT.
func (c *client) abort() {
	if tcp, ok := c.socket.Conn.(*net.TCPConn); ok && c.socket.fd < 0 {
		tcp.SetLinger(0)
	} else {
		unix.SetsockoptLinger(c.socket.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	c.socket.Close()
}

// detach takes the socket out of the runtime's poller.
func (c *client) detach() error {
	c.SetDeadline(time.Time{})
	conn, err := c.socket.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	fd, dupErr := -1, error(nil)
	if err := conn.Control(func(orig uintptr) {
		fd, dupErr = unix.FcntlInt(orig, unix.F_DUPFD_CLOEXEC, 0)
	}); err != nil {
		return err
	}
	if dupErr != nil {
		return dupErr
	}
	c.socket.Conn.Close()
	c.socket.fd = fd
	return nil
}

// A socket is a connection until it is detached. Then it is a descriptor whose
// reads return errAgain instead of blocking.
type socket struct {
	net.Conn
	fd int // -1 before
}

// errAgain is a net.Error after which a tls.Conn can read again.
var errAgain error = again{}

type again struct{}

func (again) Error() string   { return "nothing to read" }
func (again) Timeout() bool   { return true }
func (again) Temporary() bool { return true }

func (s *socket) Read(p []byte) (int, error) {
	if s.fd < 0 {
		return s.Conn.Read(p)
	}
	n, err := rawRead(s.fd, p)
	if err == unix.EAGAIN {
		err = errAgain
	}
	return n, err
}

// Write blocks until all is written. The other ends never wait for this thread,
// so this ends.
func (s *socket) Write(p []byte) (int, error) {
	if s.fd < 0 {
		return s.Conn.Write(p)
	}
	for done := 0; ; {
		n, err := rawWrite(s.fd, p[done:])
		if done += n; done == len(p) {
			return done, nil
		}
		if err == unix.EAGAIN {
			_, err = unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}}, -1)
		}
		if err != nil && err != unix.EINTR {
			return done, err
		}
	}
}

func (s *socket) Close() error {
	if s.fd < 0 {
		return s.Conn.Close()
	}
	return unix.Close(s.fd)
}
