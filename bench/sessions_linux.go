package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// think is the mean pause of a user before each message and after a session.
const think = 200 * time.Millisecond

// sessionParts is the number of parts of the window. A quantile is the median over
// the parts, so that a stall of the load or of the machine counts for one part.
const sessionParts = 5

// A part holds the times of one part.
type part struct{ connects, trips []time.Duration }

// sessions is what k6 does with users in a loop: each connects, sends 3 to 7
// messages and reads their echoes, with pauses, and closes. The pauses are random,
// between a half and three halves of the mean.
func (l *load) sessions() (res result, err error) {
	var (
		mu     sync.Mutex
		parts  []*part // the last one is measured
		failed error
		done   atomic.Int64
		group  sync.WaitGroup
	)
	stop := make(chan struct{})
	pause := func() bool {
		timer := time.NewTimer(l.Think/2 + rand.N(l.Think))
		defer timer.Stop()
		select {
		case <-stop:
			return false
		case <-timer.C:
			return true
		}
	}
	record := func(add func(*part)) {
		mu.Lock()
		defer mu.Unlock()
		if len(parts) > 0 {
			add(parts[len(parts)-1])
		}
	}
	message, reply := clientFrame(l.Size), serverFrame(l.Size)
	session := func() error {
		begun := time.Now()
		c, err := open(l.Addr, echoPath, l.config)
		if err != nil {
			return err
		}
		connect := time.Since(begun)
		record(func(p *part) { p.connects = append(p.connects, connect) })
		for range 3 + rand.N(5) {
			if !pause() {
				c.abort()
				return nil
			}
			begun := time.Now()
			if err := c.exchange(message, reply); err != nil {
				c.abort()
				return err
			}
			trip := time.Since(begun)
			record(func(p *part) { p.trips = append(p.trips, trip) })
		}
		if err := c.hangUp(); err != nil {
			return err
		}
		done.Add(1)
		return nil
	}
	for range l.Conns {
		group.Go(func() {
			for pause() {
				if err := session(); err != nil {
					mu.Lock()
					failed = fmt.Errorf("a session: %w", err)
					mu.Unlock()
					return
				}
			}
		})
	}
	time.Sleep(l.Warm)
	before := done.Load()
	err = l.begin()
	for range sessionParts {
		mu.Lock()
		parts = append(parts, &part{})
		mu.Unlock()
		time.Sleep(l.Window / sessionParts)
	}
	for begun := time.Now(); done.Load() == before && time.Since(begun) < stuck; {
		time.Sleep(time.Millisecond)
	}
	res.Count = done.Load() - before
	if endErr := l.end(&res); err == nil {
		err = endErr
	}
	close(stop)
	group.Wait()
	if failed != nil {
		return res, failed
	}
	if res.Count == 0 && err == nil {
		err = errStuck
	}
	var connects, trips [][]time.Duration
	for _, p := range parts {
		connects, trips = append(connects, p.connects), append(trips, p.trips)
	}
	res.Connect = usual(connects, 0.95)
	res.P50, res.P99, res.P999 = usual(trips, 0.5), usual(trips, 0.99), usual(trips, 0.999)
	return res, err
}

// usual returns the median over the parts of a quantile of their times.
func usual(parts [][]time.Duration, q float64) time.Duration {
	var each []float64
	for _, times := range parts {
		if sorted := slices.Sorted(slices.Values(times)); len(sorted) > 0 {
			each = append(each, float64(quantile(sorted, q)))
		}
	}
	return time.Duration(median(each))
}

// storm has many clients connect at once, three times. All get an echo before the
// time ends.
func (t *trial) storm(m measure) (map[string]float64, error) {
	values := map[string]float64{}
	conns := min(t.tunnels(m.conns), t.tunnels(1<<30))
	var sizes []float64
	for _, wave := range []string{"first", "again", ""} {
		var res result
		if err := t.do(&res, job{Kind: "storm", Size: m.size, Conns: conns}); err != nil {
			return nil, err
		}
		size, err := memory(t.pids)
		if err != nil {
			return nil, err
		}
		if sizes = append(sizes, float64(size)); wave != "" {
			values[wave] = float64(res.Window.Microseconds()) / 1e3
			values["cpu"] = float64(res.CPU.Nanoseconds()) / 1e3 / float64(conns)
		}
		t.hangUp()
	}
	values["memory"], values["growth"] = sizes[1]/1e6, sizes[2]/sizes[1]
	return values, nil
}
