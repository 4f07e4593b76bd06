package main

import (
	"slices"
	"strings"
	"testing"
)

func TestEachRowOfTheTablesIsMeasured(t *testing.T) {
	if err := measured(slices.Concat(readmeRows, plainRows, tlsRows, http2Rows)); err != nil {
		t.Error(err)
	}
}

func TestTheTableMarksTheBestOfARow(t *testing.T) {
	r := &report{Medians: []summary{
		{"plain", "rt-128-64", "cpu", "µs", "wsproxy", 14.21, 0, 0},
		{"plain", "rt-128-64", "cpu", "µs", "nginx", 13.2, 0, 0},
		{"plain", "rt-128-1", "p50", "µs", "caddy", 99, 0, 0},
		{"plain", "stream", "mbps", "MB/s", "wsproxy", 1200, 0, 0},
		{"plain", "stream", "mbps", "MB/s", "nginx", 600, 0, 0},
	}}
	got := r.table("", "plain", plainRows)
	for _, want := range []string{"|  | wsproxy | nginx | Caddy |\n|---|---|---|---|\n", "| 14.2 | **13.2** | – |", "| **1200** | 600 | – |"} {
		if !strings.Contains(got, want) {
			t.Errorf("the table lacks %q:\n%s", want, got)
		}
	}
	if strings.Contains(got, "1 MiB") {
		t.Errorf("the table has a row without figures:\n%s", got)
	}
}

func TestReplaceBetween(t *testing.T) {
	got, err := replaceBetween("a\n<\nold\n>\nb\n", "<\n", ">\n", "new\n")
	if want := "a\n<\nnew\n>\nb\n"; err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	for _, text := range []string{"a\n", "a\n<\n"} {
		if got, err := replaceBetween(text, "<\n", ">\n", "new"); err == nil {
			t.Errorf("%q becomes %q", text, got)
		}
	}
}
