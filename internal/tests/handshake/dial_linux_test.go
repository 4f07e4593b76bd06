package handshake_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// listen returns a listener on loopback and calls set with its socket.
func listen(t *testing.T, set func(fd int) error) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	raw, err := l.(*net.TCPListener).SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) { err = set(int(fd)) }))
	require.NoError(t, err)
	return l
}

// listenFull returns a listener that no connection can be made to, because its
// queue is full until a connection is accepted. A queue of 0 holds one.
func listenFull(t *testing.T) net.Listener {
	t.Helper()
	l := listen(t, func(fd int) error { return syscall.Listen(fd, 0) })
	testkit.Dial(t, l.Addr().String())
	testkit.Eventually(t, func() bool { return inTable(t, l.Addr(), " 00000000:0000 0A 00000000:00000001 ") }, "the queue is not full")
	return l
}

// inTable reports whether the system's table of TCP sockets contains the address
// followed by rest: the remote address, the state, and the queues.
func inTable(t *testing.T, addr net.Addr, rest string) bool {
	sockets, err := os.ReadFile("/proc/net/tcp")
	require.NoError(t, err)
	return strings.Contains(string(sockets), fmt.Sprintf(" 0100007F:%04X%s", addr.(*net.TCPAddr).Port, rest))
}

// On Linux the proxy dials an IP address without package net.
func TestTheErrorOfAFailedDialIsThatOfPackageNet(t *testing.T) {
	t.Parallel()
	refusing, full := testkit.RefusingAddr(t), listenFull(t).Addr().String()
	_, refused := net.Dial("tcp", refusing)
	_, late := net.DialTimeout("tcp", full, 100*time.Millisecond)
	for _, test := range []struct {
		addr    string
		timeout time.Duration
		want    error
		is      error
		status  int
	}{
		{refusing, 0, refused, syscall.ECONNREFUSED, http.StatusBadGateway},
		{full, 100 * time.Millisecond, late, wsproxy.ErrUpstreamTimeout, http.StatusGatewayTimeout},
	} {
		errs := testkit.NewFailures()
		_, addr := testkit.ServeProxy(t, "http://"+test.addr, wsproxy.WithConnectTimeout(test.timeout), errs.Option())
		res, _ := testkit.Do(t, addr, testkit.SampleRequest)
		assert.Equal(t, test.status, res.StatusCode)
		err := errs.Next(t).Err
		assert.ErrorIs(t, err, test.is)
		assert.ErrorContains(t, err, test.want.Error())
		var got, want *net.OpError
		require.ErrorAs(t, err, &got)
		require.ErrorAs(t, test.want, &want)
		assert.Equal(t, want.Addr.String(), got.Addr.String())
		assert.Equal(t, want.Op+want.Net, got.Op+got.Net)
		assert.Equal(t, want.Timeout(), got.Timeout())
	}
}

func TestADialEndsWithItsHandshake(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		end    func(*wsproxy.Proxy, *testkit.Peer)
		status int
	}{
		"the client disconnects": {func(_ *wsproxy.Proxy, client *testkit.Peer) { client.Close() }, 499},
		"the proxy closes":       {func(p *wsproxy.Proxy, _ *testkit.Peer) { p.Close() }, http.StatusServiceUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			errs := testkit.NewFailures()
			p, addr := testkit.ServeProxy(t, "http://"+listenFull(t).Addr().String(), wsproxy.WithConnectTimeout(0), errs.Option())
			client := testkit.Dial(t, addr)
			client.Send(t, testkit.SampleRequest)
			testkit.Eventually(t, func() bool { return p.Stats().Handshakes == 1 }, "no handshake")
			test.end(p, client)
			assert.Equal(t, test.status, wsproxy.StatusCode(errs.Next(t).Err))
			assert.Equal(t, testkit.Counts{}, testkit.Counted(p))
		})
	}
}

// The kernel repeats its SYN after a second.
func TestADialWaitsForAServerThatIsSlowToAccept(t *testing.T) {
	t.Parallel()
	l := listenFull(t)
	_, addr := testkit.ServeProxy(t, "http://"+l.Addr().String())
	client := testkit.Dial(t, addr)
	client.Send(t, testkit.SampleRequest)
	testkit.Eventually(t, func() bool { return inTable(t, l.Addr(), " 02 ") }, "nothing connects") // SYN_SENT
	testkit.ServeConns(t, l, func(conn net.Conn) {
		server := testkit.NewPeer(conn)
		if _, err := http.ReadRequest(server.Reader); err == nil {
			io.WriteString(conn, testkit.SampleSwitch+"hello")
			io.Copy(conn, server)
		}
	})
	client.WantSwitch(t)
	client.Send(t, ", world")
	client.Expect(t, "hello, world")
}

func TestARequestThatTheServerDoesNotReadCauses504AtTheSendTimeout(t *testing.T) {
	t.Parallel()
	l := listen(t, func(fd int) error { return syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10) })
	errs := testkit.NewFailures()
	p := testkit.NewProxy(t, "http://"+l.Addr().String(), wsproxy.WithSendTimeout(100*time.Millisecond), errs.Option())
	s := httptest.NewUnstartedServer(p)
	s.Config.MaxHeaderBytes = 16 << 20
	s.Start()
	t.Cleanup(s.Close)
	padding := strings.Repeat("x", 8<<20) // more than the buffers between two sockets hold
	res, _ := testkit.Do(t, s.Listener.Addr().String(), testkit.SampleRequestAnd("Cookie: "+padding))
	assert.Equal(t, http.StatusGatewayTimeout, res.StatusCode)
	assert.ErrorContains(t, errs.Next(t).Err, "sending the request: write tcp 127.0.0.1:")
	assert.Equal(t, testkit.Counts{}, testkit.Counted(p))
}

