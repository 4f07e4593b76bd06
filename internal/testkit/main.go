package testkit

import (
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
	"time"
)

// Main runs a package's tests, for its TestMain, and exits. The run fails if a
// goroutine or a descriptor is left after all tests have cleaned up.
//
// Tests that call t.Parallel wait most of their time, so by default more of
// them run at once than there are processors.
func Main(m *testing.M) {
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		f.Value.Set("8") // the command line, which is parsed later, overrides it
	}
	if l, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
		l.Close() // makes the runtime's poller open its descriptors
	}
	before := takeInventory()
	code := m.Run()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	if code == 0 && !fuzzing() && !before.restored() {
		now := takeInventory()
		fmt.Fprintf(os.Stderr, "left behind: %d goroutines, %d descriptors; before: %d, %d\n%s\n",
			now.goroutines, now.descriptors, before.goroutines, before.descriptors, Stacks())
		code = 1
	}
	os.Exit(code)
}

// fuzzing reports whether the run is a fuzzer's. The fuzzer's workers have
// goroutines and descriptors that outlive the tests.
func fuzzing() bool {
	f := flag.Lookup("test.fuzz")
	return f != nil && f.Value.String() != ""
}

// LeavesNothing runs test and checks that the process then has no more
// goroutines and descriptors than before.
func LeavesNothing(t testing.TB, test func()) {
	t.Helper()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	before := takeInventory()
	test()
	if !before.restored() {
		now := takeInventory()
		t.Errorf("left behind: %d goroutines, %d descriptors; before: %d, %d",
			now.goroutines, now.descriptors, before.goroutines, before.descriptors)
	}
}

// An inventory counts what the process holds at one moment.
type inventory struct{ goroutines, descriptors int }

func takeInventory() inventory { return inventory{runtime.NumGoroutine(), Descriptors()} }

// restored waits until the process holds no more than before, and reports
// whether it does.
func (before inventory) restored() bool {
	for deadline := time.Now().Add(Patience); ; time.Sleep(time.Millisecond) {
		now := takeInventory()
		if now.goroutines <= before.goroutines && now.descriptors <= before.descriptors {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
	}
}

// Descriptors returns how many descriptors the process has open, or 0 if that
// is unknown.
func Descriptors() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries)
}

// Stacks returns the stacks of all goroutines.
func Stacks() string {
	b := make([]byte, 1<<20)
	return string(b[:runtime.Stack(b, true)])
}

// RaceEnabled reports whether the race detector is built in.
func RaceEnabled() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}
