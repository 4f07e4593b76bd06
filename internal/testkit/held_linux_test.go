package testkit

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// listenAnywhere listens on a port of host that the system chooses from one alone,
// that of addr. It sets SO_REUSEADDR, as net.Listen does.
func listenAnywhere(t *testing.T, host, addr string) error {
	t.Helper()
	const ipLocalPortRange = 51 // of Linux 6.3
	port := int(netip.MustParseAddrPort(addr).Port())
	config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		if e := c.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, ipLocalPortRange, port<<16|port)
		}); e != nil {
			return e
		}
		return err
	}}
	l, err := config.Listen(context.Background(), "tcp", host+":0")
	if err == nil {
		require.Equal(t, port, l.Addr().(*net.TCPAddr).Port)
		l.Close()
	}
	return err
}

// Tests picked a free port, closed it and started a server there. Meanwhile another
// test's listener could get it.
func TestAHeldAddressIsForThoseAloneWhoAskForIt(t *testing.T) {
	addr := HeldAddr(t)
	for _, on := range []string{"", "127.0.0.1"} { // a server restarts on all addresses
		_, err := net.Dial("tcp", addr)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		for _, host := range []string{"127.0.0.1", "127.0.0.2", ""} {
			if err := listenAnywhere(t, host, addr); !errors.Is(err, syscall.ENOPROTOOPT) {
				require.ErrorIs(t, err, syscall.EADDRINUSE, host)
			}
		}
		l, err := net.Listen("tcp", strings.TrimPrefix(addr, on))
		require.NoError(t, err)
		defer l.Close()
		client := Dial(t, addr)
		server, err := l.Accept()
		require.NoError(t, err)
		require.NoError(t, server.Close()) // first: its end waits in TIME_WAIT
		client.ExpectEOF(t, "")
		require.NoError(t, client.Close())
		require.NoError(t, l.Close())
	}
}

func TestAHeldAddressIsFreeAfterTheTest(t *testing.T) {
	Eventually(t, func() bool { // another process may take it at once
		var addr string
		t.Run("held", func(t *testing.T) { addr = HeldAddr(t) })
		err := listenAnywhere(t, "127.0.0.1", addr)
		return err == nil || errors.Is(err, syscall.ENOPROTOOPT)
	}, "the addresses are still held")
}
