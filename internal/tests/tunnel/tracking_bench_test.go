package tunnel_test

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

// The cost of tracking frames: the same bytes alternate between a WebSocket and
// a tunnel of another protocol. The result is the ratio of the medians.
func BenchmarkRelayWithTrackingOverWithout(b *testing.B) {
	for _, size := range []int{128, 4096, 64 << 10} {
		message := testkit.Frame{First: 0x82, Masked: true, Payload: strings.Repeat("x", size)}.String()
		b.Run(fmt.Sprintf("stream of %d bytes", size), func(b *testing.B) {
			batch := strings.Repeat(message, 16<<20/len(message))
			compareTracking(b, func(client, server *testkit.Peer) {
				go io.WriteString(client, batch)
				_, err := io.CopyN(io.Discard, server, int64(len(batch)))
				require.NoError(b, err)
			})
		})
		b.Run(fmt.Sprintf("round trips of %d bytes", size), func(b *testing.B) {
			reply := testkit.Frame{First: 0x82, Masked: false, Payload: strings.Repeat("x", size)}.String()
			compareTracking(b, func(client, server *testkit.Peer) {
				go func() {
					got := make([]byte, len(message))
					for range 200 {
						io.ReadFull(server, got)
						io.WriteString(server, reply)
					}
				}()
				got := make([]byte, len(reply))
				for range 200 {
					client.Send(b, message)
					_, err := io.ReadFull(client, got)
					require.NoError(b, err)
				}
			})
		})
	}
}

func compareTracking(b *testing.B, work func(client, server *testkit.Peer)) {
	r := testkit.PlainLink.Start(b, nil, wsproxy.WithUpgrades("websocket", "bytes"))
	var ends [2][2]*testkit.Peer
	for i, protocol := range []string{"websocket", "bytes"} {
		client := r.Dial(b)
		client.Send(b, strings.Replace(testkit.SampleRequest, "Upgrade: websocket", "Upgrade: "+protocol, 1))
		server := r.Upstream.Accept(b)
		server.Request(b)
		server.Send(b, strings.Replace(testkit.SampleSwitch, "Upgrade: websocket", "Upgrade: "+protocol, 1))
		client.Response(b)
		client.SetDeadline(time.Time{})
		server.SetDeadline(time.Time{})
		ends[i] = [2]*testkit.Peer{client, server}
	}
	var took [2][]time.Duration
	for n := 0; b.Loop(); n++ {
		for turn := range 2 {
			which := (turn + n) % 2
			start := time.Now()
			work(ends[which][0], ends[which][1])
			took[which] = append(took[which], time.Since(start))
		}
	}
	for i := range took {
		slices.Sort(took[i])
	}
	with, without := took[0][len(took[0])/2], took[1][len(took[1])/2]
	b.ReportMetric(float64(with)/float64(without), "on/off")
	b.ReportMetric(float64(with.Microseconds()), "µs-on")
	b.ReportMetric(0, "ns/op")
}
