package wsproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"runtime"
	"syscall"
)

// dial connects to a server within the connect timeout, including the TLS
// handshake. Its errors are of type notSent.
func (p *Proxy) dial(ctx context.Context, s *Candidate) (net.Conn, error) {
	if p.connectTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.connectTimeout)
		defer cancel()
	}
	conn, err := p.dialContext(ctx, s.network, s.addr)
	if conn == nil && err == nil {
		err = errors.New("WithDialContext's function returned neither a connection nor an error")
	}
	if err != nil {
		return nil, notSent{err}
	}
	unblock(conn)
	if p.target.tls == nil {
		return conn, nil
	}
	secure := tls.Client(conn, p.target.tls)
	if err := secure.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, notSent{fmt.Errorf("TLS to %s: %w", s.addr, bounded(err))}
	}
	return secure, nil
}

// A notSent error means that no byte of the request was sent.
type notSent struct{ error }

func (e notSent) Unwrap() error { return e.error }

// resourceErrors mean that this process or machine has run out of file
// descriptors, memory or local ports. peerClosedErrors mean that the peer had
// closed the connection before a write.
var resourceErrors, peerClosedErrors = systemErrors()

// systemErrors returns resourceErrors and peerClosedErrors. On Windows most of
// syscall's error constants have invented numbers, which the system never
// returns.
func systemErrors() (resources, peerClosed []error) {
	if runtime.GOOS != "windows" {
		return []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL},
			[]error{syscall.EPIPE, syscall.ECONNRESET}
	}
	return []error{
			syscall.Errno(10024), // WSAEMFILE
			syscall.Errno(10049), // WSAEADDRNOTAVAIL
			syscall.Errno(10055), // WSAENOBUFS, also for local ports
			syscall.Errno(8),     // ERROR_NOT_ENOUGH_MEMORY
		}, []error{
			syscall.Errno(10053), // WSAECONNABORTED
			syscall.Errno(10054), // WSAECONNRESET
		}
}
