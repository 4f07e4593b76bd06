//go:build !386 && !s390x && !wsproxy_portable

package wsproxy

import (
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

// loops are the event loops of a Proxy, one for each processor. A loop runs
// while it has relays.
type loops struct {
	mu   sync.Mutex
	all  []*loop
	next int
}

// place gives r to the loop whose turn it is, or, where that cannot be created,
// to any that runs. GOMAXPROCS changes at run time, since Go 1.25 by itself
// with a container's limit. With fewer processors the loops beyond get no more
// relays, and end with those they have.
func (ls *loops) place(r *loopRelay) error {
	processors := runtime.GOMAXPROCS(0)
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for len(ls.all) < processors {
		ls.all = append(ls.all, nil)
	}
	ls.next %= processors
	l := &ls.all[ls.next]
	ls.next++
	if *l != nil && (*l).add(r) {
		return nil
	}
	fresh, err := newLoop()
	if err != nil {
		for _, other := range ls.all {
			if other != nil && other.add(r) {
				return nil
			}
		}
		return err
	}
	fresh.add(r)
	go fresh.run()
	*l = fresh
	return nil
}

// A loop moves the bytes of many tunnels on one goroutine. Its epoll instance
// is itself waited for in the runtime's poller: an idle loop is a parked
// goroutine and holds no thread, and a busy one does not pay for the poller's
// way to a goroutine of each socket's own.
type loop struct {
	file *os.File // the epoll instance
	epfd int
	raw  syscall.RawConn
	wake int // an eventfd, for post

	mu     sync.Mutex
	live   int          // relays
	posted []*loopRelay // for run to see to
	parked bool         // run may be waiting: post has to wake it
	ended  bool         // no more relays

	// Of run alone:
	slots      []*socket // by number, which epoll hands back
	free       []int32   // numbers not in use
	generation int32     // of the last number given: a number is used again
	taken      []*loopRelay
	ready      []*socket // with more to read than one turn allows
	turn       []*socket
	events     [128]syscall.EpollEvent
	n          int         // of events
	buffer     *loopBuffer // nil while the loop waits
}

// A loopBuffer takes what one read brings. The more that is, the fewer times
// the other end of a bulk transfer is woken for the room in its window, which
// is what large messages cost most.
type loopBuffer [512 << 10]byte

var loopBuffers = sync.Pool{New: func() any { return new(loopBuffer) }}

const (
	wakeSlot = -1      // the eventfd's
	noSlot   = -2      // of a socket that is reserved
	epollET  = 1 << 31 // syscall.EPOLLET is negative
)

func newLoop() (*loop, error) {
	epfd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	syscall.SetNonblock(epfd, true) // or os.NewFile would not give it to the poller
	l := &loop{file: os.NewFile(uintptr(epfd), "epoll"), epfd: epfd}
	wake, _, errno := syscall.Syscall(syscall.SYS_EVENTFD2, 0, syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if errno != 0 {
		l.file.Close()
		return nil, os.NewSyscallError("eventfd2", errno)
	}
	l.wake = int(wake)
	l.raw, err = l.file.SyscallConn()
	if err == nil {
		err = l.file.SetReadDeadline(time.Time{}) // fails where the poller has not taken it
	}
	if err == nil {
		err = l.watch(l.wake, syscall.EpollEvent{Events: syscall.EPOLLIN | epollET, Fd: wakeSlot})
	}
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *loop) close() {
	l.file.Close()
	syscall.Close(l.wake)
}

func (l *loop) watch(fd int, event syscall.EpollEvent) error {
	return os.NewSyscallError("epoll_ctl", syscall.EpollCtl(l.epfd, syscall.EPOLL_CTL_ADD, fd, &event))
}

func (l *loop) unwatch(fd int) {
	syscall.EpollCtl(l.epfd, syscall.EPOLL_CTL_DEL, fd, new(syscall.EpollEvent))
}

// reserve has epoll accept both sockets of a relay, or neither. It reports no
// events of them before register. The system refuses a watch for want of memory
// or beyond max_user_watches (epoll(7)), and here that is known while the
// portable relay can still take the connections. Like post, it is not run's:
// epoll has locks of its own.
func (l *loop) reserve(client, upstream int) error {
	quiet := syscall.EpollEvent{Fd: noSlot, Events: epollET}
	if err := l.watch(client, quiet); err != nil {
		return err
	}
	err := l.watch(upstream, quiet)
	if err != nil {
		l.unwatch(client) // the connection stays open, and its watch with it
	}
	return err
}

// add counts r among the loop's relays, unless the loop has ended.
func (l *loop) add(r *loopRelay) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false
	}
	l.live++
	r.loop = l
	return true
}

// post has run see to r.
func (l *loop) post(r *loopRelay, what uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended { // and the number of wake may be another's by now
		return
	}
	if r.asked == 0 {
		l.posted = append(l.posted, r)
	}
	r.asked |= what
	l.rouse()
}

