package soak_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"example.com/wsproxy/internal/testkit"
)

// A soakBuffer holds the buffers of one end while its tunnel is open.
type soakBuffer struct {
	out       [64 << 10]byte
	got, want [16 << 10]byte
}

var soakBuffers = sync.Pool{New: func() any { return new(soakBuffer) }}

// A soakFault is an error that is wrong however the tunnel ends.
type soakFault string

func (f soakFault) Error() string { return string(f) }

// A soakEnd is one end of a tunnel. One goroutine writes its script, frame by
// frame, and another reads the other end's script and compares it.
type soakEnd struct {
	*testkit.Peer
	of      *soakTunnel
	client  bool
	out, in *soakScript
	lead    int64 // frame i is sent after i+lead frames have arrived
	actAt   int64 // acts after so many frames in both directions together; -1: never
	stallAt int64 // frame before which it stops reading for a while
	stall   time.Duration
	dice    *rand.Rand // for the writer
	narrow  bool       // has a small receive buffer

	buffer    *soakBuffer
	pending   []byte
	closeSent bool // has sent its Close frame
	steps     atomic.Int64
	received  atomic.Int64  // frames of in that have arrived
	pinged    atomic.Bool   // the proxy sent a Ping that needs a Pong
	closed    atomic.Int64  // code of the Close frame that arrived
	news      chan struct{} // tells the writer that one of these has changed
	gone      chan struct{} // closed when the reader has ended
	done      chan struct{} // closed when reader and writer have ended

	// Valid once done is closed:
	readErr, writeErr         error
	sent, got                 int64 // bytes after the handshake; got excludes the proxy's own frames
	sentMessages, gotMessages int64
	pings                     int64
}

// run sends first, then plays the end until its connection is closed. open
// reads the bytes before the first frame.
func (e *soakEnd) run(first string, open func() error) {
	defer close(e.done)
	e.SetDeadline(time.Now().Add(soakPatience))
	if tcp, ok := e.Socket().(*net.TCPConn); ok && e.narrow {
		tcp.SetReadBuffer(soakNarrow)
	}
	e.buffer = soakBuffers.Get().(*soakBuffer)
	defer soakBuffers.Put(e.buffer)
	e.pending = append(e.buffer.out[:0], first...)
	e.sent = -int64(len(first))
	if e.dice.IntN(2) == 0 {
		e.flush() // otherwise it is sent together with the first frames
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		e.write()
		if e.writeErr != nil && !e.of.way.cuts {
			e.Socket().Close()
		}
	}()
	if e.readErr = open(); e.readErr == nil {
		e.readErr = e.read()
	}
	inOrder := !e.of.way.cuts && (e.readErr == nil || e.readErr == io.EOF)
	if !inOrder {
		e.Socket().Close()
	}
	close(e.gone)
	<-written
	if inOrder {
		e.Close()
	}
}

// step counts a frame and reports whether the end must act at it.
func (e *soakEnd) step() bool { return e.steps.Add(1)-1 == e.actAt }

// act ends the tunnel in its way, once the tunnel is open at both ends.
func (e *soakEnd) act() {
	if e.opened() {
		e.of.way.act(e)
	}
}

// opened waits until the client has its 101. It returns false if the reader
// ends first.
func (e *soakEnd) opened() bool {
	select {
	case <-e.of.open:
		return true
	case <-e.gone:
		return false
	}
}

// wake makes the writer check its conditions again.
func (e *soakEnd) wake() {
	select {
	case e.news <- struct{}{}:
	default:
	}
}

// write sends the script and then ends this side.
func (e *soakEnd) write() {
	way := e.of.way
	for i := int64(0); ; i++ {
		f, more := e.out.next()
		if !more {
			break
		}
		if !e.await(i + e.lead) {
			e.finish()
			return
		}
		e.sentMessages += f.completes()
		acts := e.step()
		if acts && way.mid {
			e.put(f, e.of.partOf(f))
			e.flush()
			e.act()
			return
		}
		if acts {
			e.flush()
			e.act()
		}
		e.put(f, f.size)
		if e.dice.IntN(2) == 0 {
			e.flush()
		}
	}
	if way.last != nil && e.client == (e.of.by == soakClient) && e.flush() && e.opened() {
		way.last(e)
	}
	e.finish()
}

// closedByProxy reports whether the proxy has asked the end to close at once.
// After a Close frame of the other end, the end still sends the rest.
func (e *soakEnd) closedByProxy() bool { return e.of.way.byProxy && e.closed.Load() != 0 }

// await replies to Pings until so many frames have arrived. It returns false if
// no more will arrive, or if the end must send no more.
func (e *soakEnd) await(frames int64) bool {
	return e.until(func() bool { return e.closedByProxy() || e.received.Load() >= frames }) && !e.closedByProxy()
}

