package main

import (
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"example.com/wsproxy/internal/frame"
)

// dialAll dials the connections.
func (l *load) dialAll() error {
	for len(l.streams) < streamConns {
		c, err := dialStreams(l.Addr, l.config)
		if err != nil {
			return err
		}
		l.streams = append(l.streams, c)
	}
	return nil
}

func (l *load) closeStreams() {
	for _, c := range l.streams {
		c.conn.Close()
	}
	l.streams = nil
}

// share returns how many of n tunnels are connection i's.
func share(n, i int) int { return n/streamConns + btoi(i < n%streamConns) }

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// openStreams opens tunnels until there are Conns, and sends an echoed message
// through each.
func (l *load) openStreams() error {
	if err := l.dialAll(); err != nil {
		return err
	}
	message, size := clientFrame(max(l.Size, 1)), len(serverFrame(max(l.Size, 1)))
	done := errors.New("done")
	var all sync.WaitGroup
	errs := make([]error, streamConns)
	for i, c := range l.streams {
		want := share(l.Conns, i) - len(c.streams)
		if want <= 0 {
			continue
		}
		all.Go(func() {
			c.conn.SetDeadline(time.Now().Add(openTimeout))
			for range want {
				if errs[i] = c.connect(echoPath); errs[i] != nil {
					return
				}
			}
			errs[i] = c.drive(func(s *stream, what int) error {
				switch what {
				case opened:
					return c.say(s, message, size, false)
				case received:
					if want--; want == 0 {
						return done
					}
					return nil
				}
				return errors.New("a tunnel has ended")
			})
		})
	}
	all.Wait()
	for i, err := range errs {
		if err == done {
			errs[i] = nil
		}
	}
	return errors.Join(errs...)
}

// streamRoundTrips makes every tunnel send a message as soon as the last one has
// been echoed.
func (l *load) streamRoundTrips() (res result, err error) {
	if err := l.openStreams(); err != nil {
		return res, err
	}
	message, size := clientFrame(l.Size), len(serverFrame(l.Size))
	took := make([][]time.Duration, streamConns)
	res, err = l.window(func(i int, c *streamConn, count func() bool) error {
		for _, s := range c.streams {
			if err := c.say(s, message, size, false); err != nil {
				return err
			}
		}
		return c.drive(func(s *stream, what int) error {
			if what != received {
				return errors.New("a tunnel has ended")
			}
			if count() {
				took[i] = append(took[i], time.Since(s.sent))
			}
			return c.say(s, message, size, false)
		})
	})
	all := slices.Concat(took...)
	slices.Sort(all)
	if len(all) > 0 {
		res.P50, res.P99 = quantile(all, 0.5), quantile(all, 0.99)
	}
	return res, err
}

// streamHandshakes opens and closes tunnels, Conns at a time.
func (l *load) streamHandshakes() (res result, err error) {
	if err := l.dialAll(); err != nil {
		return res, err
	}
	closing := frame.AppendControl(nil, frame.OpClose, nil, true)
	size := len(frame.AppendControl(nil, frame.OpClose, nil, false))
	return l.window(func(i int, c *streamConn, count func() bool) error {
		for range share(l.Conns, i) {
			if err := c.connect(echoPath); err != nil {
				return err
			}
		}
		return c.drive(func(s *stream, what int) error {
			switch what {
			case opened:
				return c.say(s, closing, size, true)
			case ended:
				count()
				return c.connect(echoPath)
			}
			return nil
		})
	})
}

// window runs work for each connection, and counts through a window of time.
func (l *load) window(work func(i int, c *streamConn, count func() bool) error) (res result, err error) {
	var done atomic.Int64
	var measured, over atomic.Bool
	count := func() bool {
		if measured.Load() {
			done.Add(1)
		}
		return measured.Load()
	}
	var all sync.WaitGroup
	failed := make(chan error, streamConns)
	for i, c := range l.streams {
		all.Go(func() {
			c.conn.SetDeadline(time.Now().Add(l.Warm + l.Window + stuck))
			if err := work(i, c, count); !over.Load() {
				failed <- err
			}
		})
	}
	time.Sleep(l.Warm)
	err = l.begin()
	measured.Store(true)
	time.Sleep(l.Window)
	for begun := time.Now(); done.Load() == 0 && len(failed) == 0 && time.Since(begun) < stuck; {
		time.Sleep(time.Millisecond)
	}
	res.Count = done.Load()
	if endErr := l.end(&res); err == nil {
		err = endErr
	}
	over.Store(true)
	l.closeStreams()
	all.Wait()
	select {
	case err = <-failed:
	default:
		if res.Count == 0 && err == nil {
			err = errStuck
		}
	}
	res.Bytes = res.Count * int64(l.Size)
	return res, err
}

// http2Idle opens tunnels and measures the memory that they add. Neither the
// connections count, nor what their first streams make a proxy allocate.
func (t *trial) http2Idle(m measure) (map[string]float64, error) {
	open := func(n int) (int64, error) {
		if err := t.do(&result{}, job{Kind: m.kind, Size: m.size, Conns: n}); err != nil {
			return 0, err
		}
		return t.settled()
	}
	const first = 2 * streamConns
	before, err := open(first)
	if err != nil {
		return nil, err
	}
	few, many := fewStreams, manyStreams
	if t.quick {
		few, many = first+10, first+20
	}
	values := map[string]float64{}
	for _, step := range []struct {
		name string
		n    int
	}{{"few", few}, {"many", many}} {
		now, err := open(step.n)
		if err != nil {
			return nil, err
		}
		values[step.name] = float64(now-before) / float64(step.n-first) / 1e3
	}
	return values, nil
}
