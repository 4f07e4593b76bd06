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
	slots       []*half // an epoll event carries firstHalf minus the slot's number
	free        []int32 // unused slot numbers
	generation  int32   // the last one given; it tells users of the same slot apart
	first, last *half   // the queue, by half.next
	idle        []*worker
	coming      bool // a worker is on its way to the queue
	over        bool // the loop has ended
}

// maxIdle is how many idle workers a crew keeps. Their stacks have grown already;
// that of a new goroutine grows while it enters crypto/tls, which takes 1 to 2 µs.
const maxIdle = 2

// add watches the socket of h. The first events may come before add returns.
func (c *crew) add(l *loop, h *half) (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.free) == 0 {
		c.slots = append(c.slots, nil)
		c.free = append(c.free, int32(len(c.slots)-1))
	}
	slot := c.free[len(c.free)-1]
	c.generation++
	h.slot, h.generation = slot, c.generation
	event := h.events()
	if controlErr := h.control(func(fd uintptr) { err = l.watch(int(fd), event) }); controlErr != nil {
		err = controlErr
	}
	if err == nil {
		c.free = c.free[:len(c.free)-1]
		c.slots[slot] = h
	}
	return err
}

// events returns what epoll is to report for h.
func (h *half) events() syscall.EpollEvent {
	return syscall.EpollEvent{Fd: firstHalf - h.slot, Pad: h.generation,
		Events: syscall.EPOLLIN | syscall.EPOLLRDHUP | syscall.EPOLLPRI | epollET}
}

// awaitRoom makes epoll report when the plain socket of h is writable, once and for
// all. It reports the events that are already pending, too.
func (h *half) awaitRoom() error {
	event := h.events()
	event.Events |= syscall.EPOLLOUT
	return os.NewSyscallError("epoll_ctl", syscall.EpollCtl(h.relay.loop.epfd, syscall.EPOLL_CTL_MOD, h.plain.fd, &event))
}

// remove frees the slot of h.
func (c *crew) remove(h *half) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slots[h.slot] = nil
	c.free = append(c.free, h.slot)
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
		h := c.slots[firstHalf-event.Fd]
		if h == nil || h.generation != event.Pad {
			continue // it was removed after epoll returned the event
		}
		if h.event(event.Events) {
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
	if last := len(c.idle) - 1; last >= 0 {
		c.idle[last].called <- struct{}{}
		c.idle = c.idle[:last]
	} else {
		go c.work()
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
func (c *crew) work() {
	w := newWorker()
	c.mu.Lock()
	c.coming = false
	for {
		if h := c.first; h != nil {
			if c.first, h.next = h.next, nil; c.first == nil {
				c.last = nil // the Proxy still refers to the crew
			}
			c.call()
			c.mu.Unlock()
			h.turn(w)
			c.mu.Lock()
			continue
		}
		w.giveBack()
		if c.over || len(c.idle) == maxIdle {
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

// A worker is a goroutine of a crew. It holds no buffer while it is idle.
type worker struct {
	called   chan struct{} // closed when the crew is dismissed
	small    *buffer
	bulk     *bulkBuffer
	inquire  func(fd uintptr) bool // sets received; bound once
	received int32
}

// A bulkBuffer is the buffer for flows that have moved much.
type bulkBuffer [128 << 10]byte

var bulkBuffers = sync.Pool{New: func() any { return new(bulkBuffer) }}

func newWorker() *worker {
	w := &worker{called: make(chan struct{}, 1)}
	w.inquire = func(fd uintptr) bool {
		w.received = received(fd)
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
