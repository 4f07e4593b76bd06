//go:build !386 && !s390x && !wsproxy_portable

package wsproxy

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"
)

// A socket is one end of a loopRelay's tunnel, out of the runtime's poller. As
// in a flow, what every read touches comes first.
type socket struct {
	loop       *loop
	peer       *socket
	in         *flow // the one that reads it
	fd         int   // -1: closed
	slot       int32
	generation int32 // 0: not registered

	readable bool  // there may be more to read
	unsure   bool  // its end or urgent data has come: a short read need not be the last
	queued   bool  // in loop.ready
	fin      bool  // to be half-closed when pending is sent
	lingers  bool  // close(2) waits until what was written is acknowledged
	streak   int64 // bytes moved to peer since it last had to be waited for

	pending []byte // what out has written and the socket not taken yet
	lent    *pendingBuffer
	out     *flow // the one that writes it
	relay   *loopRelay
}

// minRead is what one read may bring from the start: a message of 64 KiB with
// its header is one read then.
const minRead = 68 << 10

// readSize is how much the next read may bring, and leave pending. It grows
// with what the peer has taken without being waited for, so that who does not
// read holds no more than minRead up, or a sixteenth of what the system's own
// buffers took.
func (s *socket) readSize() int { return int(min(max(minRead, s.streak/16), int64(len(loopBuffer{})))) }

// A pendingBuffer has room for what nearly every read can leave unsent, and for
// control frames behind it.
type pendingBuffer [minRead + 1<<10]byte

var pendingBuffers = sync.Pool{New: func() any { return new(pendingBuffer) }}

// perTurn bounds what one socket may move before others get their turn.
const perTurn = 512 << 10

// detach duplicates the descriptor of a plain socket. Deadlines are the
// runtime poller's: none of conn's applies to the duplicate.
func (s *socket) detach(conn net.Conn) bool {
	raw := rawConn(conn)
	if raw == nil {
		return false
	}
	_, unix := conn.(*net.UnixConn)
	s.unsure = unix // a read stops behind a descriptor that is passed
	var errno syscall.Errno
	err := raw.Control(func(fd uintptr) {
		var dup uintptr
		dup, _, errno = syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_DUPFD_CLOEXEC, 0)
		s.fd = int(dup)
		s.lingers = !unix && lingers(fd)
	})
	return err == nil && errno == 0
}

// lingers reports whether SO_LINGER makes close(2) wait, which it does on a
// non-blocking socket too. A time of zero resets the connection without waiting.
func lingers(fd uintptr) bool {
	var l syscall.Linger
	size := uint32(unsafe.Sizeof(l))
	_, _, errno := syscall.RawSyscall6(syscall.SYS_GETSOCKOPT, fd, syscall.SOL_SOCKET, syscall.SO_LINGER,
		uintptr(unsafe.Pointer(&l)), uintptr(unsafe.Pointer(&size)), 0)
	return errno == 0 && l.Onoff != 0 && l.Linger > 0
}

func (s *socket) init(r *loopRelay, peer *socket, in, out *flow) {
	s.relay, s.loop, s.peer, s.in, s.out = r, r.loop, peer, in, out
	out.dst = s
}

// move pumps, and ends the relay where nothing is left to do.
func (s *socket) move() {
	s.pump()
	if s.in.state == ended {
		s.relay.check()
	}
}

// pump moves what can be read to the peer, as far as that takes it.
func (s *socket) pump() {
	l := s.loop
	for budget := perTurn; s.readable && s.in.state != ended && s.fd >= 0 && (s.peer.pending == nil || s.in.state == discarding); {
		if budget <= 0 {
			if !s.queued {
				s.queued = true
				l.ready = append(l.ready, s)
			}
			return
		}
		size := min(s.readSize(), budget)
		l.borrow()
		n, errno := recv(s.fd, l.buffer[:size])
		var err error
		switch {
		case errno == syscall.EINTR:
			continue
		case errno == syscall.EAGAIN:
			s.readable = false
			return
		case errno != 0:
			err = os.NewSyscallError("recvfrom", errno)
		case n == 0:
			err = io.EOF
		}
		budget -= n
		// What comes after a short read makes a new event. What was announced
		// already does not.
		s.readable = n == size || s.unsure
		s.in.take(l.buffer[:n], err)
		s.streak += int64(n)
		if s.peer.pending != nil {
			s.streak = 0
		}
	}
}

