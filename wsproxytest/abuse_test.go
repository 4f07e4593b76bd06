package wsproxytest_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy/internal/frame"
	. "example.com/wsproxy/wsproxytest"
)

// act calls a random method.
func act(rng func(n int) int, w *Wire, f Frame) {
	t := w.Tunnel()
	side := Side(rng(2))
	switch rng(40) {
	case 0:
		t.Cut()
	case 1:
		t.Reset()
	case 2:
		t.CloseWrite(side)
	case 3:
		w.SendPart(f, rng(20)-2)
	case 4:
		w.Write([]byte("garbage"))
	case 5:
		w.Sleep(time.Duration(rng(1000)) * time.Millisecond)
	case 6:
		go w.Send(f)
	case 7:
		t.To(side).Send(f)
	case 8:
		t.To(side).Send(Close(rng(6000), "drawn"))
	case 9: // dropped
	case 10:
		f.Payload = f.Payload[:len(f.Payload)/2]
		w.Send(f)
	case 11:
		t.To(side).SendPart(Binary(make([]byte, rng(1<<17))), rng(1<<18))
	default:
		w.Send(f)
	}
}

// abuse runs ends that send and close at random, while a Handler and the test call
// every method from many goroutines.
func abuse(t *testing.T, seed uint64, dial func(testing.TB, *Proxy, string) *peer) {
	var mu sync.Mutex
	source := rand.New(rand.NewPCG(seed, 0))
	rng := func(n int) int {
		mu.Lock()
		defer mu.Unlock()
		return source.IntN(n)
	}
	stop := make(chan struct{})
	var ends sync.WaitGroup
	use := func(p *peer) {
		defer p.Close()
		for {
			select {
			case <-stop:
				return
			default:
			}
			var err error
			switch rng(30) {
			case 0:
				return
			case 1:
				p.Conn.(interface{ SetLinger(int) error }).SetLinger(0)
				return
			case 2:
				p.closeWrite()
			case 3:
				_, err = p.Conn.Write([]byte("no frame at all"))
			case 4:
				err = p.write(false, frame.OpText, "part")
			case 5:
				err = p.write(true, frame.OpBinary, strings.Repeat("x", rng(1<<17)))
			case 6:
				p.Conn.SetDeadline(time.Now().Add(time.Duration(rng(10000)) * time.Millisecond))
			default:
				err = p.write(true, frame.OpText, fmt.Sprint("message ", rng(100)))
			}
			if err != nil {
				return
			}
		}
	}
	server := serve(func(s *peer) {
		go io.Copy(io.Discard, s.br)
		use(s)
	})
	p := New(t, server, Chain(func(w *Wire, f Frame) { act(rng, w, f) }, Chaos(seed, allFaults), Latency(0, time.Millisecond, seed)))
	for i := range 8 {
		ends.Go(func() {
			c := dial(t, p, fmt.Sprint("/", i%3))
			go io.Copy(io.Discard, c.br)
			tunnel := p.Tunnel(i%2 + 1)
			for range 5 {
				act(rng, tunnel.To(Side(rng(2))), Text("the test's own"))
			}
			use(c)
		})
	}
	time.Sleep(time.Duration(rng(30)) * time.Millisecond)
	_ = p.Transcript().String()
	close(stop)
	for i := range 8 { // an end may wait in a write to one that does not read
		p.Tunnel(i + 1).Cut()
	}
	ends.Wait()
}

func TestAbuseNeitherHangsNorRacesNorLeaks(t *testing.T) {
	for seed := range uint64(30) {
		t.Run("in a bubble", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { abuse(t, seed, dial) })
		})
		if seed < 5 {
			t.Run("in memory", func(t *testing.T) { abuse(t, seed, dial) })
			t.Run("on loopback", func(t *testing.T) { abuse(t, seed, dialURL) })
		}
	}
}
