package talk

import (
	"net"
	"net/http"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"github.com/quic-go/quic-go/http3"
	"github.com/stretchr/testify/require"
)

// ServeHTTP3 serves h with quic-go and returns its address.
func ServeHTTP3(t testing.TB, h http.Handler) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	server, _ := testkit.TLS()
	s := &http3.Server{Handler: h, TLSConfig: http3.ConfigureTLSConfig(server.Clone())}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve(conn)
	}()
	t.Cleanup(func() {
		s.Close()
		conn.Close()
		<-done
	})
	return conn.LocalAddr().String()
}
