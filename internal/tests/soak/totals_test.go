package soak_test

import (
	"fmt"
	"maps"
	"os"
	"runtime"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
)

// A soakTotal counts what has crossed the proxy.
type soakTotal struct {
	tunnels, messages, bytes, pings int64
	resets, softened                int64
	ways, kinds, reasons            map[string]int
}

func (total *soakTotal) add(tun *soakTunnel, ending wsproxy.Ending) {
	if total.ways == nil {
		total.ways, total.kinds, total.reasons = map[string]int{}, map[string]int{}, map[string]int{}
	}
	total.tunnels++
	if reset, softened := tun.reset(ending); reset {
		total.resets++
		if softened {
			total.softened++
		}
	}
	total.ways[tun.way.name]++
	total.kinds[tun.kind.name]++
	total.reasons[ending.Reason.String()]++
	for _, e := range tun.ends {
		total.messages += e.gotMessages
		total.bytes += e.got
		total.pings += e.pings
	}
}

func (total *soakTotal) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d tunnels, %d messages and %d MB arrived, %d Pings of the proxy's, %d of %d resets seen as an end in order",
		total.tunnels, total.messages, total.bytes/1e6, total.pings, total.softened, total.resets)
	for _, counts := range []map[string]int{total.reasons, total.ways, total.kinds} {
		b.WriteString("\n")
		for _, name := range slices.Sorted(maps.Keys(counts)) {
			fmt.Fprintf(&b, "\n%6d %s", counts[name], name)
		}
	}
	return b.String()
}

// A soakSample is the process's use of resources at one moment.
type soakSample struct {
	goroutines, descriptors   int
	live, alloc, inuse, stack uint64 // bytes of heap; live: after the last collection
	resident                  uint64 // 0 if unknown
}

func takeSoakSample() soakSample {
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	var size, resident uint64
	statm, _ := os.ReadFile("/proc/self/statm")
	fmt.Sscan(string(statm), &size, &resident)
	return soakSample{runtime.NumGoroutine(), testkit.Descriptors(), live[0].Value.Uint64(), mem.HeapAlloc, mem.HeapInuse,
		mem.StackInuse, resident * uint64(os.Getpagesize())}
}

func (s soakSample) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, heap %d kB live, %d kB allocated, %d kB in use, stacks %d kB, resident %d kB",
		s.goroutines, s.descriptors, s.live>>10, s.alloc>>10, s.inuse>>10, s.stack>>10, s.resident>>10)
}

// compareQuarters checks that a long run uses no more resources at its end than
// at its beginning.
func (s *soak) compareQuarters(t *testing.T, samples []soakSample) {
	n := len(samples) / 4
	if n == 0 {
		return
	}
	median := func(of []soakSample, value func(soakSample) uint64) uint64 {
		values := make([]uint64, len(of))
		for i := range of {
			values[i] = value(of[i])
		}
		slices.Sort(values)
		return values[len(values)/2]
	}
	for _, of := range []struct {
		name  string
		slack uint64
		value func(soakSample) uint64
	}{
		{"goroutines", 32, func(s soakSample) uint64 { return uint64(s.goroutines) }},
		{"descriptors", 32, func(s soakSample) uint64 { return uint64(s.descriptors) }},
		{"bytes of live heap", 2 << 20, func(s soakSample) uint64 { return s.live }},
		{"bytes resident", 16 << 20, func(s soakSample) uint64 { return s.resident }},
	} {
		first, last := median(samples[:n], of.value), median(samples[len(samples)-n:], of.value)
		t.Logf("%s under load, medians of the first and last quarter: %d, %d", of.name, first, last)
		if soakIsLong() {
			assert.LessOrEqual(t, last, first+first/4+of.slack, "%s in the last quarter, seed %d", of.name, s.seed)
		}
	}
}
