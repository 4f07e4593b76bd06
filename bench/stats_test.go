package main

import (
	"slices"
	"testing"
)

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{
		{nil, 0},
		{[]float64{3}, 3},
		{[]float64{9, 1, 2}, 2},
		{[]float64{4, 1, 100, 2}, 3},
	} {
		if got := median(slices.Clone(test.values)); got != test.want {
			t.Errorf("the median of %v is %v, want %v", test.values, got, test.want)
		}
	}
}

func TestARatioIsOfTheSameRound(t *testing.T) {
	// The machine got ten times slower in round 1. The ratio must not show
	// that.
	a, b := series{0: 1, 1: 10, 2: 1}, series{0: 2, 1: 20, 2: 2}
	if got, ok := ratio(a, b); got != 0.5 || !ok {
		t.Errorf("the ratio is %v, %v, want 0.5", got, ok)
	}
	if got, ok := ratio(a, series{3: 1, 0: 0}); ok {
		t.Errorf("series without a round in common have the ratio %v", got)
	}
}

func TestQuantile(t *testing.T) {
	var values []int
	for i := range 100 {
		values = append(values, i+1)
	}
	for q, want := range map[float64]int{0: 1, 0.5: 51, 0.99: 100, 1: 100} {
		if got := quantile(values, q); got != want {
			t.Errorf("the quantile %v is %d, want %d", q, got, want)
		}
	}
	if got := quantile([]int(nil), 0.5); got != 0 {
		t.Errorf("the quantile of nothing is %d", got)
	}
}

func TestTargetsAreJudgedByTheirBounds(t *testing.T) {
	var samples []sample
	add := func(peer, measure, metric string, value float64) {
		samples = append(samples, sample{Transport: "plain", Measure: measure, Peer: peer, Values: map[string]float64{metric: value}})
	}
	add("wsproxy", "rt-128-64", "cpu", 9)
	add("nginx", "rt-128-64", "cpu", 10)
	add("httputil", "rt-128-64", "cpu", 10)
	add("wsproxy", "stream", "mbps", 100)
	add("haproxy", "stream", "mbps", 50)
	add("wsproxy-detached", "idle", "many", 3)
	got := judge(collect(samples))
	want := []verdict{
		{"CPU/round trip, 128 B, 64 connections", "plain", "nginx", 0.9, 1, false, true},
		{"CPU/round trip, 128 B, 64 connections", "plain", "httputil", 0.9, 0.85, false, false},
		{"throughput, 64 KiB stream", "plain", "haproxy", 2, 1.3, true, true},
		{"kB/idle tunnel of wsproxy-detached", "plain", "", 3, 2.5, false, false},
	}
	if !slices.Equal(got, want) {
		t.Errorf("judged\n%+v, want\n%+v", got, want)
	}
}

func TestEveryTargetNamesAnExistingMeasure(t *testing.T) {
	for _, target := range targets() {
		i := slices.IndexFunc(measures, func(m measure) bool { return m.name == target.measure })
		if i < 0 || !slices.ContainsFunc(measures[i].metrics, func(m metric) bool { return m.name == target.metric }) {
			t.Errorf("nothing measures %+v", target)
		}
	}
}

func TestRotateKeepsAll(t *testing.T) {
	if got := rotate([]int{1, 2, 3}, 4); !slices.Equal(got, []int{2, 3, 1}) {
		t.Errorf("rotated to %v", got)
	}
	if got := rotate([]int(nil), 4); len(got) != 0 {
		t.Errorf("nothing rotated to %v", got)
	}
}
