//go:build unix && !wsproxy_portable

package wsproxy

import (
	"io"
	"net"
	"os"
	"syscall"
)

// rawSource reads a socket. It takes a buffer from the pool only when the socket
// is readable.
type rawSource struct {
	raw    syscall.RawConn
	ready  func(fd uintptr) bool // tryRead, bound once
	rented *buffer
	n      int
	err    error
}

func init() { newRawSource, newRawSink = rawSourceOf, rawSinkOf }

func rawSourceOf(conn net.Conn) source {
	raw := rawConn(conn)
	if raw == nil {
		return nil
	}
	s := &rawSource{raw: raw}
	s.ready = s.tryRead
	return s
}

func (s *rawSource) read() ([]byte, error) {
	if err := s.raw.Read(s.ready); err != nil {
		return nil, err
	}
	if s.err != nil {
		return nil, os.NewSyscallError("read", s.err)
	}
	if s.n == 0 {
		return nil, io.EOF
	}
	return s.rented[:s.n], nil
}

// tryRead is called when the socket may be readable. If it returns false, the
// poller waits.
func (s *rawSource) tryRead(fd uintptr) bool {
	if s.rented == nil {
		s.rented = getBuffer()
	}
	for {
		s.n, s.err = syscall.Read(int(fd), s.rented[:])
		switch s.err {
		case syscall.EINTR:
		case syscall.EAGAIN:
			s.release()
			return false
		default:
			return true
		}
	}
}

func (s *rawSource) release() {
	if s.rented != nil {
		putBuffer(s.rented)
		s.rented = nil
	}
}

// rawSink writes a socket. While a write waits, it records each progress.
type rawSink struct {
	halfCloser
	raw   syscall.RawConn
	f     *flow
	ready func(fd uintptr) bool // tryWrite, bound once
	p     []byte
	err   error
}

func rawSinkOf(conn net.Conn, f *flow) sink {
	raw := rawConn(conn)
	if raw == nil {
		return nil
	}
	s := &rawSink{halfCloser: halfCloser{conn}, raw: raw, f: f}
	s.ready = s.tryWrite
	return s
}

func (s *rawSink) write(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	s.p = p
	err := s.raw.Write(s.ready)
	s.p = nil
	if err == nil && s.err != nil {
		err = os.NewSyscallError("write", s.err)
	}
	if err == nil {
		s.f.unstall()
	}
	return err
}

// tryWrite is called when the socket may be writable. If it returns false, the
// poller waits.
func (s *rawSink) tryWrite(fd uintptr) bool {
	progress := false
	for len(s.p) > 0 {
		n, err := syscall.Write(int(fd), s.p)
		switch {
		case err == syscall.EINTR:
		case err == syscall.EAGAIN:
			if progress || !s.f.stalled.Load().isSet() {
				s.f.stalled.Store(s.f.clock.now())
			}
			return false
		case err != nil:
			s.err = err
			return true
		default:
			s.p = s.p[n:]
			progress = true
		}
	}
	return true
}
