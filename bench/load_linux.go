package main

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A job is the parent's request to the load generator, one line of JSON.
type job struct {
	Kind string // see load.do
	Addr string
	TLS  bool
	Size int // of messages
	// Conns is the number of connections, or of concurrent handshakes.
	Conns        int
	Idle         int           // how many of them are idle: the first ones
	Rate         float64       // messages a second; 0: as fast as they are echoed
	Think        time.Duration // the mean pause of a user
	Warm, Window time.Duration
	Slot         time.Duration // the length of a part of Window, for tails; a quantile is the median over the parts
	PIDs         []int         // processes whose CPU time to measure
}

// A result is the reply to a job.
type result struct {
	Count    int64 // of round trips, handshakes or reads
	Bytes    int64
	Window   time.Duration // as measured
	CPU      time.Duration // CPU time of PIDs in the window
	P50, P99 time.Duration // of round trips
	P999     time.Duration
	Connect  time.Duration // 95 % of connections are open after this time
	TLS      string        // what was negotiated
	Error    string
}

// A load is the load generator.
type load struct {
	job
	config  *tls.Config
	clients []*client
	streams []*streamConn
	ready   []unix.EpollEvent
	buf     []byte
	begun   time.Time
	cpu     time.Duration // at begun

	echo    *upstream // for tails, on this process's thread
	echoing sync.Mutex
}

// runLoad is the role of the load generator: jobs in, results out. Its own upstream
// listens at the address args[0].
func runLoad(args []string) error {
	echo, err := newUpstream(args[0])
	if err != nil {
		return err
	}
	l := &load{ready: make([]unix.EpollEvent, 256), buf: make([]byte, 256<<10), echo: echo}
	go l.serve()
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		l.job = job{}
		if err := in.Decode(&l.job); err != nil {
			return nil // the parent has ended
		}
		res, err := l.do()
		if err != nil {
			res.Error = fmt.Sprintf("%s: %v", l.Kind, err)
		}
		if err := out.Encode(res); err != nil {
			return err
		}
	}
}

func (l *load) do() (res result, err error) {
	l.config = nil
	if l.TLS {
		// All peers use the same curve, which the oldest one supports. The
		// certificate is not verified, to save time.
		l.config = &tls.Config{InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519}}
	}
	if l.Kind == "close" {
		l.closeAll()
		return res, nil
	}
	switch l.Kind {
	case "open": // more, up to Conns in all
		return res, l.openAll(echoPath, 16)
	case "storm":
		err := l.begin()
		if err == nil {
			err = l.openAll(echoPath, l.Conns)
		}
		return res, errors.Join(err, l.end(&res))
	case "paced":
		return l.paced()
	case "h2-open":
		return res, l.openStreams()
	}
	l.closeAll()
	switch l.Kind {
	case "roundtrip", "skew":
		return l.roundTrips()
	case "sessions":
		return l.sessions()
	case "stream":
		return l.stream()
	case "handshake":
		return l.handshakes()
	case "h2-roundtrip":
		return l.streamRoundTrips()
	case "h2-handshake":
		return l.streamHandshakes()
	}
	return res, fmt.Errorf("unknown")
}

// serve runs the load generator's own upstream, except while paced does that and
// holds echoing.
func (l *load) serve() {
	for {
		unix.Poll([]unix.PollFd{{Fd: int32(l.echo.epoll), Events: unix.POLLIN}}, -1)
		l.echoing.Lock()
		err := l.echo.turn(0)
		l.echoing.Unlock()
		if err != nil {
			exit(err)
		}
	}
}

func (l *load) closeAll() {
	l.echoing.Lock()
	l.echo.reset()
	l.echoing.Unlock()
	for _, c := range l.clients {
		c.abort()
	}
	l.clients = l.clients[:0]
	l.closeStreams()
}

// openAll opens clients until there are Conns, some at a time, and sends an echoed
// message through each.
func (l *load) openAll(path string, atATime int) error {
	frame, want := clientFrame(max(l.Size, 1)), serverFrame(max(l.Size, 1))
	if strings.HasPrefix(path, streamPath) {
		frame = clientFrame(1) // starts the stream
	}
	var (
		mu     sync.Mutex
		failed error
		group  sync.WaitGroup
		left   atomic.Int64
	)
	left.Store(int64(l.Conns - len(l.clients)))
	for range atATime {
		group.Go(func() {
			for left.Add(-1) >= 0 {
				c, err := open(l.Addr, path, l.config)
				if err == nil {
					if err = c.exchange(frame, want); err != nil {
						c.abort()
					}
				}
				mu.Lock()
				if err == nil {
					l.clients = append(l.clients, c)
				} else {
					failed = err
					left.Store(0)
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	return failed
}

// stuck is how long a window may wait for an event beyond its end.
const stuck = 10 * time.Second

var errStuck = errors.New("nothing came through")

// begin starts the window, and end ends it.
func (l *load) begin() (err error) {
	l.cpu, err = cpuTime(l.PIDs)
	l.begun = time.Now()
	return err
}

func (l *load) end(res *result) (err error) {
	res.Window = time.Since(l.begun)
	res.CPU, err = cpuTime(l.PIDs)
	res.CPU -= l.cpu
	return err
}

func (l *load) watch() (epoll int, err error) { return watch(l.clients) }

// watch detaches clients and adds them to epoll. Events carry a client's index.
func watch(clients []*client) (epoll int, err error) {
	if epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return 0, err
	}
	for i, c := range clients {
		if c.socket.fd < 0 {
			if err := c.detach(); err != nil {
				return epoll, err
			}
		}
		if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, c.socket.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(i)}); err != nil {
			return epoll, err
		}
	}
	return epoll, nil
}

// drive calls handle for readable clients during the warm-up and the window,
// and tells it which of the two it is.
func (l *load) drive(epoll int, res *result, handle func(i int, measured bool) error) error {
	start, measured := time.Now(), false
	for {
		n, err := epollWait(epoll, l.ready, stuck)
		if err != nil {
			return err
		}
		for _, event := range l.ready[:n] {
			if err := handle(int(event.Fd), measured); err != nil {
				return err
			}
		}
		now := time.Now()
		switch {
		case !measured && now.Sub(start) >= l.Warm:
			measured = true
			if err := l.begin(); err != nil {
				return err
			}
		case measured && now.Sub(l.begun) >= l.Window && res.Count > 0:
			return l.end(res)
		case now.Sub(start) > l.Warm+l.Window+stuck:
			return errStuck
		}
	}
}
