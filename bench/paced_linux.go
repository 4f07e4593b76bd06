package main

import (
	"runtime/debug"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// tail finds how many messages a second a proxy echoes at most, with idle tunnels
// beside, and measures latencies at a half and at four fifths of that. The first
// proxy of a round sets the rates for the others.
func (t *trial) tail(m measure) (map[string]float64, error) {
	j := job{Kind: "paced", Size: m.size, Window: t.window, Warm: t.window / 4, Slot: collectEvery}
	if j.Conns = m.conns; t.quick {
		j.Conns = min(j.Conns, 16)
	}
	j.Idle = min(t.tunnels(manyTunnels), t.tunnels(1<<30)-j.Conns)
	j.Conns += j.Idle
	var res result
	if err := t.do(&result{}, job{Kind: "open", Size: m.size, Conns: j.Conns}); err != nil {
		return nil, err
	}
	if err := t.do(&res, j); err != nil {
		return nil, err
	}
	most := float64(res.Count) / res.Window.Seconds()
	values := map[string]float64{"rate": most}
	if t.pace == 0 {
		t.pace = most
	}
	for _, share := range []struct {
		name string
		of   float64
	}{{"50", 0.5}, {"80", 0.8}} {
		j.Rate, j.Window = share.of*t.pace, 6*t.window
		var res result
		if err := t.do(&res, j); err != nil {
			return nil, err
		}
		values["p99-"+share.name] = float64(res.P99.Nanoseconds()) / 1e3
		values["p999-"+share.name] = float64(res.P999.Nanoseconds()) / 1e3
	}
	return values, nil
}

// paced sends messages at a fixed rate, through the clients that are not idle in
// turn. A message that is due while its connection still waits for an echo is
// sent after that. Its time counts from when it was due: a stall also delays the
// messages behind it, and none of them is left out. Without a rate, each client
// sends as soon as the last message has come back.
//
// One thread is clients and upstream. Two processes on one core delayed each other
// by up to a turn of the scheduler, which is longer than a proxy takes.
//
// A quantile is the median over slots of the time, so that a machine that stops for
// 10 ms affects one slot.
func (l *load) paced() (res result, err error) {
	if err := l.openAll(echoPath, 16); err != nil {
		return res, err
	}
	active := l.clients[l.Idle:]
	epoll, err := watch(active)
	defer unix.Close(epoll)
	if err != nil {
		return res, err
	}
	if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, l.echo.epoll, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: -1}); err != nil {
		return res, err
	}
	l.echoing.Lock()
	defer l.echoing.Unlock()
	message, size := clientFrame(l.Size), len(serverFrame(l.Size))
	left, due := make([]int, len(active)), make([][]time.Time, len(active))
	send := func(i int, at time.Time) error {
		if due[i] = append(due[i], at); len(due[i]) > 1 {
			return nil
		}
		left[i] = size
		_, err := active[i].Write(message)
		return err
	}
	start := time.Now()
	from, until := start.Add(l.Warm), start.Add(l.Warm+l.Window)
	interval := time.Hour
	if l.Rate > 0 {
		interval = time.Duration(float64(time.Second) / l.Rate)
	} else {
		for i := range active {
			if err := send(i, start); err != nil {
				return res, err
			}
		}
	}
	took := make([][]time.Duration, max(l.Window/l.Slot, 1)) // by slot
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	next, turn, waiting, measuring := start.Add(min(interval, time.Second)), 0, 0, false
	for {
		now := time.Now()
		if !measuring && now.After(from) {
			measuring = true
			if err := l.begin(); err != nil {
				return res, err
			}
		}
		if now.After(until) && (waiting == 0 || l.Rate == 0 || now.Sub(until) > stuck) {
			break
		}
		for ; l.Rate > 0 && !next.After(now) && next.Before(until); next = next.Add(interval) {
			if err := send(turn, next); err != nil {
				return res, err
			}
			turn = (turn + 1) % len(active)
			waiting++
		}
		wait := time.Millisecond
		if l.Rate > 0 && next.Before(until) {
			wait = min(wait, time.Until(next))
		}
		n, err := pollFor(epoll, l.ready, max(wait, 0))
		if err != nil {
			return res, err
		}
		for _, event := range l.ready[:n] {
			i := int(event.Fd)
			if i < 0 {
				if err := l.echo.turn(0); err != nil {
					return res, err
				}
				continue
			}
			n, err := active[i].take(l.buf, left[i], false)
			if err == errAgain {
				continue
			}
			if err != nil {
				return res, err
			}
			if left[i] -= n; left[i] > 0 {
				continue
			}
			now, at := time.Now(), due[i][0]
			due[i] = slices.Delete(due[i], 0, 1)
			waiting--
			if !at.Before(from) && at.Before(until) {
				slot := min(int(at.Sub(from)/l.Slot), len(took)-1)
				took[slot] = append(took[slot], now.Sub(at))
				res.Count++
			}
			if l.Rate == 0 {
				err = send(i, now)
			} else if len(due[i]) > 0 {
				left[i] = size
				_, err = active[i].Write(message)
			}
			if err != nil {
				return res, err
			}
		}
	}
	err = l.end(&res)
	res.Window = l.Window
	for i := range due { // closed-loop messages that are still under way
		for l.Rate == 0 && len(due[i]) > 0 && left[i] > 0 {
			if left[i], err = l.finish(active[i], left[i]); err != nil {
				return res, err
			}
		}
	}
	if res.Count == 0 {
		return res, errStuck
	}
	res.P50, res.P99, res.P999 = usual(took, 0.5), usual(took, 0.99), usual(took, 0.999)
	return res, err
}

// finish waits for more of an echo and returns how much is left of it.
func (l *load) finish(c *client, left int) (int, error) {
	for begun := time.Now(); ; {
		if err := l.echo.turn(0); err != nil {
			return left, err
		}
		n, err := c.take(l.buf, left, false)
		switch {
		case err == nil:
			return left - n, nil
		case err != errAgain:
			return left, err
		case time.Since(begun) > stuck:
			return left, errStuck
		}
		unix.Poll([]unix.PollFd{{Fd: int32(c.socket.fd), Events: unix.POLLIN}}, 1)
	}
}

// pollFor waits for events, as exactly as the kernel can.
func pollFor(epoll int, events []unix.EpollEvent, wait time.Duration) (int, error) {
	limit := unix.NsecToTimespec(wait.Nanoseconds())
	n, _, errno := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT2, uintptr(epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)),
		uintptr(unsafe.Pointer(&limit)), 0, 0)
	if errno != 0 && errno != unix.EINTR {
		return 0, errno
	}
	if errno != 0 {
		return 0, nil
	}
	return int(n), nil
}
