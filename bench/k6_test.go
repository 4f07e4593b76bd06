package main

import (
	"strings"
	"testing"
	"time"
)

func TestAQuantileOfK6IsTheMedianOverTheParts(t *testing.T) {
	const parts = `
		"trip{part:0}": {"med": 0.2, "p(95)": 0.3, "p(99)": 1.5},
		"trip{part:1}": {"med": 0.3, "p(95)": 0.4, "p(99)": 40},
		"trip{part:2}": {"med": 0.4, "p(95)": 0.5, "p(99)": 2.5},
		"ws_connecting{part:0}": {"med": 0.2, "p(95)": 0.9, "p(99)": 1},
		"ws_connecting{part:1}": {"med": 0, "p(95)": 0, "p(99)": 0}`
	got, err := parseK6([]byte(`{"metrics": {"iterations": {"count": 50, "rate": 1},`+parts+`}}`), 10*time.Second)
	want := map[string]float64{"rate": 5, "connect95": 900, "p50": 300, "p99": 2500}
	if err != nil || len(got) != len(want) {
		t.Fatalf("got %v, %v", got, err)
	}
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s is %v, want %v", name, got[name], value)
		}
	}
	for summary, fault := range map[string]string{
		`{"metrics": {"iterations": {"count": 50}, "failed": {"count": 2},` + parts + `}}`: "2 failures",
		`{"metrics": {}}`: "no sessions",
		`{`:               "summary",
	} {
		if got, err := parseK6([]byte(summary), time.Second); err == nil || !strings.Contains(err.Error(), fault) {
			t.Errorf("%s: got %v, %v, want an error with %q", summary, got, err, fault)
		}
	}
}
