package main

import (
	"os"
	"testing"
	"time"
)

func TestParsePSS(t *testing.T) {
	const text = "5622534c3000-7ffe783f3000 ---p 00000000 00:00 0    [rollup]\nRss:  1700 kB\nPss:                 423 kB\nPss_Dirty:           116 kB\n"
	if got, err := parsePSS([]byte(text)); got != 423<<10 || err != nil {
		t.Errorf("parsed as %d, %v", got, err)
	}
	for _, bad := range []string{"", "Rss: 1 kB\n", "Pss: 1\n", "Pss: x kB\n", "Pss: 1 MB\n"} {
		if got, err := parsePSS([]byte(bad)); err == nil {
			t.Errorf("%q parses as %d", bad, got)
		}
	}
}

func TestThisProcessHasMemoryAndCPU(t *testing.T) {
	pids := family(os.Getpid())
	if pids[0] != os.Getpid() {
		t.Errorf("the family of %d is %v", os.Getpid(), pids)
	}
	if n, err := memory(pids[:1]); n <= 0 || err != nil {
		t.Errorf("memory is %d, %v", n, err)
	}
	before, err := cpuTime(pids[:1])
	if err != nil {
		t.Fatal(err)
	}
	for begun := time.Now(); time.Since(begun) < 20*time.Millisecond; {
	}
	after, err := cpuTime(pids[:1])
	if err != nil || after <= before {
		t.Errorf("CPU went from %v to %v, %v", before, after, err)
	}
}
