//go:build linux

package faults_test

import (
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// resident returns the process's resident memory in bytes.
func (p *process) resident(t testing.TB) (n int64) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", p.Process.Pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "Pss_Anon:") {
			fmt.Sscanf(line, "Pss_Anon: %d kB", &n)
		}
	}
	require.NotZero(t, n, "no Pss_Anon in smaps_rollup")
	return n << 10
}

// A tunnel holds one buffer of 69 KiB for bytes that its client does not read.
// The rest is for the server's goroutine and buffers, and TLS.
const mostOfAStalledClient = 128 << 10

// smallWindow makes the kernel buffer little for a client, on its side and on
// the proxy's. The proxy's buffer is a multiple of the segment size, which on
// loopback is 64 KiB.
func smallWindow(_, _ string, c syscall.RawConn) error {
	return c.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<10)
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_MAXSEG, 1400)
	})
}

func TestClientsThatNeverReadUseLittleMemoryUntilTheSendTimeout(t *testing.T) {
	const clients = 200
	bothKinds(t, func(t *testing.T, secure bool) {
		p, up := startPair(t, role{TLS: secure, Send: 2 * time.Second})
		settled(t, p, up) // one-time allocations are done
		p.dial = (&net.Dialer{Control: smallWindow}).Dial
		base, memory := p.ask(t, "collect").Heap, p.resident(t)

		var all sync.WaitGroup
		stalled := make([]*client, clients)
		for i := range stalled {
			all.Go(func() {
				c, err := p.open("/flood")
				if err != nil {
					t.Error(err)
					return
				}
				stalled[i] = c
			})
		}
		all.Wait()
		require.False(t, t.Failed())

		var most, heap, moved int64
		for deadline := time.Now().Add(patience); ; time.Sleep(100 * time.Millisecond) {
			rep := p.ask(t, "collect")
			if rep.Live == 0 {
				break
			}
			require.True(t, time.Now().Before(deadline), "the send timeout leaves %d tunnels", rep.Live)
			most, heap, moved = max(most, p.resident(t)-memory), max(heap, rep.Heap-base), rep.FromUpstream
		}
		t.Logf("a tunnel: %d kB of memory, %d kB in use by Go, after %d kB from the upstream", most/clients>>10, heap/clients>>10, moved/clients>>10)
		if !raceDetector {
			assert.Less(t, heap/clients, int64(mostOfAStalledClient), "bytes in use for a tunnel")
			assert.Less(t, most/clients, int64(mostOfAStalledClient), "bytes of memory for a tunnel")
		}
		p.ended(t, clients, "send timeout, cut")
		for _, c := range stalled {
			c.Close()
		}
		settled(t, p, up)
	})
}
