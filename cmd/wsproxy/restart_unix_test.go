//go:build unix

package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

// A procession is a series of clients that connect to an address every millisecond,
// each for one tunnel, until the test stops them.
type procession struct {
	stop chan struct{}
	all  sync.WaitGroup

	mu     sync.Mutex
	opened int
	failed []error
}

// arrive starts four clients.
func arrive(t *testing.T, addr string) *procession {
	p := &procession{stop: make(chan struct{})}
	for range 4 {
		p.all.Go(func() {
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for {
				select {
				case <-p.stop:
					return
				case <-tick.C:
				}
				err := openTunnel(addr)
				p.mu.Lock()
				if err == nil {
					p.opened++
				} else {
					p.failed = append(p.failed, err)
				}
				p.mu.Unlock()
			}
		})
	}
	t.Cleanup(func() { p.end() })
	p.more(t)
	return p
}

func openTunnel(addr string) error {
	conn, err := net.DialTimeout("tcp", addr, testkit.Patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.(*net.TCPConn).SetLinger(0) // or the closed ones would use up the ports
	conn.SetDeadline(time.Now().Add(testkit.Patience))
	if _, err = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: "+addr+"\r\n"+upgradeFields+"\r\n"); err != nil {
		return err
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err == nil && res.StatusCode != http.StatusSwitchingProtocols {
		err = fmt.Errorf("status %d", res.StatusCode)
	}
	return err
}

// more waits for 20 more tunnels.
func (p *procession) more(t *testing.T) {
	t.Helper()
	count := func() int {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.opened
	}
	before := count()
	testkit.Eventually(t, func() bool { return count() >= before+20 }, "the clients do not get in")
}

// end stops the clients and returns their failures.
func (p *procession) end() []error {
	select {
	case <-p.stop:
	default:
		close(p.stop)
	}
	p.all.Wait()
	return p.failed
}

// accepts is an upstream that accepts every upgrade and does not answer a Close
// frame.
func accepts(t *testing.T) (url string) {
	return serve(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			defer conn.Close()
			io.WriteString(conn, testkit.SampleSwitch)
			io.Copy(io.Discard, conn)
		}
	})
}

// The listener closed first, and clients met ECONNREFUSED. Some give up for good.
func TestARestartWithReusePortRefusesNobody(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere connections that nobody has accepted are reset")
	}
	t.Parallel()
	url := accepts(t)
	old := start(t, "-listen", "127.0.0.1:0", "-reuse-port", "-close-timeout", "100ms", url)
	clients := arrive(t, old.addr)
	for range 2 { // the sockets change their numbers
		replacement := start(t, "-listen", old.addr, "-reuse-port", "-close-timeout", "100ms", url)
		clients.more(t)
		old.signals <- syscall.SIGTERM
		old.exit(t) // 1 if a client was gone before its Close frame
		clients.more(t)
		old = replacement
	}
	require.Empty(t, clients.end())
}

// spawnActivated starts the command as systemd does, with sockets.
func spawnActivated(t *testing.T, environment string, sockets []*os.File, args ...string) (*exec.Cmd, *bufio.Reader, *testkit.Buffer) {
	t.Helper()
	cmd := exec.Command("/bin/sh", append([]string{"-c", environment + ` exec "$0" "$@"`, os.Args[0]}, args...)...)
	cmd.Env = append(os.Environ(), commandVariable+"=1")
	cmd.ExtraFiles = sockets
	stderr := &testkit.Buffer{}
	cmd.Stderr = stderr
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd, bufio.NewReader(stdout), stderr
}

// listening returns a listening socket and its address.
func listening(t *testing.T, network, address string) (*os.File, string) {
	t.Helper()
	l, err := net.Listen(network, address)
	require.NoError(t, err)
	defer l.Close()
	f, err := l.(interface{ File() (*os.File, error) }).File()
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f, l.Addr().String()
}

func TestARestartBehindASocketOfSystemdRefusesNobody(t *testing.T) {
	t.Parallel()
	url := accepts(t)
	socket, addr := listening(t, "tcp", "127.0.0.1:0")
	const environment = "LISTEN_PID=$$ LISTEN_FDS=1"
	old, stdout, _ := spawnActivated(t, environment, []*os.File{socket}, "-close-timeout", "100ms", url)
	line, err := stdout.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "wsproxy: http://"+addr+" -> "+url+"\n", line)
	clients := arrive(t, addr)
	for range 2 {
		require.NoError(t, old.Process.Signal(syscall.SIGTERM))
		old.Wait() // now the clients wait in the socket's queue
		old, _, _ = spawnActivated(t, environment, []*os.File{socket}, "-close-timeout", "100ms", url)
		clients.more(t)
	}
	require.Empty(t, clients.end())
}

