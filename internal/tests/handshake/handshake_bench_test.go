package handshake_test

import (
	"io"
	"net"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

// BenchmarkTunnel measures a tunnel from the client's connect to the end of
// both connections. The raw client and the raw upstream cost little.
func BenchmarkTunnel(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	b.Cleanup(func() { l.Close() })
	go func() {
		buf := make([]byte, 64<<10)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Read(buf) // on loopback a small request arrives whole
			io.WriteString(conn, testkit.SampleSwitch)
			conn.Read(buf)
			conn.Close()
		}
	}()
	_, addr := testkit.ServeProxy(b, "http://"+l.Addr().String())
	buf := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		conn, err := net.Dial("tcp", addr)
		require.NoError(b, err)
		_, err = io.WriteString(conn, testkit.SampleRequest)
		require.NoError(b, err)
		_, err = conn.Read(buf)
		require.NoError(b, err)
		conn.(*net.TCPConn).CloseWrite()
		_, err = conn.Read(buf)
		require.ErrorIs(b, err, io.EOF)
		conn.Close()
	}
}
