package tunnel_test

import (
	"net"
	"strings"
	"syscall"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

// A read stops at urgent data although more bytes follow.
func TestBytesAfterUrgentDataArrive(t *testing.T) {
	u := testkit.NewUpstream(t)
	_, addr := testkit.ServeProxy(t, u.URL)
	client, server := testkit.Tunnel(t, addr, u)
	raw, err := client.Conn.(*net.TCPConn).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_CORK, 1) // so that all bytes arrive at once
		syscall.Write(int(fd), []byte("abc"))
		syscall.Sendto(int(fd), []byte("X"), syscall.MSG_OOB, nil)
		syscall.Write(int(fd), []byte("def"))
		syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_CORK, 0)
	}))
	server.Expect(t, "abcdef")
}

// A read also stops at a passed descriptor.
func TestBytesAfterAPassedDescriptorArrive(t *testing.T) {
	testkit.OverLinks(t, func(l testkit.Link) bool { return l.Unix }, func(t *testing.T, l testkit.Link) {
		client, server := l.Start(t, nil).Tunnel(t)
		raw, err := server.Conn.(*net.UnixConn).SyscallConn()
		require.NoError(t, err)
		require.NoError(t, raw.Control(func(fd uintptr) {
			for range 50 {
				syscall.Sendmsg(int(fd), []byte("abc"), syscall.UnixRights(0), nil, 0)
				syscall.Write(int(fd), []byte("defg"))
			}
		}))
		client.Expect(t, strings.Repeat("abcdefg", 50))
	})
}

// After a byte of urgent data each read of a TLS connection waited in a goroutine,
// also when nothing had come, so the limit for halves of records did not hold.
func TestUrgentDataHoldsALimitedNumberOfGoroutines(t *testing.T) {
	holdFewGoroutines(t, 100, func(h *halfRecord) {
		raw, err := h.client.Socket().(*net.TCPConn).SyscallConn()
		require.NoError(t, err)
		require.NoError(t, raw.Control(func(fd uintptr) { syscall.Sendto(int(fd), []byte("X"), syscall.MSG_OOB, nil) }))
		for range 3 {
			h.send(h.rest[:1])
			h.rest = h.rest[1:]
		}
	})
}