// write implements sink: what the socket does not take is kept, and the flow
// reads no more until it is sent.
func (s *socket) write(p []byte) error {
	if s.fd < 0 {
		return net.ErrClosed
	}
	if s.pending == nil {
		n, err := s.send(p)
		if p = p[n:]; err != nil || len(p) == 0 {
			return err
		}
		s.out.stalled.Store(s.out.clock.now())
		if len(p) <= minRead {
			s.lent = pendingBuffers.Get().(*pendingBuffer)
			s.pending = s.lent[:0]
		}
	}
	s.pending = append(s.pending, p...)
	return nil
}

// send writes until the socket takes no more.
func (s *socket) send(p []byte) (sent int, err error) {
	for sent < len(p) {
		n, errno := send(s.fd, p[sent:])
		switch {
		case errno == syscall.EINTR:
		case errno == syscall.EAGAIN:
			return sent, nil
		case errno != 0:
			return sent, os.NewSyscallError("sendto", errno)
		default:
			sent += n
		}
	}
	return sent, nil
}

// flush sends what is pending, now that the socket may take it.
func (s *socket) flush() {
	if s.pending == nil || s.fd < 0 {
		return
	}
	n, err := s.send(s.pending)
	if s.pending = s.pending[n:]; err == nil && len(s.pending) > 0 {
		if n > 0 {
			s.out.stalled.Store(s.out.clock.now())
		}
		return
	}
	s.drop()
	s.out.unstall()
	if err != nil {
		s.out.stop(err)
	} else if s.fin {
		syscall.Shutdown(s.fd, syscall.SHUT_WR)
	}
	s.peer.pump()
}

// drop gives up what is pending.
func (s *socket) drop() {
	if s.lent != nil {
		pendingBuffers.Put(s.lent)
	}
	s.pending, s.lent = nil, nil
}

func (s *socket) closeWrite() bool {
	switch s.fin = s.pending != nil; {
	case s.fin:
	case s.in.state == ended && !s.in.answered() && s.peer.pending == nil: // check closes both now, which says as much
	case s.fd >= 0:
		syscall.Shutdown(s.fd, syscall.SHUT_WR)
	}
	return true
}

func (s *socket) reset() {
	if s.fd >= 0 {
		syscall.SetsockoptLinger(s.fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
		s.lingers = false
	}
}

// wake has the flow that reads s look at what it was asked.
func (s *socket) wake() {
	if s.in.state != ended && s.in.asked.Load() != 0 {
		s.in.take(nil, nil)
	}
}

// cut closes s alone, as if its peer had gone.
func (s *socket) cut() {
	s.close()
	s.out.stop(net.ErrClosed)
	if s.in.state != ended {
		s.in.take(nil, net.ErrClosed)
	}
	s.peer.pump()
}

func (s *socket) close() {
	if s.fd >= 0 {
		s.loop.forget(s)
		if s.lingers {
			s.relay.closeLater(s.fd)
		} else {
			syscall.Close(s.fd) // which epoll notices
		}
		s.fd = -1
	}
	s.drop()
}

// recv and send do not tell the scheduler, so they must not block: a thread that
// waits in one holds its processor, and the next collection stops the world and
// waits for that processor. O_NONBLOCK does not ensure it. It belongs to the
// file description, which a duplicate from conn.File() shares, and Fd() of
// that clears it. MSG_DONTWAIT belongs to the call.
//
// Unlike read and write they are not the file system's business first, which
// costs more than it seems: the inode and the file's position are memory of
// their own for each socket.

func recv(fd int, p []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(fd),
		uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), syscall.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}

func send(fd int, p []byte) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(fd),
		uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), syscall.MSG_NOSIGNAL|syscall.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}
