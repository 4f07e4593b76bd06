package memconn

import (
	"context"
	"net"
	"sync"
)

// A Listener accepts the connections that its Dial makes.
type Listener struct {
	size   int
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// Listen returns a Listener. Its connections take size bytes in each direction.
func Listen(size int) *Listener {
	return &Listener{size: size, conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Dial connects to the listener. It waits until the connection is accepted.
func (l *Listener) Dial(ctx context.Context) (*Conn, error) {
	near, far := Pipe(l.size)
	var err error
	select {
	case l.conns <- far:
		return near, nil
	case <-l.closed:
		err = net.ErrClosed
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: far.local, Err: err}
}

// Accept returns the next connection that is dialed.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close makes Accept and Dial fail. It does not close connections.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr returns an address for documentation (RFC 5737).
func (l *Listener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 80} }
