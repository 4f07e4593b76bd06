package wsproxytest_test

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// A fakeTB is a test that may fail.
type fakeTB struct {
	testing.TB
	mu       sync.Mutex
	failed   bool
	log      strings.Builder
	cleanups []func()
}

func (f *fakeTB) Helper()          {}
func (f *fakeTB) Cleanup(c func()) { f.cleanups = append(f.cleanups, c) }
func (f *fakeTB) Failed() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.failed
}
func (f *fakeTB) Logf(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fmt.Fprintf(&f.log, format+"\n", args...)
}
func (f *fakeTB) Errorf(format string, args ...any) {
	f.Logf(format, args...)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.failed = true
}
func (f *fakeTB) FailNow() {
	f.mu.Lock()
	f.failed = true
	f.mu.Unlock()
	runtime.Goexit()
}
func (f *fakeTB) Fatalf(format string, args ...any) {
	f.Errorf(format, args...)
	f.FailNow()
}

// run runs a test and its cleanup on a new goroutine, and returns the test's log.
func (f *fakeTB) run(test func(t testing.TB)) string {
	for _, step := range []func(){func() { test(f) }, func() {
		for len(f.cleanups) > 0 {
			last := f.cleanups[len(f.cleanups)-1]
			f.cleanups = f.cleanups[:len(f.cleanups)-1]
			last()
		}
	}} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			step()
		}()
		<-done
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.log.String()
}

func (f *fakeTB) wantLog(t *testing.T, log string, wants ...string) {
	t.Helper()
	if !f.Failed() {
		t.Error("the test passes")
	}
	for _, want := range wants {
		if !strings.Contains(log, want) {
			t.Errorf("the log has no %q:\n%s", want, log)
		}
	}
}
