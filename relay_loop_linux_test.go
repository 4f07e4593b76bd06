//go:build !386 && !s390x && !wsproxy_portable

package wsproxy

import (
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A loopRig is a served proxy, to a server whose tunnels echo.
type loopRig struct {
	p    *Proxy
	addr string
}

func newLoopRig(t *testing.T, opts ...Option) loopRig {
	t.Helper()
	echo := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: raw\r\nConnection: Upgrade\r\n\r\n")
		io.Copy(conn, buffered)
	}))
	t.Cleanup(echo.Close)
	p, err := New(echo.URL, append(opts, WithUpgrades("raw"), WithLogger(slog.New(slog.DiscardHandler)))...)
	require.NoError(t, err)
	s := httptest.NewServer(p)
	t.Cleanup(func() {
		p.Close()
		p.Shutdown(t.Context())
		s.Close()
	})
	return loopRig{p, s.Listener.Addr().String()}
}

// request asks for a tunnel.
func (r loopRig) request(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", r.addr)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: raw\r\nConnection: Upgrade\r\n\r\nhello")
	require.NoError(t, err)
	return conn
}

// tunnel opens a tunnel and checks that it echoes.
func (r loopRig) tunnel(t *testing.T) {
	t.Helper()
	conn := r.request(t)
	const response = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\nhello"
	got := make([]byte, len(response))
	n, err := io.ReadFull(conn, got)
	require.NoError(t, err, "%q", got[:n])
	require.Equal(t, "hello", string(got[len(got)-len("hello"):]), "%q", got)
}

// Before, a tunnel ended after the upstream's 101 and before the client got
// one.
func TestATunnelThatEpollRefusesUsesThePortableRelay(t *testing.T) {
	r := newLoopRig(t)
	broken := &loop{epfd: -1, wake: -1}
	r.p.tunnels.loops.all = slices.Repeat([]*loop{broken}, runtime.GOMAXPROCS(0))
	r.tunnel(t)
	for tunnel := range r.p.Tunnels() {
		assert.IsType(t, &connRelay{}, tunnel.relay)
	}
	broken.mu.Lock()
	defer broken.mu.Unlock()
	assert.Zero(t, broken.live, "relays that the loop counts")
}

// awaitEnd returns whether l has lingered, once it has ended.
func awaitEnd(t *testing.T, l *loop) (lingered bool) {
	t.Helper()
	require.Eventually(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		lingered = l.ended && l.linger == expired
		return l.ended
	}, 10*time.Second, time.Millisecond)
	return lingered
}

func TestALoopWhoseOnlyReservationFailsEnds(t *testing.T) {
	t.Parallel()
	for _, closed := range []bool{false, true} {
		t.Run(fmt.Sprintf("closed %v", closed), func(t *testing.T) {
			t.Parallel()
			var ls loops
			l, err := ls.place()
			require.NoError(t, err)
			if closed {
				ls.close()
			}
			l.dismiss()
			assert.Equal(t, !closed, awaitEnd(t, l), "the loop has lingered")
		})
	}
}

// Before, every second short tunnel made a loop: an epoll instance, an eventfd
// and a goroutine.
func TestShortTunnelsShareALoop(t *testing.T) {
	t.Parallel()
	var ls loops
	used := make(map[*loop]bool)
	for range 10 * runtime.GOMAXPROCS(0) {
		l, err := ls.place()
		require.NoError(t, err)
		used[l] = true
		l.dismiss()
	}
	assert.Len(t, used, runtime.GOMAXPROCS(0))
	ls.close()
	for l := range used {
		assert.False(t, awaitEnd(t, l), "a loop lingers although no relay may come")
	}
}

func TestBothSocketsAreReservedOrNone(t *testing.T) {
	l, err := newLoop()
	require.NoError(t, err)
	defer l.close()
	var pair [2]int
	pair, err = syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	defer syscall.Close(pair[0])
	defer syscall.Close(pair[1])
	assert.ErrorIs(t, l.reserve(pair[0], pair[0]), syscall.EEXIST)
	assert.NoError(t, l.reserve(pair[0], pair[1]), "the first socket is still watched")
}

