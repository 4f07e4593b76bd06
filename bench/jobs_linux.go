package main

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// roundTrips makes every client send a message as soon as the last one has been
// echoed.
func (l *load) roundTrips() (res result, err error) {
	path := echoPath
	if l.Size >= 1<<16 {
		path = replyPath
		if err := l.checkEcho(); err != nil {
			return res, err
		}
	}
	every, atATime := 1, 16
	if l.Kind == "skew" { // wsproxy gives tunnels to its loops in turn, so the tunnels of one loop are busy
		l.Conns *= 2
		every, atATime = 2, 1
	}
	if err := l.openAll(path, atATime); err != nil {
		return res, err
	}
	res.TLS = l.negotiated()
	epoll, err := l.watch()
	defer unix.Close(epoll)
	if err != nil {
		return res, err
	}
	message, reply := clientFrame(l.Size), serverFrame(l.Size)
	size := len(reply)
	header := reply[:size-l.Size]
	left, sent := make([]int, len(l.clients)), make([]time.Time, len(l.clients))
	send := func(i int, now time.Time) error {
		left[i], sent[i] = size, now
		_, err := l.clients[i].Write(message)
		return err
	}
	for i := 0; i < len(l.clients); i += every {
		if err := send(i, time.Now()); err != nil {
			return res, err
		}
	}
	took := make([]time.Duration, 0, 1<<20)
	err = l.drive(epoll, &res, func(i int, measured bool) error {
		for left[i] > 0 {
			n, err := l.clients[i].take(l.buf, left[i], left[i] == size)
			if err == errAgain {
				return nil
			}
			if err != nil {
				return err
			}
			if left[i] == size && n >= len(header) && string(l.buf[:len(header)]) != string(header) {
				return fmt.Errorf("a wrong frame came back")
			}
			if left[i] -= n; left[i] > 0 && !l.TLS && n > shortRead {
				return nil // epoll reports more bytes
			}
		}
		now := time.Now()
		if measured {
			res.Count++
			took = append(took, now.Sub(sent[i]))
		}
		return send(i, now)
	})
	res.Bytes = res.Count * int64(l.Size)
	slices.Sort(took)
	res.P50, res.P99 = quantile(took, 0.5), quantile(took, 0.99)
	return res, err
}

const (
	smallMessage = 4 << 10
	shortRead    = 64 // holds a frame's header
)

// take reads up to left bytes of a message. It reads into buf for TLS, for a
// small message and at a message's start, and otherwise discards the bytes.
func (c *client) take(buf []byte, left int, first bool) (int, error) {
	switch {
	case c.secure || left <= smallMessage:
		return c.Read(buf[:min(left, len(buf))])
	case first:
		return c.Read(buf[:shortRead])
	default:
		n, err := rawDiscard(c.socket.fd, buf, left)
		if err == unix.EAGAIN {
			err = errAgain
		}
		return n, err
	}
}

// checkEcho checks that one message of the size is echoed byte for byte.
func (l *load) checkEcho() error {
	c, err := open(l.Addr, echoPath, l.config)
	if err != nil {
		return err
	}
	defer c.abort()
	return c.exchange(clientFrame(l.Size), serverFrame(l.Size))
}

// negotiated returns the names of the TLS version and cipher.
func (l *load) negotiated() string {
	if len(l.clients) == 0 || !l.TLS {
		return ""
	}
	state := l.clients[0].Conn.(*tls.Conn).ConnectionState()
	return tls.VersionName(state.Version) + " " + tls.CipherSuiteName(state.CipherSuite) + " " + state.CurveID.String()
}

// stream counts the bytes of an endless stream.
func (l *load) stream() (res result, err error) {
	if err := l.openAll(streamPath+strconv.Itoa(l.Size), 16); err != nil {
		return res, err
	}
	epoll, err := l.watch()
	defer unix.Close(epoll)
	if err != nil {
		return res, err
	}
	err = l.drive(epoll, &res, func(i int, measured bool) error {
		for range 64 { // TLS: also read the rest of the last record
			n, err := l.clients[i].take(l.buf, 1<<20, false)
			if err == errAgain {
				return nil
			}
			if err != nil {
				return err
			}
			if measured {
				res.Bytes += int64(n)
				res.Count++
			}
			if !l.TLS {
				return nil
			}
		}
		return nil
	})
	return res, err
}

// handshakes opens and closes clients, Conns at a time.
func (l *load) handshakes() (res result, err error) {
	var (
		done   atomic.Int64
		stop   atomic.Bool
		failed atomic.Pointer[error]
		group  sync.WaitGroup
	)
	for range l.Conns {
		group.Go(func() {
			for !stop.Load() {
				c, err := open(l.Addr, echoPath, l.config)
				if err == nil {
					err = c.hangUp()
				}
				if err != nil {
					failed.CompareAndSwap(nil, &err)
					return
				}
				done.Add(1)
			}
		})
	}
	time.Sleep(l.Warm)
	before := done.Load()
	err = l.begin()
	time.Sleep(l.Window)
	for begun := time.Now(); done.Load() == before && failed.Load() == nil && time.Since(begun) < stuck; {
		time.Sleep(time.Millisecond)
	}
	res.Count = done.Load() - before
	if endErr := l.end(&res); err == nil {
		err = endErr
	}
	stop.Store(true)
	group.Wait()
	if f := failed.Load(); f != nil {
		err = *f
	} else if res.Count == 0 && err == nil {
		err = errStuck
	}
	return res, err
}
