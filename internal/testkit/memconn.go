package testkit

import (
	"net"
	"sync"

	"example.com/wsproxy/internal/memconn"
)

// NewMemConns returns both ends of a connection in memory, each direction of
// which holds room bytes. The far end is the client's, 192.0.2.1.
func NewMemConns(room int) (near, far *memconn.Conn) {
	far, near = memconn.Pipe(room)
	return near, far
}

// A MemListener accepts what is sent to Conns.
type MemListener struct {
	Conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// NewMemListener returns an open listener.
func NewMemListener() *MemListener {
	return &MemListener{Conns: make(chan net.Conn), closed: make(chan struct{})}
}

func (l *MemListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.Conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *MemListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *MemListener) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 80} }
