package wsproxy

import (
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// lingerTime is how long a stream stays open for the client's last words after
// the upstream has closed its connection. END_STREAM ends both directions, and a
// client that gets it too early drops what it has not read yet: Firefox lost the
// last message 10 of 10 times.
const lingerTime = time.Second

// A streamRelay relays a tunnel whose client is a stream of an HTTP/2 or HTTP/3
// connection. The goroutine of the handler moves what the upstream sends and
// ends last, because its return ends the stream. Another one reads the stream.
//
// A stream has no half-close toward the client, and its reads cannot be woken: a
// read deadline that has passed ends them for good. So wake does not interrupt
// the reading goroutine but has the flow take nothing, under mu.
type streamRelay struct {
	t      *Tunnel
	stream *clientStream
	other  connRelay // has the upstream alone

	lingers bool          // the upstream has ended in order; of the handler's goroutine
	read    chan struct{} // closed when the reading goroutine has ended
	said    chan struct{} // closed when the client's Close frame has come

	mu    sync.Mutex // held while the client's flow takes bytes, which may wait for the upstream
	begun bool       // before that wake does nothing: begin sees what was asked

	short  sync.Mutex // guards what follows; never held while waiting
	isCut  bool       // the proxy has reset the stream
	broken error      // of a read of the stream: the client has reset it
	over   bool       // the handler may return: the stream must not be touched
	waking bool       // a goroutine of wakers waits for mu
	wakers sync.WaitGroup
}

func newStreamRelay(t *Tunnel, client *clientStream, upstream net.Conn) *streamRelay {
	r := &streamRelay{t: t, stream: client, read: make(chan struct{}), said: make(chan struct{})}
	r.other.t, r.other.upstream.conn = t, upstream
	return r
}

func (r *streamRelay) run() {
	t := r.t
	t.fromClient.dst = newSink(r.other.upstream.conn, &t.fromClient)
	t.fromUpstream.dst = &streamSink{r: r, f: &t.fromUpstream}
	if !r.cutAlready() { // by a hook, for instance: the client is to see no 200
		go r.readClient()
		r.other.drive(&t.fromUpstream, &r.other.upstream)
		if r.lingers {
			r.linger()
		}
		<-r.read
	}
	r.short.Lock()
	r.over = true
	r.short.Unlock()
	r.wakers.Wait()
	r.other.close()
}

// start is not for streams, which end when the handler returns.
func (r *streamRelay) start() { panic("wsproxy: a stream cannot be detached") }

// linger waits for the client's last words and then stops reading. It is over
// before the close timeout, which would reset the stream.
func (r *streamRelay) linger() {
	wait := lingerTime
	if limit := r.t.p.closeTimeout; limit > 0 {
		wait = min(wait, limit/2)
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-r.read:
	case <-r.said:
	case <-timer.C:
	}
	r.endClient()
}

// endClient ends the client's flow where it is: a take that waits for the
// upstream by closing that, and a read by a deadline in the past, whatever
// middleware has put round the body.
func (r *streamRelay) endClient() {
	if !r.mu.TryLock() {
		r.other.cutLater(r.other.upstream.conn)
		r.mu.Lock()
	}
	r.t.fromClient.state = ended
	r.mu.Unlock()
	r.stream.w.SetReadDeadline(longAgo)
}

// readClient relays the client's flow until it has ended.
func (r *streamRelay) readClient() {
	defer close(r.read)
	f := &r.t.fromClient
	in := &connSource{conn: r.stream.body}
	r.mu.Lock()
	r.begun = true
	f.begin()
	r.noteClose()
	more := f.state != ended
	r.mu.Unlock()
	for more {
		p, err := in.read()
		if err != nil && err != io.EOF {
			err = r.broke(err)
		}
		more = r.take(p, err)
		in.release()
	}
}

// broke notes that a read has failed and returns why.
func (r *streamRelay) broke(err error) error {
	r.short.Lock()
	defer r.short.Unlock()
	r.broken = err
	if r.isCut {
		return net.ErrClosed // the proxy's own doing
	}
	return err
}

// resetTime is how long the end of a request's context may come before the
// reading goroutine has seen the reset of the stream that caused it.
const resetTime = 100 * time.Millisecond

// wasReset reports whether the stream was reset, by the client or by the proxy.
// That ends the request's context too, and either of the two may be seen first.
//
// The reading goroutine passes the reset on, unless it has to wait for mu, which is
// held while a frame of the proxy waits for an upstream that does not read. Then
// wasReset passes it on.
func (r *streamRelay) wasReset() bool {
	timer := time.NewTimer(resetTime)
	defer timer.Stop()
	late := false
	select {
	case <-r.read:
	case <-timer.C:
		late = true
	}
	r.short.Lock()
	broken, isCut := r.broken, r.isCut
	r.short.Unlock()
	if late && broken != nil && !isCut {
		r.t.settle(ReasonClientClosed, broken)
		r.t.fromClient.dst.reset()
		r.other.cutLater(r.other.upstream.conn)
	}
	return broken != nil || isCut
}

// take makes the client's flow take p and reports whether to read on.
func (r *streamRelay) take(p []byte, err error) (more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := &r.t.fromClient
	if !r.begun || f.state == ended {
		return false
	}
	f.take(p, err)
	r.noteClose()
	return f.state != ended
}

// noteClose closes said once the client's Close frame has come. r.mu is held.
func (r *streamRelay) noteClose() {
	if !r.t.fromClient.has(said) {
		return
	}
	select {
	case <-r.said:
	default:
		close(r.said)
	}
}

// wake must not wait, and mu is held while the upstream does not read.
func (r *streamRelay) wake(f *flow) {
	if f == &r.t.fromUpstream {
		r.other.wake(f)
		return
	}
	r.short.Lock()
	defer r.short.Unlock()
	if r.over || r.waking {
		return
	}
	r.waking = true
	r.wakers.Go(func() {
		r.mu.Lock()
		r.short.Lock()
		r.waking = false // what is asked from here on may be missed by this take
		r.short.Unlock()
		f := &r.t.fromClient
		was := f.state
		if r.begun && was != ended {
			f.take(nil, nil)
			r.noteClose()
		}
		now := f.state
		r.mu.Unlock()
		if was != now && now == ended { // and the reading goroutine does not know it
			r.ifOpen(func() { r.stream.w.SetReadDeadline(longAgo) })
		}
	})
}

func (r *streamRelay) cut() {
	r.cutStream()
	r.other.cutLater(r.other.upstream.conn)
}

func (r *streamRelay) cutSrc(f *flow) {
	if f == &r.t.fromUpstream {
		r.other.cutLater(r.other.upstream.conn)
	} else {
		r.cutStream()
	}
}

// cutStream resets the stream, which ends its reads and writes. On HTTP/2 a
// write deadline in the past does it. On HTTP/3 aborts has the handler panic.
func (r *streamRelay) cutStream() {
	r.ifOpen(func() {
		r.isCut = true
		r.stream.w.SetWriteDeadline(longAgo)
		r.stream.w.SetReadDeadline(longAgo)
	})
}

// ifOpen calls touch unless the handler may have returned, after which net/http
// crashes when the ResponseWriter is used.
func (r *streamRelay) ifOpen(touch func()) {
	r.short.Lock()
	defer r.short.Unlock()
	if !r.over {
		touch()
	}
}

func (r *streamRelay) cutAlready() bool {
	r.short.Lock()
	defer r.short.Unlock()
	return r.isCut
}

// aborts reports whether the handler has to panic with [http.ErrAbortHandler] in
// order to reset the stream. quic-go sends an orderly end in any other case.
func (r *streamRelay) aborts() bool { return r.stream.h3 && r.cutAlready() }

// A streamSink writes the client's stream.
type streamSink struct {
	r      *streamRelay
	f      *flow
	opened bool // the response's header is sent
}

func (s *streamSink) write(p []byte) error {
	w := s.r.stream.w
	if !s.opened {
		s.opened = true
		s.f.stalled.Store(s.f.clock.now())
		w.WriteHeader(http.StatusOK)
		if err := w.FlushError(); err != nil {
			return err
		}
	}
	for len(p) > 0 {
		s.f.stalled.Store(s.f.clock.now())
		n, err := w.Write(p[:min(len(p), pieceSize)])
		if err == nil {
			err = w.FlushError() // a Write to a stream that is gone succeeds
		}
		if err != nil {
			return err
		}
		p = p[n:]
	}
	s.f.unstall()
	return nil
}

// closeWrite leaves the end of the stream to the handler's return.
func (s *streamSink) closeWrite() bool {
	s.r.lingers = true
	return true
}

// reset has nothing to do: the relay is cut after it, which resets the stream.
func (s *streamSink) reset() {}
