package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"example.com/wsproxy/internal/frame"
	"golang.org/x/sys/unix"
)

// The upstream's paths.
const (
	echoPath   = "/echo"   // every message is echoed
	replyPath  = "/reply"  // every message is discarded, and serverFrame of its size is sent back
	streamPath = "/stream" // and a size: the first message starts an endless stream of messages of that size
)

// streamWrite is the least size of a write of a stream.
const streamWrite = 512 << 10

// An upstream is the server behind the proxies: one thread over epoll, which
// avoids copying messages.
type upstream struct {
	epoll, listener int
	conns           []*upstreamConn // by descriptor
	buf             []byte
	events          []unix.EpollEvent
	streams         map[int][]byte // by size: several frames, so that one write sends many bytes
	replies         map[int][]byte // by size
}

type upstreamConn struct {
	fd    int
	serve func(*upstreamConn) error
	in    []byte // an incomplete request or message
	left  int    // bytes left of a message to discard
	size  int    // of that message
	out   []byte // bytes that the socket did not accept
	data  []byte // to stream
	at    int    // in data
}

// runUpstream is the role of the upstream. It listens at the address args[0]
// and reads one-line commands: "reset" resets all connections.
func runUpstream(args []string) error {
	u, err := newUpstream(args[0])
	if err == nil {
		err = u.watch(unix.EPOLL_CTL_ADD, int(os.Stdin.Fd()), unix.EPOLLIN)
	}
	for err == nil {
		err = u.turn(-1)
	}
	return err
}

func newUpstream(addr string) (*upstream, error) {
	u := &upstream{
		buf: make([]byte, 256<<10), events: make([]unix.EpollEvent, 1024),
		streams: map[int][]byte{}, replies: map[int][]byte{},
	}
	var err error
	if u.listener, err = listen(addr); err != nil {
		return nil, err
	}
	if u.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	return u, u.watch(unix.EPOLL_CTL_ADD, u.listener, unix.EPOLLIN)
}

