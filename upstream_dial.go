package wsproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"runtime"
	"runtime/debug"
	"syscall"

	"example.com/wsproxy/internal/syntax"
)

// dial connects to a server within the connect timeout, including the TLS
// handshake. Its errors are of type notSent.
//
// A function of the user's may panic or call runtime.Goexit, in WithDialContext
// or in a callback of WithTLSConfig. The Transport calls dial on a goroutine of
// its own, where a panic would end the process and a Goexit would leave the
// request waiting. So dial calls such functions on one more goroutine, which
// turns both into an error.
func (p *Proxy) dial(ctx context.Context, s *Candidate) (net.Conn, error) {
	if !p.dialsWithUserCode {
		return p.dialServer(ctx, s)
	}
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		defer func() { recover() }() // a panic of the log handler
		r := result{err: notSent{errors.New("dialing called runtime.Goexit")}}
		returned := false
		defer func() {
			v := recover()
			if v != nil {
				r.err = notSent{fmt.Errorf("dialing panicked: %v", v)}
			}
			done <- r
			if !returned {
				p.logger.LogAttrs(ctx, slog.LevelError, "dialing failed", slog.String("server", s.addr),
					slog.Any("panic", v), slog.String("stack", string(debug.Stack())))
			}
		}()
		r.conn, r.err = p.dialServer(ctx, s)
		returned = true
	}()
	r := <-done
	return r.conn, r.err
}

func (p *Proxy) dialServer(ctx context.Context, s *Candidate) (net.Conn, error) {
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
	if p.dialsWithUserCode {
		unblock(conn)
	}
	if p.target.tls == nil {
		return conn, nil
	}
	secure := tls.Client(conn, p.target.tls)
	shaken := false
	defer func() {
		if !shaken { // also if a callback of the user's did not return
			conn.Close()
		}
	}()
	if err := secure.HandshakeContext(ctx); err != nil {
		return nil, notSent{fmt.Errorf("TLS to %s: %w", s.addr, syntax.Bounded(err))}
	}
	shaken = true
	return secure, nil
}

// dialTunnel is dial for the upgrade r. On Linux a loop dials if the server's
// address is an IP address. Package net dials for TLS to the server and for a
// client's stream of HTTP/2 or HTTP/3, because no loop relays the socket then. Only
// package net calls the functions of an httptrace.ClientTrace.
func (p *Proxy) dialTunnel(ctx context.Context, r *http.Request, s *Candidate) (net.Conn, error) {
	if p.dialsWithUserCode || p.target.tls != nil || !s.literal.IsValid() || isStream(r) || httptrace.ContextClientTrace(ctx) != nil {
		return p.dial(ctx, s)
	}
	conn, err := p.tunnels.loops.dial(ctx, s.literal, p.connectTimeout)
	switch err {
	case nil:
		return conn, nil
	case errUseNet:
		return p.dial(ctx, s)
	}
	return nil, notSent{err}
}

// errUseNet means that package net must dial.
var errUseNet = errors.New("use package net")

// literalAddr returns the IP address and port of addr. It returns the zero
// AddrPort if addr has a name, a zone, or an unspecified address such as 0.0.0.0.
func literalAddr(addr string) netip.AddrPort {
	a, err := netip.ParseAddrPort(addr)
	if ip := a.Addr().Unmap(); err == nil && ip.Zone() == "" && !ip.IsUnspecified() {
		return netip.AddrPortFrom(ip, a.Port())
	}
	return netip.AddrPort{}
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
