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

// A socket is one end of a loopRelay's tunnel. The runtime's poller does not watch
// it. Only the loop uses a socket once its relay runs.
//
// The state of in shows whether the socket is still read. The booleans below are
// independent of it and of each other.
type socket struct {
	relay   *loopRelay
	fd      int      // -1: closed
	pending *pending // what out has written and the kernel has not taken yet; nil: nothing
	streak  int64    // bytes moved to peer since a write to it last had to wait

	readable bool // there may be more to read
	unsure   bool // the stream's end or urgent data has come: a short read need not be the last
	queued   bool // in loop.ready
	fin      bool // flush half-closes the socket when pending is sent
	waits    bool // epoll reports when the socket has room
	lingers  bool // close(2) waits until what was written is acknowledged
}

// peer returns the other end.
func (s *socket) peer() *socket {
	if s == &s.relay.client {
		return &s.relay.upstream
	}
	return &s.relay.client
}

// in returns the flow that reads the socket.
func (s *socket) in() *flow {
	if s == &s.relay.client {
		return &s.relay.t.fromClient
	}
	return &s.relay.t.fromUpstream
}

// out returns the flow that writes the socket.
func (s *socket) out() *flow { return s.peer().in() }

// A pending is what a socket has to send.
type pending struct {
	bytes  []byte
	memory *pendingBuffer // of bytes, if it is from the pool
}

// minRead is the least size of a read. A message of 64 KiB and its header fit.
const minRead = 68 << 10

// readSize returns the size of the next read, which bounds what becomes pending
// if the peer takes none of it. It grows with the bytes that the peer has taken
// since a write last had to wait. A peer that stops reading therefore makes the
// proxy hold at most minRead, or a sixteenth of what went to the kernel before
// its buffers were full.
func (s *socket) readSize() int { return int(min(max(minRead, s.streak/16), int64(len(loopBuffer{})))) }

// A pendingBuffer has room for a read of minRead, and for control frames behind
// it.
type pendingBuffer [minRead + 1<<10]byte

var pendingBuffers = sync.Pool{New: func() any { return new(pendingBuffer) }}

// perTurn is how many bytes one socket may move before others get their turn.
const perTurn = 512 << 10

// detach takes over a plain socket, whose options a user may have set, by a
// duplicate of its descriptor. Deadlines belong to the runtime's poller, so those
// of conn do not apply to the duplicate.
func (s *socket) detach(conn net.Conn, users bool) bool {
	var ok bool
	if s.fd, ok = duplicate(conn); !ok {
		return false
	}
	_, unix := conn.(*net.UnixConn)
	s.unsure = unix // a read stops where the peer has passed a descriptor
	s.lingers = users && !unix && lingers(uintptr(s.fd))
	return true
}

// duplicate duplicates the descriptor of a plain socket.
func duplicate(conn net.Conn) (fd int, ok bool) {
	raw := rawConn(conn)
	if raw == nil {
		return -1, false
	}
	if raw.Control(func(number uintptr) { fd, ok = duplicateFD(number) }) != nil {
		return -1, false
	}
	return fd, ok
}

func duplicateFD(fd uintptr) (dup int, ok bool) {
	n, _, errno := syscall.Syscall(syscall.SYS_FCNTL, fd, syscall.F_DUPFD_CLOEXEC, 0)
	return int(n), errno == 0
}

// lingers reports whether SO_LINGER makes close(2) wait. It does so on a
// non-blocking socket too. With a time of zero, close(2) resets the connection
// and does not wait.
func lingers(fd uintptr) bool {
	var l syscall.Linger
	size := uint32(unsafe.Sizeof(l))
	_, _, errno := syscall.RawSyscall6(syscall.SYS_GETSOCKOPT, fd, syscall.SOL_SOCKET, syscall.SO_LINGER,
		uintptr(unsafe.Pointer(&l)), uintptr(unsafe.Pointer(&size)), 0)
	return errno == 0 && l.Onoff != 0 && l.Linger > 0
}

// move pumps, and ends the relay if nothing is left to do.
func (s *socket) move() {
	s.pump()
	if s.in().state == ended {
		s.relay.check()
	}
}

// pump reads the socket and moves the bytes to the peer, until either would have
// to wait or the turn is over.
func (s *socket) pump() {
	l, in, peer := s.relay.loop, s.in(), s.peer()
	for budget := perTurn; s.readable && in.state != ended && s.fd >= 0 && (peer.pending == nil || in.state == discarding); {
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
		// Bytes that come after a short read cause a new event. A stream's end or
		// urgent data does not if its event came before the read.
		s.readable = n == size || s.unsure
		in.take(l.buffer[:n], err)
		s.streak += int64(n)
		if peer.pending != nil {
			s.streak = 0
		}
	}
}

// A loopBuffer is the buffer for a read. A large one wakes the sender of a bulk
// transfer less often for room in its window, which is most of what large
// messages cost.
type loopBuffer [512 << 10]byte

