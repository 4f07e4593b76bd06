package wsproxy_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"runtime/debug"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// roundTrips returns a function that sends a message of n bytes through a
// standing tunnel and waits until it has come back. Neither it nor the
// upstream allocates.
func roundTrips(tb testing.TB, l link, n int) func() error {
	tb.Helper()
	client, server := l.start(tb, nil).tunnel(tb)
	// Not by way of their buffers, which have nothing left in them.
	near, far := client.Conn, server.Conn
	require.Zero(tb, client.br.Buffered()+server.br.Buffered())
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
	for _, l := range []link{plainLink, {name: "unix upstream", unix: true}, {name: "wrapped", wrapped: true}, {name: "TLS client", tlsClient: true}} {
		for _, n := range []int{128, 64 << 10} {
			b.Run(fmt.Sprintf("%s/%dB", l.name, n), func(b *testing.B) {
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

func TestRelayingAMessageAllocatesNothing(t *testing.T) {
	if raceEnabled() {
		t.Skip("under the race detector a sync.Pool forgets at random")
	}
	for _, l := range []link{plainLink, {name: "unix upstream", unix: true}, {name: "wrapped", wrapped: true}} {
		for _, n := range []int{1, 128, 512, 16 << 10, 64 << 10} {
			t.Run(fmt.Sprintf("%s/%dB", l.name, n), func(t *testing.T) {
				assert.Zero(t, allocations(t, roundTrips(t, l, n)), "allocations a round trip")
			})
		}
	}
}

// allocations is how many a round trip takes, in the whole process.
func allocations(t *testing.T, roundTrip func() error) float64 {
	t.Helper()
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it empties pools
	var failed error
	n := testing.AllocsPerRun(500, func() {
		if err := roundTrip(); err != nil {
			failed = err
		}
	})
	require.NoError(t, failed)
	return n
}

// crypto/tls allocates with each record that it waits for. So does the read by
// which the proxy learns that a message which just fills what it waits with was
// all: that, and the error that there is nothing yet.
func TestRelayingAMessageAllocatesWhatTLSDoes(t *testing.T) {
	if raceEnabled() {
		t.Skip("under the race detector a sync.Pool forgets at random")
	}
	for _, test := range []struct {
		n, more int
	}{{1, 0}, {128, 0}, {511, 0}, {512, 2}} {
		bare := int(allocations(t, bareTLS(t, test.n)))
		for _, l := range links {
			connections := 0
			for _, secure := range []bool{l.tlsClient, l.tlsUpstream} {
				if secure {
					connections++
				}
			}
			if connections == 0 {
				continue
			}
			t.Run(fmt.Sprintf("%s/%dB", l.name, test.n), func(t *testing.T) {
				assert.LessOrEqual(t, int(allocations(t, roundTrips(t, l, test.n))), connections*(bare+test.more),
					"allocations a round trip, which are %d over TLS without a proxy", bare)
			})
		}
	}
}

// bareTLS is roundTrips for a connection without a proxy.
func bareTLS(t *testing.T, n int) func() error {
	t.Helper()
	serverTLS, clientTLS := testTLS()
	addr := serveTCP(t, func(conn net.Conn) {
		secure, b := tls.Server(conn, serverTLS), make([]byte, n)
		for {
			got, err := secure.Read(b)
			if err != nil {
				return
			}
			secure.Write(b[:got])
		}
	})
	conn := tls.Client(dial(t, addr).Conn, clientTLS)
	message, echo := make([]byte, n), make([]byte, n)
	return func() error {
		if _, err := conn.Write(message); err != nil {
			return err
		}
		_, err := io.ReadFull(conn, echo)
		return err
	}
}

// raceEnabled reports whether the race detector is built in.
func raceEnabled() bool {
	info, _ := debug.ReadBuildInfo()
	for _, s := range info.Settings {
		if s.Key == "-race" {
			return s.Value == "true"
		}
	}
	return false
}
