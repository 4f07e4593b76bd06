package wsproxytest

import (
	"net/http"
	"runtime"
	"strings"
	"sync"
	"time"
)

// handlerWait is how long a Handler may take to return at the test's end.
const handlerWait = 5 * time.Second

// serverWait is how long a server's handler may take to return when a test in a
// synctest bubble ends, in the bubble's time. After that synctest panics. A handler
// that sleeps learns only when it wakes that its connection has ended.
const serverWait = time.Hour

// end ends everything with the test.
func (p *Proxy) end() {
	p.mu.Lock()
	p.over = true
	live := p.live
	p.mu.Unlock()

	p.entry.Close()
	for _, t := range live {
		t.stopNow()
	}
	p.front.Close()
	p.inner.Close()
	p.client.CloseIdleConnections()
	if p.back != nil {
		p.back.Close()
	}

	timeout := time.NewTimer(handlerWait)
	defer timeout.Stop()
	late := false
	for _, t := range live {
		for _, d := range t.to {
			if late || !d.awaitEnd(timeout.C) {
				late = true
				p.reportStuck(d)
			}
		}
	}
	if !late {
		wait := handlerWait
		if inBubble() {
			wait = serverWait
		}
		timeout.Reset(wait)
		select {
		case <-p.serving.zero():
		case <-timeout.C:
			p.t.Logf("wsproxytest: the server's handler has not returned %v after the end of the test", wait)
		}
	}
	p.report()
	p.closeLog()
}

// reportStuck fails the test if the direction's Handler has not returned.
func (p *Proxy) reportStuck(d *direction) {
	number := d.goroutine.Load()
	if number == nil {
		return
	}
	select {
	case <-d.finished:
		return
	default:
	}
	p.t.Errorf("wsproxytest: %s %d: the Handler for the %s's frames has not returned %v after the end of the test; it is at\n%s",
		d.t.target, d.t.nth, d.from, handlerWait, stackOf(*number))
}

// report logs the transcript and the seeds of a failed test.
func (p *Proxy) report() {
	if !p.t.Failed() {
		return
	}
	p.mu.Lock()
	seeds := strings.Join(p.seeds, ", ")
	p.mu.Unlock()
	if seeds != "" {
		p.t.Logf("wsproxytest: %s", seeds)
	}
	p.t.Logf("wsproxytest: %s", p.summary())
}

// shortened returns the transcript's text, or its beginning and its end if it is
// long.
func (t Transcript) shortened() string {
	const head, tail = 50, 150
	if len(t) <= head+tail {
		return t.String()
	}
	return t[:head].String() + "…\n" + t[len(t)-tail:].String()
}

// stackOf returns the stack of the goroutine with a number.
func stackOf(number string) string {
	b := make([]byte, 1<<20)
	for {
		n := runtime.Stack(b, true)
		if n < len(b) || len(b) >= 64<<20 {
			b = b[:n]
			break
		}
		b = make([]byte, 2*len(b))
	}
	for stack := range strings.SplitSeq(string(b), "\n\n") {
		if strings.HasPrefix(stack, "goroutine "+number+" ") {
			return stack
		}
	}
	return "an unknown place"
}

// A testLog writes to the test's log until the end of the test.
type testLog struct{ p *Proxy }

func (l testLog) Write(b []byte) (int, error) {
	l.p.logging.Lock()
	defer l.p.logging.Unlock()
	if !l.p.silent {
		l.p.t.Logf("wsproxytest: %s", strings.TrimSpace(string(b)))
	}
	return len(b), nil
}

// errorf fails the test, unless it has ended.
func (p *Proxy) errorf(format string, args ...any) {
	p.logging.Lock()
	defer p.logging.Unlock()
	if !p.silent {
		p.t.Errorf(format, args...)
	}
}

func (p *Proxy) closeLog() {
	p.logging.Lock()
	defer p.logging.Unlock()
	p.silent = true
}

// A tracker counts the requests that are being served.
type tracker struct {
	mu   sync.Mutex
	n    int
	wait chan struct{} // closed at 0
}

func (c *tracker) wrap(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.add(1)
		defer c.add(-1)
		h.ServeHTTP(w, r)
	})
}

func (c *tracker) add(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += n
	if c.n == 0 && c.wait != nil {
		close(c.wait)
		c.wait = nil
	}
}

// zero returns a channel that is closed once no request is being served.
func (c *tracker) zero() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	ch := make(chan struct{})
	if c.n == 0 {
		close(ch)
	} else {
		c.wait = ch
	}
	return ch
}