func TestAnUpstreamHasAnyFormOfAddress(t *testing.T) {
	t.Parallel()
	for _, form := range []string{"127.0.0.1:%", "[::1]:%", "[::ffff:127.0.0.1]:%", "localhost:%", "0.0.0.0:%"} {
		t.Run(form, func(t *testing.T) {
			l, err := net.Listen("tcp", strings.Replace(form, "%", "0", 1))
			if err != nil {
				testkit.Missing(t, "%v", err)
			}
			s := &httptest.Server{Listener: l, Config: &http.Server{Handler: testkit.Echo("a")}}
			s.Start()
			t.Cleanup(s.Close)
			_, port, _ := net.SplitHostPort(l.Addr().String())
			_, addr := testkit.ServeProxy(t, "http://"+strings.Replace(form, "%", port, 1))
			res, _ := testkit.Do(t, addr, testkit.SampleRequest)
			assert.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
		})
	}
}

// The portable relay, which serves clients of other types than net's, gets a
// connection of package net.
func TestAClientOfAnyTypeGetsATunnelToADialedServer(t *testing.T) {
	t.Parallel()
	u := testkit.NewUpstream(t)
	ended := testkit.NewEndings()
	s := httptest.NewUnstartedServer(testkit.NewProxy(t, u.URL, ended.Option()))
	s.Listener = testkit.WrapListener{Listener: s.Listener, Wrap: func(conn net.Conn) net.Conn { return testkit.WrappedConn{Conn: conn} }}
	s.Start()
	t.Cleanup(s.Close)
	client, server := testkit.Tunnel(t, s.Listener.Addr().String(), u)
	client.Send(t, "ping")
	server.Expect(t, "ping")
	server.Send(t, "pong")
	require.NoError(t, server.CloseWrite())
	client.ExpectEOF(t, "pong")
	client.Send(t, "late")
	client.Close()
	server.ExpectEOF(t, "late")
	assert.Equal(t, wsproxy.ReasonUpstreamClosed, ended.Next(t).Reason)
}

func TestFailedHandshakesLeaveNothing(t *testing.T) {
	for name, server := range map[string]func(*testkit.Peer){
		"refused": nil,
		"reset":   (*testkit.Peer).Reset,
		"closed":  func(server *testkit.Peer) { server.Close() },
		"answered": func(server *testkit.Peer) {
			io.WriteString(server, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
		},
		"partial": func(server *testkit.Peer) { io.WriteString(server, "HTTP/1.1 101 Switch") },
	} {
		t.Run(name, func(t *testing.T) {
			addr := testkit.RefusingAddr(t)
			if server != nil {
				u := testkit.NewUpstream(t)
				u.Script(server)
				addr = u.Addr
			}
			p, err := wsproxy.New("http://"+addr, wsproxy.WithErrorHandler(func(w http.ResponseWriter, _ *http.Request, _ error) {
				w.WriteHeader(http.StatusBadGateway)
			}))
			require.NoError(t, err)
			s := httptest.NewServer(p)
			defer s.Close()
			testkit.LeavesNothing(t, func() {
				for range testkit.Scale(50, 1000) {
					_, client := testkit.Do(t, s.Listener.Addr().String(), testkit.SampleRequest)
					client.Close()
				}
				p.Close()
				s.CloseClientConnections()
			})
		})
	}
}

// A read stops at urgent data although more bytes follow. The loop gets the event
// for it during the handshake, before the tunnel's relay takes the socket over.
func TestBytesAfterUrgentDataBehindThe101Arrive(t *testing.T) {
	t.Parallel()
	before := strings.Repeat("x", 8<<10) // more than the handshake reads
	upstream := testkit.ServeTCP(t, func(conn net.Conn) {
		if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
			return
		}
		raw, err := conn.(*net.TCPConn).SyscallConn()
		if err != nil {
			return
		}
		raw.Control(func(fd uintptr) {
			syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_CORK, 1) // so that all bytes arrive at once
			syscall.Write(int(fd), []byte(testkit.SampleSwitch+before))
			syscall.Sendto(int(fd), []byte("!"), syscall.MSG_OOB, nil)
			syscall.Write(int(fd), []byte("after"))
			syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_CORK, 0)
		})
		io.Copy(io.Discard, conn)
	})
	p := testkit.NewProxy(t, "http://"+upstream)
	secure, config := testkit.ServeTLS(t, p)
	for name, client := range map[string]*testkit.Peer{
		"TCP": testkit.Dial(t, testkit.Serve(t, p)),
		"TLS": testkit.DialTLS(t, secure, config),
	} {
		t.Run(name, func(t *testing.T) {
			client.Send(t, testkit.SampleRequest)
			client.WantSwitch(t)
			client.Expect(t, before+"after")
		})
	}
}
