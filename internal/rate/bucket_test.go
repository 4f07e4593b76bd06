package rate

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestABucketTakesABurstAndThenTheRate(t *testing.T) {
	b := NewBucket(2, 3)
	at := func(d time.Duration) bool { return b.Take(int64(d)) }
	for range 3 {
		assert.True(t, at(0), "the burst")
	}
	assert.False(t, at(0))
	assert.False(t, at(400*time.Millisecond))
	assert.True(t, at(500*time.Millisecond))
	assert.False(t, at(999*time.Millisecond))
	assert.True(t, at(1000*time.Millisecond))
	for range 3 {
		assert.True(t, at(time.Hour), "the burst, and no more, after a pause")
	}
	assert.False(t, at(time.Hour))
}

func TestASenderAtTheRateIsNeverAboveIt(t *testing.T) {
	for _, perSecond := range []float64{0.1, 3, 7, 1000, 44100} {
		b := NewBucket(perSecond, 1)
		for i := range 100_000 {
			require.True(t, b.Take(int64(math.Ceil(float64(i)*1e9/perSecond))), "event %d of %v a second", i, perSecond)
		}
	}
}

func TestABucketTakesNoMoreThanItsRate(t *testing.T) {
	for _, burst := range []int{1, 10, 1000} {
		b := NewBucket(1000, burst)
		taken := 0
		for now := time.Duration(0); now < 10*time.Second; now += 50 * time.Microsecond {
			if b.Take(int64(now)) {
				taken++
			}
		}
		assert.InDelta(t, burst+10_000, taken, 1)
	}
}

func TestABucketOfExtremes(t *testing.T) {
	slow := NewBucket(math.SmallestNonzeroFloat64, math.MaxInt)
	fast := NewBucket(math.MaxFloat64, 1)
	for now := range int64(1000) {
		require.True(t, slow.Take(now) || now > 1)
		require.True(t, fast.Take(now))
	}
	once := NewBucket(math.SmallestNonzeroFloat64, 1)
	assert.True(t, once.Take(0))
	assert.False(t, once.Take(int64(10*365*24*time.Hour)))
}
