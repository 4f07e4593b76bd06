package main

import (
	"cmp"
	"slices"
)

// A sample is what one measure of one peer yielded in one round.
type sample struct {
	Round     int                `json:"round"`
	Transport string             `json:"transport"`
	Measure   string             `json:"measure"`
	Peer      string             `json:"peer"`
	Values    map[string]float64 `json:"values,omitempty"`
	TLS       string             `json:"tls,omitempty"`
	Error     string             `json:"error,omitempty"`
}

// A cell names one figure of one peer.
type cell struct{ transport, measure, metric, peer string }

// A series is a cell's value by round.
type series map[int]float64

// collect sorts samples into cells.
func collect(samples []sample) map[cell]series {
	cells := map[cell]series{}
	for _, s := range samples {
		for name, value := range s.Values {
			c := cell{s.Transport, s.Measure, name, s.Peer}
			if cells[c] == nil {
				cells[c] = series{}
			}
			cells[c][s.Round] = value
		}
	}
	return cells
}

// summary returns the median of a series with its least and greatest value.
func (s series) summary() (mid, low, high float64) {
	var values []float64
	for _, v := range s {
		values = append(values, v)
	}
	if len(values) == 0 {
		return 0, 0, 0
	}
	return median(values), slices.Min(values), slices.Max(values)
}

// median returns the middle of values, which it sorts.
func median(values []float64) float64 {
	slices.Sort(values)
	n := len(values)
	switch {
	case n == 0:
		return 0
	case n%2 == 1:
		return values[n/2]
	default:
		return (values[n/2-1] + values[n/2]) / 2
	}
}

// ratio returns the median over the rounds of a divided by b in that round,
// which the drift of the machine between rounds does not touch.
func ratio(a, b series) (float64, bool) {
	var ratios []float64
	for round, v := range a {
		if w, ok := b[round]; ok && w != 0 {
			ratios = append(ratios, v/w)
		}
	}
	return median(ratios), len(ratios) > 0
}

// quantile returns the value below which the share q of sorted values lies.
func quantile[T cmp.Ordered](sorted []T, q float64) (value T) {
	if len(sorted) == 0 {
		return value
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}
