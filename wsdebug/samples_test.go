package wsdebug

import (
	"math"
	"regexp"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// One viewer that reloads without a pause, or a thousand, must not grow what the
// handler keeps, nor make the rates those of a millisecond.
func TestSamplesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s samples
		for i := range 2000 {
			history := s.add(sample{at: time.Now(), opened: int64(i)})
			require.LessOrEqual(t, len(history), maxSamples)
			if last := len(history) - 1; last > 0 {
				require.GreaterOrEqual(t, history[last].at.Sub(history[last-1].at), sampleGap)
			}
			require.Equal(t, int64(i), history[len(history)-1].opened, "the newest is the last")
			time.Sleep(100 * time.Millisecond)
		}
		assert.Len(t, s.ring, maxSamples)
		assert.LessOrEqual(t, cap(s.ring), 2*maxSamples)
		s.forget.Stop()
	})
}

// Samples are kept only while someone looks.
func TestSamplesAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s samples
		s.add(sample{at: time.Now()})
		time.Sleep(keepFor - time.Second)
		assert.Len(t, s.add(sample{at: time.Now()}), 2)
		time.Sleep(keepFor - time.Second)
		assert.Len(t, s.add(sample{at: time.Now()}), 2, "the first is too old")
		time.Sleep(keepFor + time.Second)
		s.mu.Lock()
		assert.Nil(t, s.ring)
		s.mu.Unlock()
		assert.Len(t, s.add(sample{at: time.Now()}), 1)
		s.forget.Stop()
	})
}

// Rates are per second, and never negative: the counts of two moments may be read in
// another order than they were counted in.
func TestRatesArePerSecond(t *testing.T) {
	start := time.Now()
	a := sample{at: start, opened: 10}
	b := sample{at: start.Add(4 * time.Second), opened: 30}
	a.closed[byTimeout], b.closed[byTimeout] = 1, 3
	a.fromClient.Bytes, b.fromClient.Bytes = 1000, 5000
	a.fromUpstream.Messages, b.fromUpstream.Messages = 9, 8
	assert.Nil(t, current([]sample{a}))
	r := current([]sample{a, b})
	assert.Equal(t, 4*time.Second, r.over)
	assert.Equal(t, 5.0, r.opened)
	assert.Equal(t, 0.5, r.closed)
	assert.Equal(t, 1000.0, r.fromClient.Bytes)
	assert.Zero(t, r.fromUpstream.Messages)
}

// Every point of a plot lies in its box, whatever the counts are.
func TestPlotsStayInTheirBox(t *testing.T) {
	start := time.Now()
	number := regexp.MustCompile(`[-\d.]+`)
	for _, scale := range []int64{0, 1, 7, 1_000_000, math.MaxInt64 / 1000} {
		var history []sample
		for i := range int64(20) {
			s := sample{at: start.Add(time.Duration(i*i) * time.Second), live: int(i % 7 * scale), opened: i * scale}
			for g := range groupCount {
				s.closed[g] = i * scale / int64(g+1)
			}
			s.fromClient.Bytes, s.fromUpstream.Bytes = i*i%11*scale, i*scale
			history = append(history, s)
		}
		for _, p := range plots(history) {
			assert.NotContains(t, p.Max+p.Label, "NaN")
			for _, l := range p.Layers {
				points := number.FindAllString(l.Path, -1)
				require.NotEmpty(t, points)
				require.Zero(t, len(points)%2)
				for i, each := range points {
					v, err := strconv.ParseFloat(each, 64)
					require.NoError(t, err, l.Path)
					assert.GreaterOrEqual(t, v, 0.0, "%s, %s", p.Title, l.Name)
					assert.LessOrEqual(t, v, []float64{plotWidth, plotHeight}[i%2], "%s, %s", p.Title, l.Name)
				}
			}
		}
	}
}

// The upper edge is a round number.
func TestThePlotsEdgeIsRound(t *testing.T) {
	history := []sample{{at: time.Now()}, {at: time.Now().Add(time.Second)}}
	for most, want := range map[float64]float64{0: 1, 1: 1, 3: 5, 60: 100, 101: 200, 1000: 1000, 0.3: 0.5} {
		assert.InDelta(t, want, newCanvas(history, most, false).most, 1e-9, "%v", most)
	}
	assert.Equal(t, 1.0, newCanvas(history, 0.3, true).most)
}

// A reason without a group would count as closed by the client.
func TestEachReasonHasAGroup(t *testing.T) {
	for reason := range (wsproxy.Stats{}).ClosedByReason() {
		assert.Contains(t, groupOf, reason, "%v", reason)
	}
}