// turn waits for events, in milliseconds, and handles them.
func (u *upstream) turn(wait int) error {
	n, err := unix.EpollWait(u.epoll, u.events, wait)
	if err != nil && err != unix.EINTR {
		return err
	}
	for _, event := range u.events[:max(n, 0)] {
		switch fd := int(event.Fd); fd {
		case u.listener:
			err = u.accept()
		case int(os.Stdin.Fd()):
			err = u.command()
		default:
			if c := u.conns[fd]; c != nil {
				u.handle(c)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func listen(addr string) (int, error) {
	to, err := sockaddr(addr)
	if err != nil {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return 0, err
	}
	if err := unix.Bind(fd, to); err != nil {
		return 0, fmt.Errorf("listening on %s: %w", addr, err)
	}
	return fd, unix.Listen(fd, 4096)
}

func (u *upstream) watch(op, fd int, events uint32) error {
	return unix.EpollCtl(u.epoll, op, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)})
}

// command runs the parent's commands. The upstream ends when the parent ends.
func (u *upstream) command() error {
	n, err := unix.Read(0, u.buf)
	if err != nil || n == 0 {
		os.Exit(0)
	}
	for range strings.Count(string(u.buf[:n]), "\n") {
		u.reset()
		if _, err := os.Stdout.WriteString("{}\n"); err != nil {
			return err
		}
	}
	return nil
}

// reset resets all connections.
func (u *upstream) reset() {
	for _, c := range u.conns {
		if c != nil {
			unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
			u.close(c)
		}
	}
}

func (u *upstream) accept() error {
	for {
		fd, _, err := unix.Accept4(u.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch err {
		case nil:
		case unix.EAGAIN, unix.ECONNABORTED, unix.EINTR:
			return nil
		default:
			return fmt.Errorf("accept: %w", err)
		}
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		for len(u.conns) <= fd {
			u.conns = append(u.conns, nil)
		}
		u.conns[fd] = &upstreamConn{fd: fd, serve: u.request}
		if err := u.watch(unix.EPOLL_CTL_ADD, fd, unix.EPOLLIN); err != nil {
			return err
		}
	}
}

func (u *upstream) close(c *upstreamConn) {
	u.conns[c.fd] = nil
	unix.Close(c.fd)
}

// handle serves a ready connection: it either reads, or writes the pending
// bytes. It never does both, so that pending bytes do not accumulate.
func (u *upstream) handle(c *upstreamConn) {
	var err error
	if len(c.out) > 0 {
		rest := c.out
		c.out = nil
		if err = u.write(c, rest); err == nil && len(c.out) == 0 {
			err = u.watch(unix.EPOLL_CTL_MOD, c.fd, unix.EPOLLIN)
		}
	} else {
		err = c.serve(c)
	}
	if err != nil && err != unix.EAGAIN {
		u.close(c)
	}
}

// write sends p. The connection keeps the bytes that the socket does not
// accept.
func (u *upstream) write(c *upstreamConn, p []byte) error {
	n, err := rawWrite(c.fd, p)
	if err != nil && err != unix.EAGAIN {
		return err
	}
	if n < len(p) {
		c.out = p[n:]
		return u.watch(unix.EPOLL_CTL_MOD, c.fd, unix.EPOLLOUT)
	}
	return nil
}

// request responds to the handshake.
func (u *upstream) request(c *upstreamConn) error {
	n, err := rawRead(c.fd, u.buf)
	if err != nil {
		return err
	}
	c.in = append(c.in, u.buf[:n]...)
	if !bytes.HasSuffix(c.in, []byte("\r\n\r\n")) {
		return nil
	}
	request := string(c.in)
	c.in = nil
	_, path, _ := strings.Cut(request, " ")
	path, _, _ = strings.Cut(path, " ")
	size, streamed := strings.CutPrefix(path, streamPath)
	switch {
	case path == echoPath:
		c.serve = u.echo
	case path == replyPath:
		c.serve = u.reply
	case streamed:
		n, err := strconv.Atoi(size)
		if err != nil || n <= 0 {
			return fmt.Errorf("no such stream: %q", path)
		}
		if u.streams[n] == nil {
			u.streams[n] = bytes.Repeat(serverFrame(n), streamWrite/n)
		}
		c.data, c.serve = u.streams[n], u.startStream
	default:
		return fmt.Errorf("no such path: %q", path)
	}
	return u.write(c, []byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: "+headerField(request, "Upgrade")+"\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: "+acceptFor(headerField(request, "Sec-WebSocket-Key"))+"\r\n\r\n"))
}

// echo sends the next message back from the buffer where it was received: the
// header without a mask is shorter and fits before the payload.
func (u *upstream) echo(c *upstreamConn) error {
	n, err := rawRead(c.fd, u.buf)
	if err != nil {
		return err
	}
	b := u.buf[:n]
	if len(c.in) > 0 {
		c.in = append(c.in, b...)
		b = c.in
	}
	h, size, ok := frame.Parse(b)
	if !ok || len(b)-size < int(h.Length) {
		c.in = append(c.in[:0], b...)
		return nil
	}
	if len(b)-size > int(h.Length) || !h.Masked {
		return fmt.Errorf("not one masked message at a time")
	}
	frame.Mask(b[size:], h.Key)
	h.Masked = false
	var short [frame.MaxHeader]byte
	header := h.Append(short[:0])
	start := size - len(header)
	copy(b[start:], header)
	if err := u.write(c, b[start:]); err != nil {
		return err
	}
	if h.Opcode == frame.OpClose { // the server closes first
		return fmt.Errorf("closed")
	}
	if len(c.out) > 0 {
		c.out = bytes.Clone(c.out)
	}
	c.in = c.in[:0]
	return nil
}

// reply discards a message and sends a prepared one of the same size.
func (u *upstream) reply(c *upstreamConn) error {
	if c.left == 0 {
		b := u.buf[:frame.MaxHeader-len(c.in)]
		n, err := rawRead(c.fd, b)
		if err != nil {
			return err
		}
		c.in = append(c.in, b[:n]...)
		h, size, ok := frame.Parse(c.in)
		if !ok {
			return nil
		}
		c.in = c.in[:0]
		if size != frame.MaxHeader {
			return fmt.Errorf("a message too small for " + replyPath)
		}
		c.left, c.size = int(h.Length), int(h.Length)
	}
	n, err := rawDiscard(c.fd, u.buf, c.left)
	if err != nil {
		return err
	}
	if c.left -= n; c.left > 0 {
		return nil
	}
	reply := u.replies[c.size]
	if reply == nil {
		reply = serverFrame(c.size)
		u.replies[c.size] = reply
	}
	return u.write(c, reply)
}

// startStream waits for the message that starts the stream.
func (u *upstream) startStream(c *upstreamConn) error {
	if _, err := rawRead(c.fd, u.buf); err != nil {
		return err
	}
	c.serve = u.streamOn
	return u.watch(unix.EPOLL_CTL_MOD, c.fd, unix.EPOLLOUT)
}

// streamOn writes once, as many bytes as the socket accepts.
func (u *upstream) streamOn(c *upstreamConn) error {
	n, err := rawWrite(c.fd, c.data[c.at:])
	if err != nil {
		return err
	}
	c.at = (c.at + n) % len(c.data)
	return nil
}