// rouse has run take what is new, if it waits. l.mu is held.
func (l *loop) rouse() {
	if l.parked {
		l.parked = false
		syscall.Write(l.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

// run is the loop, until its last relay has ended.
func (l *loop) run() {
	defer l.close()
	defer l.giveBack() // the Proxy keeps the loop
	poll := l.poll
	for busy := 0; ; busy++ {
		park, more := l.take()
		if !more {
			return
		}
		for _, r := range l.taken {
			r.see()
		}
		l.turn, l.ready = l.ready, l.turn[:0]
		for _, s := range l.turn {
			s.queued = false
			s.move()
		}
		clear(l.turn)
		l.n = 0
		if park {
			busy = 0
			l.giveBack()
			l.raw.Read(poll)
		} else {
			if busy%16 == 15 {
				runtime.Gosched()
			}
			l.poll(uintptr(l.epfd))
		}
		for i := range l.n {
			l.handle(&l.events[i])
		}
	}
}

// borrow gets the buffer for reads. A loop that waits has none: a process may
// have hundreds of proxies, each with a tunnel that is idle. The pool costs a
// busy loop some 20 ns each time it parks.
func (l *loop) borrow() {
	if l.buffer == nil {
		l.buffer = loopBuffers.Get().(*loopBuffer)
	}
}

func (l *loop) giveBack() {
	if l.buffer != nil {
		loopBuffers.Put(l.buffer)
		l.buffer = nil
	}
}

// take takes what was posted. It tells whether there is nothing to do but
// wait, and whether there is anything to come.
func (l *loop) take() (park, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	clear(l.taken)
	l.taken, l.posted = l.posted, l.taken[:0]
	for _, r := range l.taken {
		r.seeing |= r.asked
		r.asked = 0
	}
	l.ended = l.live == 0
	l.parked = !l.ended && len(l.taken) == 0 && len(l.ready) == 0
	return l.parked, !l.ended
}

// poll takes what events there are. It is called whenever the epoll instance
// may be readable; false waits for that. The call cannot block, so it need not
// tell the scheduler.
func (l *loop) poll(epfd uintptr) bool {
	n, _, errno := syscall.RawSyscall6(syscall.SYS_EPOLL_PWAIT, epfd,
		uintptr(unsafe.Pointer(&l.events[0])), uintptr(len(l.events)), 0, 0, 0)
	if errno != 0 {
		n = 0 // EINTR
	}
	l.n = int(n)
	return n > 0
}

func (l *loop) handle(event *syscall.EpollEvent) {
	switch event.Fd {
	case wakeSlot:
		var count [8]byte
		syscall.Read(l.wake, count[:])
		return
	case noSlot: // an error or a hangup, which register's event has again
		return
	}
	s := l.slots[event.Fd]
	if s == nil || s.generation != event.Pad {
		return // closed meanwhile
	}
	// A read stops at urgent data, however much there is behind it.
	if event.Events&(syscall.EPOLLRDHUP|syscall.EPOLLHUP|syscall.EPOLLERR|syscall.EPOLLPRI) != 0 {
		s.unsure, s.readable = true, true
	}
	if event.Events&syscall.EPOLLIN != 0 {
		s.readable = true
	}
	if event.Events&(syscall.EPOLLOUT|syscall.EPOLLHUP|syscall.EPOLLERR) != 0 {
		s.flush()
	}
	s.move()
}

// register gives s, which is reserved, a number and has epoll report its events,
// beginning with what there is already.
func (l *loop) register(s *socket) error {
	if len(l.free) == 0 {
		l.slots = append(l.slots, nil)
		l.free = append(l.free, int32(len(l.slots)-1))
	}
	s.slot = l.free[len(l.free)-1]
	l.generation++
	s.generation = l.generation
	err := syscall.EpollCtl(l.epfd, syscall.EPOLL_CTL_MOD, s.fd, &syscall.EpollEvent{Fd: s.slot, Pad: s.generation,
		Events: syscall.EPOLLIN | syscall.EPOLLOUT | syscall.EPOLLRDHUP | syscall.EPOLLPRI | epollET})
	if err != nil { // of no system that is in order
		s.generation = 0
		return os.NewSyscallError("epoll_ctl", err)
	}
	l.free = l.free[:len(l.free)-1]
	l.slots[s.slot] = s
	return nil
}

// forget frees the number of s.
func (l *loop) forget(s *socket) {
	if s.generation != 0 {
		l.slots[s.slot] = nil
		l.free = append(l.free, s.slot)
		s.generation = 0
	}
}

// release counts one relay less.
func (l *loop) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.live--
}

// dismiss is release for a relay that run has not seen. It may have been the
// last, while run waits: nothing else would wake run then to end.
func (l *loop) dismiss() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.live--
	l.rouse()
}
