package wsproxy_test

import (
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
				roundTrip := roundTrips(t, l, n)
				defer debug.SetGCPercent(debug.SetGCPercent(-1)) // it empties pools
				var failed error
				allocs := testing.AllocsPerRun(500, func() {
					if err := roundTrip(); err != nil {
						failed = err
					}
				})
				require.NoError(t, failed)
				assert.Zero(t, allocs, "allocations a round trip")
			})
		}
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
