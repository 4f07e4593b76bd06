package memconn

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestAWriterBlocksWhenTheBufferIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := Pipe(10)
		if n, err := near.Write([]byte("0123456789")); n != 10 || err != nil {
			t.Fatal(n, err)
		}
		wrote := make(chan int)
		go func() {
			n, _ := near.Write([]byte("abcdef"))
			wrote <- n
		}()
		synctest.Wait()
		b := make([]byte, 4)
		for _, want := range []string{"0123", "4567", "89ab", "cdef"} {
			if n, err := far.Read(b); string(b[:n]) != want || err != nil {
				t.Fatalf("read %q, %v, want %q", b[:n], err, want)
			}
			synctest.Wait()
		}
		if n := <-wrote; n != 6 {
			t.Errorf("wrote %d, want 6", n)
		}
	})
}

func TestEndsAreThoseOfTCP(t *testing.T) {
	for name, test := range map[string]struct {
		end         func(near *Conn)
		read, write error // of the far end, after what was written
		nearRead    error
		nearWrite   error
	}{
		"CloseWrite": {func(near *Conn) { near.CloseWrite() }, io.EOF, nil, nil, net.ErrClosed},
		"Close":      {func(near *Conn) { near.Close() }, io.EOF, syscall.EPIPE, net.ErrClosed, net.ErrClosed},
		"Reset":      {func(near *Conn) { near.Reset() }, syscall.ECONNRESET, syscall.ECONNRESET, net.ErrClosed, net.ErrClosed},
		"SetLinger(0)": {func(near *Conn) { near.SetLinger(0); near.Close() }, syscall.ECONNRESET, syscall.ECONNRESET,
			net.ErrClosed, net.ErrClosed},
		"a deadline": {func(near *Conn) { near.SetDeadline(time.Unix(1, 0)) }, nil, nil, os.ErrDeadlineExceeded, os.ErrDeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			near, far := Pipe(Size)
			near.Write([]byte("before"))
			test.end(near)
			test.end(near)
			b := make([]byte, 100)
			if n, err := far.Read(b); string(b[:n]) != "before" || err != nil {
				t.Errorf("the far end reads %q, %v", b[:n], err)
			}
			is := func(what string, err, want error) {
				t.Helper()
				if !errors.Is(err, want) {
					t.Errorf("%s: %v, want %v", what, err, want)
				}
				var op *net.OpError
				if err != nil && err != io.EOF && (!errors.As(err, &op) || !strings.Contains(err.Error(), "192.0.2.")) {
					t.Errorf("%s: %v is no net.OpError with an address", what, err)
				}
			}
			if test.read != nil {
				_, err := far.Read(b)
				is("the far end reads", err, test.read)
			}
			_, err := far.Write([]byte("x"))
			is("the far end writes", err, test.write)
			_, err = near.Read(b)
			is("the near end reads", err, test.nearRead)
			_, err = near.Write(b)
			is("the near end writes", err, test.nearWrite)
		})
	}
}

func TestAWaitingReadAndWriteSeeTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, end := range []func(*Conn){func(c *Conn) { c.Close() }, func(c *Conn) { c.Reset() }} {
			near, far := Pipe(1)
			errs := make(chan error)
			go func() {
				_, err := near.Read(make([]byte, 1))
				errs <- err
			}()
			go func() {
				_, err := near.Write(make([]byte, 2))
				errs <- err
			}()
			synctest.Wait()
			end(far)
			for range 2 {
				if err := <-errs; err == nil {
					t.Error("no error")
				}
			}
		}
	})
}

func TestNotifyEndTellsBeforeWhatIsUnread(t *testing.T) {
	for _, end := range []func(*Conn){func(c *Conn) { c.CloseWrite() }, func(c *Conn) { c.Close() }, func(c *Conn) { c.Reset() }} {
		near, far := Pipe(Size)
		near.Write([]byte("unread"))
		calls := 0
		far.NotifyEnd(func() { calls++ })
		end(near)
		end(near)
		far.NotifyEnd(func() { calls += 10 })
		if calls != 11 {
			t.Errorf("%d, want one call of each", calls)
		}
	}
}

func TestAReadHasTheTimeOfItsWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := Pipe(Size)
		start := time.Now()
		for i := range 5 {
			near.Write([]byte{byte(i)})
			near.Write([]byte{byte(i)})
			time.Sleep(time.Second)
		}
		b := make([]byte, 100)
		for i := range 5 {
			n, at, err := far.ReadStamped(b)
			if n != 2 || int(b[0]) != i || err != nil || at.Sub(start) != time.Duration(i)*time.Second {
				t.Errorf("%q at %v, %v", b[:n], at.Sub(start), err)
			}
		}
	})
}

func TestAListenersDialWaitsForAccept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := Listen(Size)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := l.Dial(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v, want a timeout", err)
		}
		go func() {
			conn, err := l.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			io.WriteString(conn, "hello")
			conn.Close()
		}()
		conn, err := l.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(conn); string(b) != "hello" || err != nil {
			t.Errorf("%q, %v", b, err)
		}
		l.Close()
		if _, err := l.Dial(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%v, want net.ErrClosed", err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%v, want net.ErrClosed", err)
		}
	})
}