// Before, the loop was woken to write the 101, and once more because both sockets
// had room.
func TestTheHandshakeWritesThe101AndTheLoopTheRest(t *testing.T) {
	r := newLoopRig(t, WithDialContext(new(net.Dialer).DialContext)) // a loop that does not run cannot wait for the response
	var asleep []*loop
	for range runtime.GOMAXPROCS(0) {
		l, err := newLoop()
		require.NoError(t, err)
		asleep = append(asleep, l)
	}
	run := sync.OnceFunc(func() {
		for _, l := range asleep {
			go l.run()
		}
	})
	t.Cleanup(run)
	r.p.tunnels.loops.all = asleep
	conn := r.request(t)
	got := make([]byte, 1<<10)
	n, err := conn.Read(got)
	require.NoError(t, err, "no loop runs yet")
	require.Equal(t, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: raw\r\nConnection: Upgrade\r\n\r\n", string(got[:n]))
	for _, l := range asleep {
		l.mu.Lock()
		assert.Empty(t, l.posted, "relays to process")
		l.mu.Unlock()
	}
	run()
	n, err = io.ReadFull(conn, got[:5])
	require.NoError(t, err)
	require.Equal(t, "hello", string(got[:n]))
}

// Since Go 1.25 GOMAXPROCS follows a container's limit.
func TestLoopsFollowGOMAXPROCS(t *testing.T) {
	before := runtime.GOMAXPROCS(1)
	defer runtime.GOMAXPROCS(before)
	r := newLoopRig(t)
	used := func() int {
		ls := &r.p.tunnels.loops
		ls.mu.Lock()
		defer ls.mu.Unlock()
		return len(slices.DeleteFunc(slices.Clone(ls.all), func(l *loop) bool { return l == nil }))
	}
	live := func(i int) int {
		ls := &r.p.tunnels.loops
		ls.all[i].mu.Lock()
		defer ls.all[i].mu.Unlock()
		return ls.all[i].live
	}
	for range 3 {
		r.tunnel(t)
	}
	assert.Equal(t, 1, used(), "loops on one processor")
	runtime.GOMAXPROCS(4)
	for range 8 {
		r.tunnel(t)
	}
	assert.Equal(t, 4, used(), "loops on four processors")
	runtime.GOMAXPROCS(2)
	third := live(2)
	for range 4 {
		r.tunnel(t)
	}
	assert.Equal(t, third, live(2), "relays of a loop beyond two processors")
}

// tcpPair returns both ends of a connection.
func tcpPair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	near, err = net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { near.Close() })
	far, err = l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { far.Close() })
	return near, far
}

// A connection that embeds a tls.Conn may hold bytes of its own, and below
// another connection no event comes.
func TestOnlyATLSConnOverASocketIsGivenToACrew(t *testing.T) {
	t.Parallel()
	config := new(tls.Config)
	pipe, _ := net.Pipe()
	socket := func() net.Conn { conn, _ := tcpPair(t); return conn }
	secure := func(conn net.Conn) *tls.Conn { return tls.Server(conn, config) }
	for _, test := range []struct {
		name             string
		client, upstream net.Conn
		crew             bool
	}{
		{"TLS to a socket", secure(socket()), socket(), true},
		{"a socket to TLS", socket(), secure(socket()), true},
		{"TLS to TLS", secure(socket()), secure(socket()), true},
		{"a type that embeds a tls.Conn", struct{ *tls.Conn }{secure(socket())}, socket(), false},
		{"TLS over a pipe", secure(pipe), socket(), false},
		{"TLS over TLS", secure(secure(socket())), socket(), false},
		{"TLS to a type that embeds a socket", secure(socket()), struct{ net.Conn }{socket()}, false},
	} {
		var ls loops
		ls.close()
		r := ls.relay(new(Tunnel), test.client, test.upstream)
		if assert.Equal(t, test.crew, r != nil, test.name) && r != nil {
			r.cut()
			r.run()
		}
	}
}

