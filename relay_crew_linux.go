//go:build !386 && !s390x && !wsproxy_portable

package wsproxy

import (
	"os"
	"sync"
	"syscall"
)

// A crew is the workers of a loop: goroutines that drive the halves which have
// something to do. A half may make its worker wait, for the rest of a TLS record
// or for a slow peer. So as long as halves are queued, one worker is on its way to
// the queue. A worker that takes a half and leaves others behind calls the next
// worker first. On one processor that one gets to run only when the first waits
// or the queue is empty, so a single worker drives all halves that do not wait.
type crew struct {
	mu          sync.Mutex
	slots       []crewSlot
	free        []int32 // unused slot numbers
	generation  int32   // the last one given
	first, last *half   // the queue, by half.next
	workers     []*worker
	idle        []*worker // the workers that wait to be called
	turn        int       // the worker that relieve chose last
	coming      bool      // a worker is on its way to the queue
	over        bool      // the loop has ended
}

// maxIdle is how many idle workers a crew keeps. Their stacks have grown already;
// that of a new goroutine grows while it enters crypto/tls, which takes 1 to 2 µs.
const maxIdle = 2

// maxBusy is how many workers may be busy before each further one interrupts one
// that waits for the rest of a TLS record. Each holds some 35 kB of stack and
// buffer.
const maxBusy = 64

// A watched is the user of a slot: a half or a loopConn. event handles the events
// of its socket. It returns the half if that must be queued, and otherwise nil. The
// crew's mu is held.
type watched interface {
	event(events uint32) *half
}

type crewSlot struct {
	user       watched // nil: the slot is free
	generation int32
}

// A watch names a slot and its user in an epoll event. The generation tells the
// user from others that have had the slot.
type watch struct{ slot, generation int32 }

// on returns the argument with which epoll reports these events, the end of the
// stream and urgent data.
func (w watch) on(events uint32) syscall.EpollEvent {
	return syscall.EpollEvent{Fd: firstHalf - w.slot, Pad: w.generation,
		Events: events | syscall.EPOLLRDHUP | syscall.EPOLLPRI | epollET}
}

// enter gives user a slot.
func (c *crew) enter(user watched) watch {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.free) == 0 {
		c.slots = append(c.slots, crewSlot{})
		c.free = append(c.free, int32(len(c.slots)-1))
	}
	slot := c.free[len(c.free)-1]
	c.free = c.free[:len(c.free)-1]
	c.generation++
	c.slots[slot] = crewSlot{user, c.generation}
	return watch{slot, c.generation}
}

// replace gives the slot of w to another user.
func (c *crew) replace(w watch, user watched) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slots[w.slot].user = user
}

// remove frees the slot of w.
func (c *crew) remove(w watch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slots[w.slot].user = nil
	c.free = append(c.free, w.slot)
}

// join watches the socket of h. The first events may come before join returns.
func (h *half) join() error {
	l := h.relay.loop
	h.watch = l.crew.enter(h)
	var err error
	controlErr := h.control(func(fd uintptr) { err = l.watch(int(fd), h.watch.on(syscall.EPOLLIN)) })
	if controlErr != nil {
		err = controlErr
	}
	if err != nil {
		l.crew.remove(h.watch)
	}
	return err
}

// awaitRoom makes epoll report when the plain socket of h is writable, once and for
// all. It reports the events that are already pending, too.
func (h *half) awaitRoom() error {
	event := h.watch.on(syscall.EPOLLIN | syscall.EPOLLOUT)
	return os.NewSyscallError("epoll_ctl", syscall.EpollCtl(h.relay.loop.epfd, syscall.EPOLL_CTL_MOD, h.plain.fd, &event))
}

// dispatch handles the events of one poll.
func (l *loop) dispatch() {
	halves := false
	for i := range l.n {
		if event := &l.events[i]; event.Fd > firstHalf {
			l.handle(event)
		} else {
			halves = true
		}
	}
	if halves {
		l.crew.deliver(l.events[:l.n])
	}
}

// deliver passes on those of the events that are for halves.
func (c *crew) deliver(events []syscall.EpollEvent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range events {
		event := &events[i]
		if event.Fd > firstHalf {
			continue
		}
		s := c.slots[firstHalf-event.Fd]
		if s.user == nil || s.generation != event.Pad {
			continue // it was removed after epoll returned the event
		}
		if h := s.user.event(event.Events); h != nil {
			c.push(h)
		}
	}
	c.call()
}

