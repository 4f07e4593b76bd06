package wsproxy

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// newWaiter returns a waiter that reads the bytes written to far.
func newWaiter(t *testing.T) (w *waiter, far net.Conn) {
	near, far := net.Pipe()
	t.Cleanup(func() {
		near.Close()
		far.Close()
	})
	return &waiter{conn: near}, far
}

func TestAWakeInterruptsOneRead(t *testing.T) {
	one := make([]byte, 1)
	t.Run("a pending read", func(t *testing.T) {
		w, _ := newWaiter(t)
		require.True(t, w.begin())
		go w.wake()
		_, err := w.conn.Read(one)
		assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
		assert.True(t, w.end())
	})
	t.Run("a later read", func(t *testing.T) {
		w, _ := newWaiter(t)
		w.wake()
		w.wake()
		assert.False(t, w.begin(), "the read is to wait")
		assert.True(t, w.begin(), "a read later is not to wait")
		assert.False(t, w.end())
	})
	t.Run("a read with bytes", func(t *testing.T) {
		w, far := newWaiter(t)
		require.True(t, w.begin())
		go far.Write([]byte("ab"))
		_, err := w.conn.Read(one)
		require.NoError(t, err)
		w.wake()
		assert.True(t, w.end())
		require.True(t, w.begin())
		_, err = w.conn.Read(one)
		assert.NoError(t, err, "the deadline of the read before is still set")
		assert.False(t, w.end())
	})
}

func TestAForeignDeadlineIsNotAWake(t *testing.T) {
	one := make([]byte, 1)
	for name, state := range map[string]func(w *waiter){
		"no wake":             func(*waiter) {},
		"a wake before begin": func(w *waiter) { w.wake(); w.begin() },
	} {
		t.Run(name, func(t *testing.T) {
			w, _ := newWaiter(t)
			w.conn.SetReadDeadline(longAgo)
			state(w)
			for range 2 {
				require.True(t, w.begin())
				_, err := w.conn.Read(one)
				assert.ErrorIs(t, err, os.ErrDeadlineExceeded)
				assert.False(t, w.end())
			}
		})
	}
}

// Wakes come while reads begin, wait, return bytes and end. No wake may turn
// its deadline into an error or leave a deadline set.
func TestWakesAtAnyTimeLoseNoBytes(t *testing.T) {
	w, far := newWaiter(t)
	const size = 5_000
	stop := make(chan struct{})
	var wakers sync.WaitGroup
	for range 2 {
		wakers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					w.wake()
				}
			}
		})
	}
	go func() {
		for range size {
			far.Write([]byte{1})
		}
		far.Close()
	}()
	read, b := 0, make([]byte, 16)
	for {
		if !w.begin() {
			continue
		}
		n, err := w.conn.Read(b)
		read += n
		if woken := w.end(); woken && errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err == io.EOF {
			break
		}
		require.NoError(t, err)
	}
	close(stop)
	wakers.Wait()
	assert.Equal(t, size, read)
	w.wake() // sets no deadline, because no read is waiting
	assert.False(t, w.begin())
	w.conn.SetReadDeadline(time.Time{})
}
