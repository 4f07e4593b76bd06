package tunnel_test

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

// roundTrips returns a function that sends a message of n bytes through an open
// tunnel and waits for its echo. Neither the function nor the upstream
// allocates.
func roundTrips(tb testing.TB, l testkit.Link, n int) func() error {
	tb.Helper()
	client, server := l.Start(tb, nil).Tunnel(tb)
	// The peers' buffers are empty here, so use the connections directly.
	near, far := client.Conn, server.Conn
	require.Zero(tb, client.Reader.Buffered()+server.Reader.Buffered())
	for _, conn := range []net.Conn{near, far} {
		require.NoError(tb, conn.SetDeadline(time.Time{}))
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 64<<10)
		for {
			got, err := far.Read(b)
			if err != nil {
				return
			}
			if _, err := far.Write(b[:got]); err != nil {
				return
			}
		}
	}()
	tb.Cleanup(func() {
		near.Close()
		<-done
	})
	message, echo := make([]byte, n), make([]byte, n)
	return func() error {
		if _, err := near.Write(message); err != nil {
			return err
		}
		_, err := io.ReadFull(near, echo)
		return err
	}
}

func BenchmarkRelay(b *testing.B) {
	for _, l := range []testkit.Link{testkit.PlainLink, {Name: "unix upstream", Unix: true}, {Name: "wrapped", Wrapped: true}, {Name: "TLS client", TLSClient: true}} {
		for _, n := range []int{128, 64 << 10} {
			b.Run(fmt.Sprintf("%s/%dB", l.Name, n), func(b *testing.B) {
				roundTrip := roundTrips(b, l, n)
				b.SetBytes(int64(n))
				b.ReportAllocs()
				for b.Loop() {
					if err := roundTrip(); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
