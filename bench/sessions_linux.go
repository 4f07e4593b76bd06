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

// sessions is what k6 does with users in a loop: each connects, sends 3 to 7
// messages and reads their echoes, with pauses, and closes. The pauses are random,
// between a half and three halves of the mean.
func (l *load) sessions() (res result, err error) {
	var (
		mu             sync.Mutex
		connects, took []time.Duration
		failed         error
		done           atomic.Int64
		measuring      atomic.Bool
		group          sync.WaitGroup
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
	message, reply := clientFrame(l.Size), serverFrame(l.Size)
	session := func() error {
		begun, counts := time.Now(), measuring.Load()
		c, err := open(l.Addr, echoPath, l.config)
		if err != nil {
			return err
		}
		connect := time.Since(begun)
		var trips []time.Duration
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
			trips = append(trips, time.Since(begun))
		}
		if err := c.hangUp(); err != nil {
			return err
		}
		done.Add(1)
		if counts {
			mu.Lock()
			defer mu.Unlock()
			connects, took = append(connects, connect), append(took, trips...)
		}
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
	measuring.Store(true)
	before := done.Load()
	err = l.begin()
	time.Sleep(l.Window)
	for begun := time.Now(); time.Since(begun) < stuck; time.Sleep(time.Millisecond) {
		mu.Lock()
		enough := failed != nil || len(connects) > 0
		mu.Unlock()
		if enough {
			break
		}
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
	if len(connects) == 0 && err == nil {
		err = errStuck
	}
	slices.Sort(connects)
	slices.Sort(took)
	res.Connect = quantile(connects, 0.95)
	res.P50, res.P99, res.P999 = quantile(took, 0.5), quantile(took, 0.99), quantile(took, 0.999)
	return res, err
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
