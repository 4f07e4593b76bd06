package tunnel_test

import (
	"crypto/tls"
	"fmt"
	"io"
	"math"
	"net"
	"runtime/debug"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRelayingAMessageAllocatesNothing(t *testing.T) {
	if testkit.RaceEnabled() {
		t.Skip("under the race detector a sync.Pool forgets at random")
	}
	for _, l := range []testkit.Link{testkit.PlainLink, {Name: "unix upstream", Unix: true}, {Name: "wrapped", Wrapped: true}} {
		for _, n := range []int{1, 128, 512, 16 << 10, 64 << 10} {
			t.Run(fmt.Sprintf("%s/%dB", l.Name, n), func(t *testing.T) {
				assert.Zero(t, allocations(t, roundTrips(t, l, n)), "allocations a round trip")
			})
		}
	}
}

// allocations returns how many allocations a round trip takes in the whole
// process: the least of three measurements, as on a busy machine a message may
// arrive in pieces.
func allocations(t *testing.T, roundTrip func() error) float64 {
	t.Helper()
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // a collection would empty the pools
	var failed error
	least := math.Inf(1)
	for range 3 {
		least = min(least, testing.AllocsPerRun(200, func() {
			if err := roundTrip(); err != nil {
				failed = err
			}
		}))
	}
	require.NoError(t, failed)
	return least
}

// crypto/tls allocates for each record that it waits for. The proxy needs another
// read to learn that nothing follows, whose error allocates, too. The portable
// relay needs it only if a message exactly fills its small read buffer.
func TestRelayingAMessageOverTLSAllocatesOnlyWhatTLSDoes(t *testing.T) {
	if testkit.RaceEnabled() {
		t.Skip("under the race detector a sync.Pool forgets at random")
	}
	for _, test := range []struct {
		n, more int
	}{{1, 0}, {128, 0}, {511, 0}, {512, 2}} {
		if crews() {
			test.more = 2
		}
		bare := int(allocations(t, bareTLS(t, test.n)))
		for _, l := range testkit.Links {
			connections := 0
			for _, secure := range []bool{l.TLSClient, l.TLSUpstream} {
				if secure {
					connections++
				}
			}
			if connections == 0 {
				continue
			}
			t.Run(fmt.Sprintf("%s/%dB", l.Name, test.n), func(t *testing.T) {
				assert.LessOrEqual(t, int(allocations(t, roundTrips(t, l, test.n))), connections*(bare+test.more),
					"allocations a round trip, which are %d over TLS without a proxy", bare)
			})
		}
	}
}

// bareTLS is roundTrips over a connection without a proxy.
func bareTLS(t *testing.T, n int) func() error {
	t.Helper()
	serverTLS, clientTLS := testkit.TLS()
	addr := testkit.ServeTCP(t, func(conn net.Conn) {
		secure, b := tls.Server(conn, serverTLS), make([]byte, n)
		for {
			got, err := secure.Read(b)
			if err != nil {
				return
			}
			secure.Write(b[:got])
		}
	})
	conn := tls.Client(testkit.Dial(t, addr).Conn, clientTLS)
	message, echo := make([]byte, n), make([]byte, n)
	return func() error {
		if _, err := conn.Write(message); err != nil {
			return err
		}
		_, err := io.ReadFull(conn, echo)
		return err
	}
}