func TestSeveralSocketsOfSystemdAreServedByName(t *testing.T) {
	t.Parallel()
	first, firstAddr := listening(t, "tcp", "127.0.0.1:0")
	admin, adminAddr := listening(t, "tcp", "127.0.0.1:0")
	path := testkit.SocketDir(t) + "/wsproxy.sock"
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	require.NoError(t, err)
	l.SetUnlinkOnClose(false)
	defer l.Close()
	second, err := l.File()
	require.NoError(t, err)
	defer second.Close()
	cmd, stdout, _ := spawnActivated(t, "LISTEN_PID=$$ LISTEN_FDS=3 LISTEN_FDNAMES=web:admin:local", []*os.File{first, admin, second})
	for _, want := range []string{"http://" + firstAddr + " -> demo upstream", "http://unix:" + path + " -> demo upstream", "admin: http://" + adminAddr + "/"} {
		line, err := stdout.ReadString('\n')
		require.NoError(t, err)
		require.Equal(t, "wsproxy: "+want+"\n", line)
	}
	for url, conn := range map[string][2]string{
		"http://" + firstAddr + "/":        {"tcp", firstAddr},
		"http://localhost/":                {"unix", path},
		"http://" + adminAddr + "/healthz": {"tcp", adminAddr},
	} {
		client := &http.Client{Timeout: testkit.Patience, Transport: &http.Transport{DisableKeepAlives: true,
			Dial: func(string, string) (net.Conn, error) { return net.Dial(conn[0], conn[1]) }}}
		res, err := client.Get(url)
		require.NoError(t, err)
		res.Body.Close()
		require.Equal(t, http.StatusOK, res.StatusCode, url)
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Wait())
	require.FileExists(t, path, "it is systemd's")
}

// The start line had http:///run/wsproxy.sock/.
func TestAnAdminSocketOfTheFileSystemHasAURL(t *testing.T) {
	path := testkit.SocketDir(t) + "/admin.sock"
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	defer l.Close()
	require.Equal(t, "http://unix:"+path, (&admin{listener: l}).url())
}

func TestBadSocketsOfSystemdAreReported(t *testing.T) {
	t.Parallel()
	socket, _ := listening(t, "tcp", "127.0.0.1:0")
	datagrams, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	require.NoError(t, err)
	defer datagrams.Close()
	packets, err := datagrams.File()
	require.NoError(t, err)
	defer packets.Close()
	ends, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	require.NoError(t, err)
	defer syscall.Close(ends[1])
	connection := os.NewFile(uintptr(ends[0]), "connection")
	defer connection.Close()
	pipe, _, err := os.Pipe()
	require.NoError(t, err)
	defer pipe.Close()
	silent, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	require.NoError(t, err)
	bound := os.NewFile(uintptr(silent), "bound")
	defer bound.Close()
	require.NoError(t, syscall.Bind(silent, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	for _, test := range []struct {
		environment string
		socket      *os.File
		want        string
	}{
		{"LISTEN_PID=me LISTEN_FDS=1", socket, `LISTEN_PID: "me" is not a process`},
		{"LISTEN_PID=$$ LISTEN_FDS=all", socket, `LISTEN_FDS: "all", want a number of sockets`},
		{"LISTEN_PID=$$ LISTEN_FDS=-1", socket, `LISTEN_FDS: "-1", want a number of sockets`},
		{"LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=a:b", socket, `LISTEN_FDNAMES: "a:b", want as many names as LISTEN_FDS, 1`},
		{"LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=a:b", socket, `LISTEN_FDS: descriptor 4, "b", is not a listening stream socket`},
		{"LISTEN_PID=$$ LISTEN_FDS=1", packets, `LISTEN_FDS: descriptor 3, "", is not a listening stream socket`},
		{"LISTEN_PID=$$ LISTEN_FDS=1", bound, `LISTEN_FDS: descriptor 3, "", is not a listening stream socket: want ListenStream= in the socket unit`},
		{"LISTEN_PID=$$ LISTEN_FDS=1", pipe, `LISTEN_FDS: descriptor 3, "", is not a listening stream socket`},
		{"LISTEN_PID=$$ LISTEN_FDS=1", connection, `LISTEN_FDS: descriptor 3, "", is a connection, want Accept=no in the socket unit`},
	} {
		cmd, _, stderr := spawnActivated(t, test.environment, []*os.File{test.socket}, "http://localhost")
		err := cmd.Wait()
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit, test.want)
		require.Equal(t, 1, exit.ExitCode())
		require.True(t, strings.HasPrefix(stderr.String(), "wsproxy: "+test.want), stderr.String())
	}
}

// The variables are for the process that LISTEN_PID names, not for its children.
func TestSocketsOfAnotherProcessAreIgnored(t *testing.T) {
	t.Parallel()
	cmd, stdout, _ := spawnActivated(t, "LISTEN_PID=1 LISTEN_FDS=1", nil, "-listen", "127.0.0.1:0", "http://localhost")
	line, err := stdout.ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, line, "wsproxy: http://127.0.0.1:")
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.NoError(t, cmd.Wait())
}
