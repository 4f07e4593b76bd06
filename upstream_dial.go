package wsproxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"runtime"
	"syscall"
)

// dial connects to a server, TLS included, within the connect timeout. Its
// errors are notSent.
func (p *Proxy) dial(ctx context.Context, s *Candidate) (net.Conn, error) {
	if p.connectTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, p.connectTimeout)
		defer cancel()
	}
	conn, err := p.dialContext(ctx, s.network, s.addr)
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

// notSent is an error before anything of a request was sent.
type notSent struct{ error }

func (e notSent) Unwrap() error { return e.error }

// resourceErrors say that this process or machine has run out of descriptors,
// memory or local ports. peerClosedErrors are of a write to a peer that has
// closed.
var resourceErrors, peerClosedErrors = systemErrors()

// systemErrors tells Windows apart: there, of syscall's names only invented
// numbers stand behind most.
func systemErrors() (resources, peerClosed []error) {
	if runtime.GOOS != "windows" {
		return []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EADDRNOTAVAIL},
			[]error{syscall.EPIPE, syscall.ECONNRESET}
	}
	return []error{
			syscall.Errno(10024), // WSAEMFILE
			syscall.Errno(10049), // WSAEADDRNOTAVAIL
			syscall.Errno(10055), // WSAENOBUFS, of ports too
			syscall.Errno(8),     // ERROR_NOT_ENOUGH_MEMORY
		}, []error{
			syscall.Errno(10053), // WSAECONNABORTED
			syscall.Errno(10054), // WSAECONNRESET
		}
}