// until replies to Pings until so returns true. It returns false if the reader
// ends first.
func (e *soakEnd) until(so func() bool) bool {
	for !so() {
		if e.pinged.Swap(false) && !e.closeSent && e.closed.Load() == 0 {
			e.control(testkit.Pong, soakPing)
		}
		if !e.flush() {
			return false
		}
		select {
		case <-e.news:
		case <-e.gone:
			return so()
		}
	}
	return true
}

// finish waits for the other side's Close frame and replies to it.
func (e *soakEnd) finish() {
	if e.until(func() bool { return e.closed.Load() != 0 }) && !e.closeSent {
		e.sendClose(int(e.closed.Load()))
	}
}

// sendClose sends a Close frame. The end must send nothing after it.
func (e *soakEnd) sendClose(code int) {
	e.control(testkit.Close, testkit.ClosePayload(code, ""))
	e.flush()
	e.closeSent = true
}

// read compares all bytes that arrive with the other end's script. At a Close
// frame it returns nil on the upstream's end, which closes its connection
// first.
func (e *soakEnd) read() error {
	for i := int64(0); ; {
		if i == e.stallAt {
			e.stallAt = -1
			time.Sleep(e.stall)
		}
		head, err := e.Reader.Peek(2)
		if err != nil {
			if err == io.EOF && len(head) > 0 {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
		if e.closed.Load() != 0 {
			return e.faulty(i, "% x after a Close frame", head)
		}
		if head[0]&0x08 != 0 {
			scripted, err := e.readControl(i)
			if err != nil {
				return err
			}
			if !scripted {
				if e.closed.Load() != 0 && !e.client {
					return nil
				}
				continue
			}
		} else if err := e.readData(i, head[0]); err != nil {
			return err
		}
		i++
		e.received.Store(i)
		e.wake()
	}
}

func (e *soakEnd) faulty(frame int64, format string, args ...any) error {
	return soakFault(fmt.Sprintf("got, as frame %d, ", frame) + fmt.Sprintf(format, args...))
}

// readControl reads a control frame: one of the script, a Close frame, or a
// Ping or Pong caused by the proxy.
func (e *soakEnd) readControl(i int64) (scripted bool, err error) {
	head, _ := e.Reader.Peek(2)
	if head[0] < testkit.Close || head[1]&0x7f > 125 || head[1]&0x80 != 0 == e.client {
		return false, e.faulty(i, "header % x", head)
	}
	f, err := testkit.ReadFrame(e.Reader)
	if err != nil {
		return false, err
	}
	framed := e.of.kind.framed
	switch {
	case f.First == testkit.Close && len(f.Payload) >= 2:
		e.closed.Store(int64(binary.BigEndian.Uint16([]byte(f.Payload))))
		e.wake()
		return false, nil
	case f.First == testkit.Ping && f.Payload == soakPing && framed:
		e.pings++
		e.pinged.Store(true)
		e.wake()
		return false, nil
	case f.First == testkit.Pong && f.Payload == soakPing && framed:
		return false, nil
	}
	next, more := e.in.next()
	if !more || next.first != f.First || next.size != len(f.Payload) {
		return false, e.faulty(i, "frame %#x %q, want %#x of %d bytes", f.First, f.Payload, next.first, next.size)
	}
	want := e.buffer.want[:next.size]
	if e.in.content.Read(want); string(want) != f.Payload {
		return false, e.faulty(i, "Pong %q", f.Payload)
	}
	e.got += int64(len(next.header(nil, f.Masked)) + next.size)
	if e.step() {
		e.act()
	}
	return true, nil
}

// readData reads a frame of a message, piece by piece.
func (e *soakEnd) readData(i int64, first byte) error {
	f, more := e.in.next()
	if !more {
		return e.faulty(i, "frame %#x after the last", first)
	}
	acts := e.step()
	if acts && !e.of.way.mid {
		e.act()
	}
	want := f.header(e.buffer.want[:0], !e.client)
	n, err := io.ReadFull(e.Reader, e.buffer.got[:len(want)])
	if got := e.buffer.got[:n]; !bytes.HasPrefix(want, got) {
		return e.faulty(i, "header % x, want % x", got, want)
	}
	e.got += int64(n)
	for at := 0; at < f.size && err == nil; at += n {
		if acts && e.of.way.mid && at >= e.of.partOf(f) {
			acts = false
			e.act()
		}
		got := e.buffer.got[:min(f.size-at, len(e.buffer.got))]
		n, err = e.Reader.Read(got)
		if got = got[:n]; !e.client {
			soakMask(got, at)
		}
		e.got += int64(n)
		want := e.buffer.want[:n]
		if e.in.content.Read(want); !bytes.Equal(want, got) {
			return e.faulty(i, "other bytes from %d of %d on", at, f.size)
		}
		if at+n == f.size && err == io.EOF {
			err = nil // crypto/tls reports the end of TLS 1.2 together with the last bytes
		}
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if acts && e.of.way.mid && err == nil {
		e.act()
	}
	if err == nil {
		e.gotMessages += f.completes()
	}
	return err
}
