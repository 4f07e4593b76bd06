// Package lab is what the tests of interop share: proxies and servers on
// loopback that leave nothing behind, and other people's programs as processes.
package lab

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"example.com/wsproxy"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Patience bounds every wait of a test that should not have to wait.
const Patience = 10 * time.Second

// Proxy returns a silent Proxy, all of whose tunnels the test's end cuts.
func Proxy(t testing.TB, target string, opts ...wsproxy.Option) *wsproxy.Proxy {
	t.Helper()
	p, err := wsproxy.New(target, append([]wsproxy.Option{wsproxy.WithLogger(slog.New(slog.DiscardHandler))}, opts...)...)
	require.NoError(t, err)
	t.Cleanup(func() {
		ended, cancel := context.WithCancel(context.Background())
		cancel()
		p.Shutdown(ended)
		assert.Zero(t, p.Stats().Live, "live tunnels after Shutdown")
	})
	return p
}

// Serve runs h on a server of its own and returns its host:port.
func Serve(t testing.TB, h http.Handler) string {
	t.Helper()
	return start(t, h, (*httptest.Server).Start).Listener.Addr().String()
}

// ServeTLS is Serve for https and wss. The config is for clients of the server,
// and trusts it under the name example.com and its loopback addresses.
func ServeTLS(t testing.TB, h http.Handler) (addr string, client *tls.Config) {
	t.Helper()
	s := start(t, h, (*httptest.Server).StartTLS)
	return s.Listener.Addr().String(), s.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
}

func start(t testing.TB, h http.Handler, how func(*httptest.Server)) *httptest.Server {
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	how(s)
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return s
}

// Require returns the path of a program. Where it is not installed the test is
// skipped, or fails if WSPROXY_PEERS=require.
func Require(t testing.TB, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		Missing(t, "%s is not installed", program)
	}
	return path
}

// Missing skips the test for want of something on the machine, or fails it if
// WSPROXY_PEERS=require.
func Missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("WSPROXY_PEERS") == "require" {
		t.Fatalf("WSPROXY_PEERS=require: "+format, args...)
	}
	t.Skipf(format, args...)
}

// Start runs cmd until the test's end, which kills it and what it started. Its
// output goes to the test's log if the test fails and cmd has no other use
// for it.
func Start(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	output, err := os.CreateTemp(t.TempDir(), "output")
	require.NoError(t, err)
	if cmd.Stdout == nil {
		cmd.Stdout = output
	}
	if cmd.Stderr == nil {
		cmd.Stderr = output
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
		output.Close()
		if said, _ := os.ReadFile(output.Name()); t.Failed() && len(said) > 0 {
			t.Logf("%s said:\n%s", cmd.Path, said)
		}
	})
}

// FreeAddr returns a loopback address that nobody listens at until the test's
// end: it is the client's of a connection.
func FreeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	other, err := l.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { other.Close() })
	return conn.LocalAddr().String()
}

// Listening waits until something accepts connections at addr.
func Listening(t testing.TB, addr string) {
	t.Helper()
	Eventually(t, func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}, "nobody listens at %s", addr)
}

// Eventually waits for cond, which something else is about to make true.
func Eventually(t testing.TB, cond func() bool, format string, args ...any) {
	t.Helper()
	require.Eventually(t, cond, Patience, 5*time.Millisecond, append([]any{format}, args...)...)
}

// Main runs a package's tests, for its TestMain, and fails the run if a
// goroutine or a descriptor is left after all of them have cleaned up.
func Main(m *testing.M) {
	flag.Parse()
	if l, err := net.Listen("tcp", "127.0.0.1:0"); err == nil {
		l.Close() // the runtime's poller has descriptors of its own, made once
	}
	goroutines, descriptors := runtime.NumGoroutine(), Descriptors()
	code := m.Run()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	settled := func() bool { return runtime.NumGoroutine() <= goroutines && Descriptors() <= descriptors }
	for deadline := time.Now().Add(Patience); !settled() && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	if code == 0 && !settled() {
		stacks := make([]byte, 1<<20)
		fmt.Fprintf(os.Stderr, "left behind: %d goroutines, %d descriptors; before: %d, %d\n%s\n",
			runtime.NumGoroutine(), Descriptors(), goroutines, descriptors, stacks[:runtime.Stack(stacks, true)])
		code = 1
	}
	os.Exit(code)
}

// Descriptors counts the process's descriptors, where the system tells.
func Descriptors() int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return len(entries)
}
