// Package rate counts events against a rate.
package rate

import "math"

// A Bucket is a token bucket: it takes burst events at once, and perSecond over
// time. It is for one goroutine at a time.
//
// It keeps the time at which the bucket is full again, as the generic cell rate
// algorithm does: whole numbers, for which a sender at exactly the rate is never
// above it.
type Bucket struct {
	interval int64 // from one token to the next
	room     int64 // how far full may be ahead: all tokens but one
	full     int64
}

// most keeps sums from overflowing. It is 73 years.
const most = 1 << 61

// NewBucket returns a full bucket. perSecond and burst are at least 0 and 1.
func NewBucket(perSecond float64, burst int) *Bucket {
	interval := math.Min(1e9/perSecond, most)
	return &Bucket{interval: int64(interval), room: int64(math.Min(interval*float64(burst-1), most))}
}

// Take takes one event at now, in nanoseconds on a clock that begins near zero
// and does not go back. It reports false for an event above the rate.
func (b *Bucket) Take(now int64) bool {
	full := max(b.full, now)
	if full-now > b.room {
		return false
	}
	b.full = full + b.interval
	return true
}
