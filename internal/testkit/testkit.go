// Package testkit holds what the tests of several packages share: proxies and
// servers on loopback or in memory, both ends of a connection byte by byte or
// frame by frame, and a check that a run leaves nothing behind.
//
// Helpers that take a testing.TB stop the test with Fatalf if something fails,
// so they belong on the test's goroutine. What they start ends with the test.
// The package imports the standard library and wsproxy alone, so that every
// module of the repository can use it.
package testkit

import (
	"os"
	"os/exec"
	"testing"
	"time"
)

// Patience bounds every wait of a test that should not have to wait.
const Patience = 30 * time.Second

// Eventually waits until cond reports true.
func Eventually(t testing.TB, cond func() bool, format string, args ...any) {
	t.Helper()
	for deadline := time.Now().Add(Patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after %v: "+format, append([]any{Patience}, args...)...)
		}
	}
}

// Within returns the next of results. It waits no longer than Patience.
func Within[T any](t testing.TB, results <-chan T, what string) T {
	t.Helper()
	select {
	case result := <-results:
		return result
	case <-time.After(Patience):
		t.Fatalf("after %v: %s: nothing happened", Patience, what)
		panic("unreachable")
	}
}

// Missing skips a test that needs something the machine lacks. With
// WSPROXY_PEERS=require, as in CI, the test fails instead.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("WSPROXY_PEERS") == "require" {
		t.Fatalf("WSPROXY_PEERS=require: "+format, args...)
	}
	t.Skipf(format, args...)
}

// Program returns the path of a program, or calls Missing.
func Program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(t, "%s is not installed", name)
	}
	return path
}

// FullStress reports whether WSPROXY_STRESS=full asks for the long forms of
// the tests that have a short one.
func FullStress() bool { return os.Getenv("WSPROXY_STRESS") == "full" }

// Scale returns full if FullStress reports true, and short otherwise.
func Scale[N any](short, full N) N {
	if FullStress() {
		return full
	}
	return short
}
