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
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	p := &pace{
		load: l, active: active, message: clientFrame(l.Size), size: len(serverFrame(l.Size)),
		left: make([]int, len(active)), due: make([][]time.Time, len(active)),
		took: make([][]time.Duration, max(l.Window/l.Slot, 1)),
	}
	if err := p.run(epoll); err != nil {
		return res, err
	}
	err = l.end(&res)
	res.Window = l.Window
	if l.Rate == 0 {
		if err := p.finish(); err != nil {
			return res, err
		}
	}
	for _, times := range p.took {
		res.Count += int64(len(times))
	}
	if res.Count == 0 {
		return res, errStuck
	}
	res.P50, res.P99, res.P999 = usual(p.took, 0.5), usual(p.took, 0.99), usual(p.took, 0.999)
	return res, err
}

// A pace is a run of paced messages.
type pace struct {
	*load
	active      []*client
	message     []byte
	size        int               // of an echo
	left        []int             // by client: how much of an echo has not come
	due         [][]time.Time     // by client: when the messages were due whose echoes have not come
	waiting     int               // the number of these messages
	from, until time.Time         // the window
	took        [][]time.Duration // by slot
}

// run sends messages and takes their echoes until the window has ended. At a fixed
// rate it then waits for the last echoes.
func (p *pace) run(epoll int) error {
	start := time.Now()
	p.from, p.until = start.Add(p.Warm), start.Add(p.Warm+p.Window)
	interval := time.Hour
	if p.Rate > 0 {
		interval = time.Duration(float64(time.Second) / p.Rate)
	} else {
		for i := range p.active {
			if err := p.send(i, start); err != nil {
				return err
			}
		}
	}
	next, turn, measuring := start.Add(min(interval, time.Second)), 0, false
	for {
		now := time.Now()
		if !measuring && now.After(p.from) {
			measuring = true
			if err := p.begin(); err != nil {
				return err
			}
		}
		if now.After(p.until) && (p.waiting == 0 || p.Rate == 0 || now.Sub(p.until) > stuck) {
			return nil
		}
		for ; p.Rate > 0 && !next.After(now) && next.Before(p.until); next = next.Add(interval) {
			if err := p.send(turn, next); err != nil {
				return err
			}
			turn = (turn + 1) % len(p.active)
		}
		wait := time.Millisecond
		if p.Rate > 0 && next.Before(p.until) {
			wait = min(wait, time.Until(next))
		}
		n, err := pollFor(epoll, p.ready, max(wait, 0))
		if err != nil {
			return err
		}
		for _, event := range p.ready[:n] {
			if event.Fd < 0 {
				err = p.echo.turn(0)
			} else {
				err = p.receive(int(event.Fd))
			}
			if err != nil {
				return err
			}
		}
	}
}

// send sends a message that is due at a time through client i, unless that waits for
// an echo. Then receive sends it.
func (p *pace) send(i int, at time.Time) error {
	p.waiting++
	if p.due[i] = append(p.due[i], at); len(p.due[i]) > 1 {
		return nil
	}
	return p.write(i)
}

func (p *pace) write(i int) error {
	p.left[i] = p.size
	_, err := p.active[i].Write(p.message)
	return err
}

// receive takes what has come of an echo to client i. If that is all of it, the
// client sends its next message.
func (p *pace) receive(i int) error {
	n, err := p.active[i].take(p.buf, p.left[i], false)
	if err == errAgain {
		return nil
	}
	if err != nil {
		return err
	}
	if p.left[i] -= n; p.left[i] > 0 {
		return nil
	}
	now, at := time.Now(), p.due[i][0]
	p.due[i] = slices.Delete(p.due[i], 0, 1)
	p.waiting--
	if !at.Before(p.from) && at.Before(p.until) {
		slot := min(int(at.Sub(p.from)/p.Slot), len(p.took)-1)
		p.took[slot] = append(p.took[slot], now.Sub(at))
	}
	if p.Rate == 0 {
		return p.send(i, now)
	}
	if len(p.due[i]) > 0 {
		return p.write(i)
	}
	return nil
}

// finish waits for the echoes that have not come.
func (p *pace) finish() (err error) {
	for i, c := range p.active {
		for p.left[i] > 0 {
			if p.left[i], err = p.more(c, p.left[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// more waits for more of an echo and returns how much is left of it.
func (l *load) more(c *client, left int) (int, error) {
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