func TestATLSTunnelThatEpollRefusesUsesThePortableRelay(t *testing.T) {
	t.Parallel()
	var ls loops
	broken := &loop{epfd: -1, wake: -1}
	ls.all = slices.Repeat([]*loop{broken}, runtime.GOMAXPROCS(0))
	client, far := tcpPair(t)
	upstream, _ := tcpPair(t)
	assert.Nil(t, ls.relay(new(Tunnel), client, tls.Server(upstream, new(tls.Config))))
	_, err := client.Write([]byte("open"))
	assert.NoError(t, err, "the client's connection is unchanged")
	_, err = io.ReadFull(far, make([]byte, 4))
	assert.NoError(t, err)
	assert.Zero(t, broken.live, "relays that the loop counts")
}

// A descriptor's number, and with it a slot, may have a new user by the time at
// which an event of the former one is handled.
func TestAnEventOfAFormerHalfIsDropped(t *testing.T) {
	t.Parallel()
	h := &half{secure: new(secureEnd)}
	c := &crew{slots: []crewSlot{{h, 2}, {}}, coming: true}
	event := func(slot, generation int32) {
		c.deliver([]syscall.EpollEvent{{Fd: firstHalf - slot, Pad: generation, Events: syscall.EPOLLIN}})
	}
	event(0, 1)
	event(1, 1)
	assert.Zero(t, h.state.Load())
	assert.Nil(t, c.first)
	event(0, 2)
	event(0, 2)
	assert.EqualValues(t, halfBusy|halfReadable, h.state.Load())
	assert.Same(t, h, c.first)
	assert.Nil(t, h.next, "it is queued once")
}

// With a few bytes more it would take a third cache line.
func TestALoopRelayIsSmall(t *testing.T) {
	assert.LessOrEqual(t, unsafe.Sizeof(loopRelay{}), uintptr(128))
}

func TestATunnelThatLosesAWatchFails(t *testing.T) {
	for _, woken := range []bool{false, true} { // whether the loop takes the relay, not the handshake
		ended := make(chan Ending, 1)
		r := newLoopRig(t, WithHooks(Hooks{OnOpen: func(tunnel *Tunnel, _ *http.Request) func(Ending) {
			relay := tunnel.relay.(*loopRelay)
			relay.loop.unwatch(relay.upstream.fd)
			if woken {
				relay.wake(nil)
			}
			return func(e Ending) { ended <- e }
		}}))
		r.request(t)
		ending := <-ended
		assert.Equal(t, ReasonFailed, ending.Reason)
		assert.ErrorIs(t, ending.Err, syscall.ENOENT)
	}
}

func TestALoopDialsOnlyIPAddresses(t *testing.T) {
	r := newLoopRig(t)
	ip := r.p.target.addr
	for addr, byLoop := range map[string]bool{ip: true, strings.Replace(ip, "127.0.0.1", "localhost", 1): false} {
		conn, err := r.p.dialTunnel(t.Context(), new(http.Request), newCandidate(Server{Addr: addr}, nil))
		require.NoError(t, err)
		defer conn.Close()
		_, ok := conn.(*loopConn)
		assert.Equal(t, byLoop, ok, addr)
	}
}

// Linux can choose the port that nobody listens on as the local one.
func TestASocketThatConnectsToItselfIsNotUsed(t *testing.T) {
	l, err := new(loops).place()
	require.NoError(t, err)
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	self, err := syscall.Getsockname(fd)
	require.NoError(t, err)
	c := &loopConn{loop: l, fd: fd, remote: addrPort(self), in: newSide(syscall.EPOLLIN), out: newSide(syscall.EPOLLOUT)}
	assert.Equal(t, errUseNet, c.connect(t.Context(), self, time.Second))
	c.Close()
}
