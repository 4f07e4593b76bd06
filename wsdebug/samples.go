package wsdebug

import (
	"slices"
	"sync"
	"time"

	"example.com/wsproxy"
)

const (
	sampleGap  = time.Second      // between two samples, however many requests there are
	maxSamples = 150              // five minutes at one sample in two seconds
	keepFor    = 10 * time.Minute // the age of a sample, and the time since the last request
)

// A sample is what rates and plots need of a proxy's counts at one moment.
type sample struct {
	at                       time.Time
	live                     int
	opened                   int64
	closed                   [groupCount]int64
	fromClient, fromUpstream wsproxy.FlowStats
}

func newSample(s wsproxy.Stats, at time.Time) sample {
	taken := sample{at: at, live: s.Live, opened: s.Opened, fromClient: s.FromClient, fromUpstream: s.FromUpstream}
	for reason, n := range s.ClosedByReason() {
		taken.closed[groupOf[reason]] += n
	}
	return taken
}

// samples is a ring of the latest samples. Only requests for the page add to it. One
// timer empties it when there was no request for keepFor.
type samples struct {
	mu     sync.Mutex
	ring   []sample // the oldest first
	forget *time.Timer
}

// add returns the samples, of which now is the last, with at least sampleGap between
// two. It keeps now only if the last one kept is sampleGap older.
func (s *samples) add(now sample) []sample {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.forget == nil {
		s.forget = time.AfterFunc(keepFor, s.clear)
	} else {
		s.forget.Reset(keepFor)
	}
	s.ring = slices.DeleteFunc(s.ring, func(old sample) bool { return now.at.Sub(old.at) > keepFor })
	if last := len(s.ring) - 1; last >= 0 && now.at.Sub(s.ring[last].at) < sampleGap {
		return append(slices.Clone(s.ring[:last]), now)
	}
	if len(s.ring) == maxSamples {
		s.ring = slices.Delete(s.ring, 0, 1)
	}
	s.ring = append(s.ring, now)
	return slices.Clone(s.ring)
}

func (s *samples) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ring = nil
}

// rates are per second over the time since an earlier sample.
type rates struct {
	over                     time.Duration
	opened, closed           float64
	byGroup                  [groupCount]float64
	fromClient, fromUpstream flowRate
}

type flowRate struct{ Bytes, Messages float64 }

// between returns the rates from a to b.
func between(a, b sample) rates {
	r := rates{over: b.at.Sub(a.at)}
	per := func(from, to int64) float64 { return float64(max(to-from, 0)) / r.over.Seconds() }
	r.opened = per(a.opened, b.opened)
	for g := range groupCount {
		r.byGroup[g] = per(a.closed[g], b.closed[g])
		r.closed += r.byGroup[g]
	}
	r.fromClient.Bytes = per(a.fromClient.Bytes, b.fromClient.Bytes)
	r.fromClient.Messages = per(a.fromClient.Messages, b.fromClient.Messages)
	r.fromUpstream.Bytes = per(a.fromUpstream.Bytes, b.fromUpstream.Bytes)
	r.fromUpstream.Messages = per(a.fromUpstream.Messages, b.fromUpstream.Messages)
	return r
}

// current returns the rates between the last two samples, or nil if there is only
// one.
func current(history []sample) *rates {
	if len(history) < 2 {
		return nil
	}
	r := between(history[len(history)-2], history[len(history)-1])
	return &r
}

// The plot of closed tunnels has reasons in groups, each with a color.
const (
	byClient = iota
	byUpstream
	byTimeout
	byOperator
	byLimit
	byFailure
	groupCount
)

var groupNames = [groupCount]string{"client", "upstream", "timeouts", "operator", "limits", "failures"}

var groupOf = map[wsproxy.Reason]int{
	wsproxy.ReasonClientClosed:   byClient,
	wsproxy.ReasonUpstreamClosed: byUpstream,
	wsproxy.ReasonReadTimeout:    byTimeout,
	wsproxy.ReasonSendTimeout:    byTimeout,
	wsproxy.ReasonPingTimeout:    byTimeout,
	wsproxy.ReasonMaxLifetime:    byTimeout,
	wsproxy.ReasonShutdown:       byOperator,
	wsproxy.ReasonKilled:         byOperator,
	wsproxy.ReasonLimit:          byLimit,
	wsproxy.ReasonProtocolError:  byLimit,
	wsproxy.ReasonContextDone:    byFailure,
	wsproxy.ReasonFailed:         byFailure,
}
