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

// loops are the event loops of a Proxy, one for each processor. A loop runs as
// long as it has relays, and loopLinger longer.
type loops struct {
	mu     sync.Mutex
	all    []*loop
	next   int
	hasten bool // loops end with their last relay
}

// loopLinger is how long a loop waits for another relay after its last, at
// least. It waits at most twice that long. To end and create a loop for each of
// many short tunnels cost a twentieth of their handshakes.
const loopLinger = time.Second

// close makes the loops end with their last relay, as the Proxy takes no more.
func (ls *loops) close() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.hasten = true
	for _, l := range ls.all {
		if l != nil {
			l.hurry()
		}
	}
}

// place counts a relay in the next loop in turn and returns that loop. If it
// cannot be created, place chooses any loop that runs. GOMAXPROCS can change at
// run time, and since Go 1.25 it follows a container's limit. If it falls, the
// surplus loops get no more relays, and end with their last one.
func (ls *loops) place() (*loop, error) {
	processors := runtime.GOMAXPROCS(0)
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for len(ls.all) < processors {
		ls.all = append(ls.all, nil)
	}
	ls.next %= processors
	l := &ls.all[ls.next]
	ls.next++
	if *l != nil && (*l).add() {
		return *l, nil
	}
	fresh, err := newLoop()
	if err != nil {
		for _, other := range ls.all {
			if other != nil && other.add() {
				return other, nil
			}
		}
		return nil, err
	}
	fresh.hasten = ls.hasten
	fresh.add()
	go fresh.run()
	*l = fresh
	return fresh, nil
}

// A loop moves the bytes of many tunnels on one goroutine. It waits for its epoll
// instance in the runtime's poller, so that an idle loop is a parked goroutine
// and holds no thread. A busy loop saves the scheduler's work of waking a
// goroutine for each socket.
type loop struct {
	file *os.File // the epoll instance
	epfd int
	raw  syscall.RawConn
	wake int // an eventfd, for post

	mu     sync.Mutex
	live   int          // relays
	fresh  []*loopRelay // registered, and not in slots yet
	free   []int32      // unused slot numbers
	top    int32        // the least slot number that was never used
	last   int32        // the number of the last registration
	posted []*loopRelay // for run to process
	parked bool         // run may be waiting: post must wake it
	used   bool         // a relay was added since the loop last began to linger
	hasten bool         // it does not linger
	ended  bool         // it has lingered, and run returns

	crew crew // moves the bytes of tunnels with TLS

	// Only run uses these:
	slots  []*loopRelay // by slot number, which an epoll event carries with the side
	idle   bool         // there was no relay when take last looked
	linger lingering
	taken  []*loopRelay
	ready  []*socket // these have more to read than one turn allows
	turn   []*socket
	events [128]syscall.EpollEvent
	n      int         // how many events poll has returned
	buffer *loopBuffer // nil while the loop waits
}

// lingering is what a loop without relays waits for.
//
//	none    → begun    park: the read deadline is set
//	begun   → expired  park: the deadline has passed, and is removed
//	expired → none     take: a relay was added meanwhile
type lingering uint8

const (
	none lingering = iota
	begun
	expired
)

const (
	wakeSlot  = -1      // the eventfd
	noSlot    = -2      // a socket that is reserved and not registered
	firstHalf = -3      // this and all lower numbers are for the crew
	epollET   = 1 << 31 // syscall.EPOLLET is negative
)

func newLoop() (*loop, error) {
	epfd, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("epoll_create1", err)
	}
	syscall.SetNonblock(epfd, true) // otherwise os.NewFile does not register it with the poller
	l := &loop{file: os.NewFile(uintptr(epfd), "epoll"), epfd: epfd}
	wake, _, errno := syscall.Syscall(syscall.SYS_EVENTFD2, 0, syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if errno != 0 {
		l.file.Close()
		return nil, os.NewSyscallError("eventfd2", errno)
	}
	l.wake = int(wake)
	l.raw, err = l.file.SyscallConn()
	if err == nil {
		err = l.file.SetReadDeadline(time.Time{}) // fails if the poller has refused it
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

// add counts a relay of the loop, unless the loop has ended.
func (l *loop) add() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false
	}
	l.live++
	l.used = true
	return true
}

// post asks run to process r.
func (l *loop) post(r *loopRelay, what uint32) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended { // wake is closed, and its number may be another descriptor by now
		return
	}
	before := r.asked
	r.asked |= what
	if before == 0 && r.state != placed {
		l.tell(r)
	}
}

// tell makes run process r. l.mu is held.
func (l *loop) tell(r *loopRelay) {
	l.posted = append(l.posted, r)
	l.rouse()
}

// rouse wakes run if it waits. l.mu is held.
func (l *loop) rouse() {
	if l.parked {
		l.parked = false
		syscall.Write(l.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
}

// hurry makes the loop end with its last relay.
func (l *loop) hurry() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hasten = true
	if !l.ended {
		l.rouse()
	}
}

// run runs the loop until it has lingered after its last relay.
func (l *loop) run() {
	defer l.close()
	defer l.giveBack() // the Proxy still refers to the loop
	defer l.crew.dismiss()
	poll := l.poll
	for busy := 0; ; busy++ {
		park, more := l.take()
		if !more {
			return
		}
		for _, r := range l.taken {
			r.process()
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
			l.park(poll)
		} else {
			if busy%16 == 15 {
				runtime.Gosched()
			}
			l.poll(uintptr(l.epfd))
		}
		l.dispatch()
	}
}

// park waits for an event. If the loop has no relay, it waits for the linger time
// at most. The deadline is not removed when a relay comes, because setting it
// anew for each of many short tunnels costs more than one useless wake-up.
func (l *loop) park(poll func(uintptr) bool) {
	if l.idle && l.linger == none {
		l.linger = begun
		l.file.SetReadDeadline(time.Now().Add(loopLinger))
	}
	if l.raw.Read(poll) != nil {
		l.linger = expired
		l.file.SetReadDeadline(time.Time{})
	}
}

// take takes the posted relays. It reports whether run has nothing to do until it
// is woken, and whether the loop continues.
func (l *loop) take() (park, more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.install()
	clear(l.taken)
	l.taken, l.posted = l.posted, l.taken[:0]
	for _, r := range l.taken {
		r.todo |= r.asked
		r.asked = 0
	}
	l.idle = l.live == 0
	if l.linger == expired && l.used {
		l.linger, l.used = none, false
	}
	l.ended = l.idle && (l.hasten || l.linger == expired)
	l.parked = !l.ended && len(l.taken) == 0 && len(l.ready) == 0
	return l.parked, !l.ended
}

// poll gets the events that are ready. The runtime's poller calls it when the
// epoll instance may be readable, and waits if it returns false. The system call
// does not block, so poll makes it without telling the scheduler.
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
	case noSlot: // an error or a hangup; register makes epoll report it again
		return
	}
	s := l.socket(event)
	if s == nil || s.fd < 0 {
		return // it was closed after epoll returned the event
	}
	// A read stops at urgent data, even if there is more behind it.
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

// release counts one relay fewer and frees its slot.
func (l *loop) release(r *loopRelay) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.live--
	if r.number != 0 {
		l.slots[r.slot] = nil
		l.free = append(l.free, r.slot)
		r.number = 0
	}
}

// dismiss is release for a relay that was never posted. Another goroutine calls
// it while run may be waiting. If the relay was the last, nothing else would wake
// run, and it would never return.
func (l *loop) dismiss() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.live--
	l.rouse()
}