var loopBuffers = sync.Pool{New: func() any { return new(loopBuffer) }}

// borrow gets the buffer for reads. A loop that waits holds none, as a process
// may have hundreds of proxies with idle tunnels. The pool costs a busy loop some
// 20 ns each time it parks.
func (l *loop) borrow() {
	if l.buffer == nil {
		l.buffer = loopBuffers.Get().(*loopBuffer)
	}
}

func (l *loop) giveBack() {
	if l.buffer != nil {
		loopBuffers.Put(l.buffer)
		l.buffer = nil
	}
}

// write implements sink. It keeps what the kernel does not take in pending, and
// the flow is not driven until flush has sent that.
func (s *socket) write(p []byte) error {
	if s.fd < 0 {
		return net.ErrClosed
	}
	if s.pending == nil {
		n, err := s.send(p)
		if p = p[n:]; err != nil || len(p) == 0 {
			return err
		}
		if err := s.relay.loop.awaitRoom(s); err != nil {
			return err
		}
		s.out().stalled.Store(s.out().clock.now())
		s.pending = new(pending)
		if len(p) <= minRead {
			s.pending.memory = pendingBuffers.Get().(*pendingBuffer)
			s.pending.bytes = s.pending.memory[:0]
		}
	}
	s.pending.bytes = append(s.pending.bytes, p...)
	return nil
}

// send writes p until the kernel takes no more.
func (s *socket) send(p []byte) (sent int, err error) { return sendAll(s.fd, p) }

// sendAll writes p to a socket until the kernel takes no more.
func sendAll(fd int, p []byte) (sent int, err error) {
	for sent < len(p) {
		n, errno := send(fd, p[sent:])
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

// flush sends what is pending, when the socket may be writable.
func (s *socket) flush() {
	if s.pending == nil || s.fd < 0 {
		return
	}
	out := s.out()
	n, err := s.send(s.pending.bytes)
	if s.pending.bytes = s.pending.bytes[n:]; err == nil && len(s.pending.bytes) > 0 {
		if n > 0 {
			out.stalled.Store(out.clock.now())
		}
		return
	}
	s.drop()
	out.unstall()
	if err != nil {
		out.stop(err)
	} else if s.fin {
		shutdown(s.fd)
	}
	s.peer().pump()
}

// drop discards what is pending.
func (s *socket) drop() {
	if s.pending != nil && s.pending.memory != nil {
		pendingBuffers.Put(s.pending.memory)
	}
	s.pending = nil
}

// closeWrite implements sink. The flow to s is about to end:
//   - If bytes for s are pending, flush half-closes s behind them.
//   - If the flow from s has ended too and nothing is pending, check closes both
//     sockets as soon as this flow has ended, and close(2) sends the same FIN. If
//     the flow from s ended at a Close frame, s may have unread bytes, and then
//     close(2) sends a reset: the half-close goes first.
func (s *socket) closeWrite() bool {
	switch s.fin = s.pending != nil; {
	case s.fin:
	case s.in().state == ended && !s.in().answered() && s.peer().pending == nil:
	case s.fd >= 0:
		shutdown(s.fd)
	}
	return true
}

func (s *socket) reset() {
	if s.fd >= 0 {
		syscall.SetsockoptLinger(s.fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
		s.lingers = false
	}
}

// wake makes the flow that reads s handle what it was asked.
func (s *socket) wake() {
	if in := s.in(); in.state != ended && in.has(askAny) {
		in.take(nil, nil)
	}
}

// cut closes s alone. Both flows see a closed connection.
func (s *socket) cut() {
	s.close()
	s.out().stop(net.ErrClosed)
	if in := s.in(); in.state != ended {
		in.take(nil, net.ErrClosed)
	}
	s.peer().pump()
}

func (s *socket) close() {
	if s.fd >= 0 {
		if s.lingers {
			s.relay.closeLater(s.fd)
		} else {
			syscall.RawSyscall(syscall.SYS_CLOSE, uintptr(s.fd), 0, 0) // this also removes its watch
		}
		s.fd = -1
	}
	s.drop()
}

// recv, send, shutdown and close make their system call without telling the
// scheduler, so they must not block. A thread that blocks in one keeps its
// processor, and the next garbage collection waits for that processor with the
// world stopped. If the process is idle, a call that does tell the scheduler wakes
// the runtime's monitor thread, which costs some 25 µs of CPU.
//
// O_NONBLOCK does not prevent it. It belongs to the file description, which a
// duplicate from conn.File() shares, and Fd() of that clears it. MSG_DONTWAIT
// belongs to the call.
//
// recv(2) and send(2) cost less than read(2) and write(2), which also load the
// inode and the file position of each socket.

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

// shutdown half-closes a socket.
func shutdown(fd int) { syscall.RawSyscall(syscall.SYS_SHUTDOWN, uintptr(fd), syscall.SHUT_WR, 0) }