// queue queues halves, which are busy.
func (c *crew) queue(halves ...*half) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range halves {
		c.push(h)
	}
	c.call()
}

// push queues h. c.mu is held.
func (c *crew) push(h *half) {
	if c.first == nil {
		c.first = h
	} else {
		c.last.next = h
	}
	c.last = h
}

// call calls a worker if the queue needs one. c.mu is held.
func (c *crew) call() {
	if c.first == nil || c.coming {
		return
	}
	c.coming = true
	if c.busy() >= maxBusy {
		c.relieve()
	}
	if last := len(c.idle) - 1; last >= 0 {
		c.idle[last].called <- struct{}{}
		c.idle = c.idle[:last]
	} else {
		w := newWorker()
		w.index = len(c.workers)
		c.workers = append(c.workers, w)
		go c.work(w)
	}
}

func (c *crew) busy() int { return len(c.workers) - len(c.idle) }

// relieve interrupts the read of a worker, the next one in turn that waits in a
// read. Otherwise a client could occupy any number of workers, each with the first
// byte of a record. crypto/tls keeps what has come of the record, and the rest
// causes an event. It looks at few workers at a time, because all of them may wait
// in a write. c.mu is held.
func (c *crew) relieve() {
	for range 16 {
		c.turn = (c.turn + 1) % len(c.workers)
		if h := c.workers[c.turn].half; h != nil && h.secure != nil && h.secure.waiter.wake() {
			return
		}
	}
}

// dismiss ends the workers of a loop that has ended.
func (c *crew) dismiss() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	for _, w := range c.idle {
		close(w.called)
	}
	c.idle = nil
}

// work is the goroutine of a worker.
func (c *crew) work(w *worker) {
	c.mu.Lock()
	c.coming = false
	for {
		surplus := c.busy() > maxBusy && c.coming // another worker is on its way to the queue
		if h := c.first; h != nil && !surplus {
			if c.first, h.next = h.next, nil; c.first == nil {
				c.last = nil // the Proxy still refers to the crew
			}
			c.call()
			w.half = h
			c.mu.Unlock()
			h.turn(w)
			c.mu.Lock()
			w.half = nil
			continue
		}
		if c.busy() > maxBusy { // a call found no read to interrupt
			c.relieve()
		}
		w.giveBack()
		if c.over || len(c.idle) == maxIdle {
			c.leave(w)
			c.mu.Unlock()
			return
		}
		c.idle = append(c.idle, w)
		c.mu.Unlock()
		<-w.called
		c.mu.Lock()
		c.coming = false
	}
}

// leave removes w from the workers. c.mu is held.
func (c *crew) leave(w *worker) {
	last := len(c.workers) - 1
	moved := c.workers[last]
	c.workers[w.index], moved.index = moved, w.index
	c.workers[last] = nil
	c.workers = c.workers[:last]
}

// A worker is a goroutine of a crew. It holds no buffer while it is idle.
type worker struct {
	called   chan struct{} // closed when the crew is dismissed
	half     *half         // what it drives; guarded by crew.mu
	index    int           // in crew.workers
	small    *buffer
	bulk     *bulkBuffer
	inquire  func(fd uintptr) bool // sets received; bound once
	unsure   bool                  // that of the half, for inquire
	received int32
}

// A bulkBuffer is the buffer for flows that have moved much.
type bulkBuffer [128 << 10]byte

var bulkBuffers = sync.Pool{New: func() any { return new(bulkBuffer) }}

func newWorker() *worker {
	w := &worker{called: make(chan struct{}, 1)}
	w.inquire = func(fd uintptr) bool {
		if w.received = received(fd); w.received == 0 && w.unsure && readable(fd) {
			w.received = 1
		}
		return true
	}
	return w
}

// buffer returns the buffer for the bytes of one read.
func (w *worker) buffer(bulk bool) []byte {
	if bulk {
		if w.bulk == nil {
			w.bulk = bulkBuffers.Get().(*bulkBuffer)
		}
		return w.bulk[:]
	}
	if w.small == nil {
		w.small = getBuffer()
	}
	return w.small[:]
}

func (w *worker) giveBack() {
	if w.small != nil {
		putBuffer(w.small)
		w.small = nil
	}
	if w.bulk != nil {
		bulkBuffers.Put(w.bulk)
		w.bulk = nil
	}
}
