package upstream_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

// backendVariable makes the test binary a server at the address in its value.
const backendVariable = "WSPROXY_TEST_BACKEND"

// runBackend serves until the test that started it ends.
func runBackend(addr string) {
	l, err := net.Listen("tcp", addr)
	for deadline := time.Now().Add(testkit.Patience); err != nil && time.Now().Before(deadline); l, err = net.Listen("tcp", addr) {
		time.Sleep(10 * time.Millisecond) // another process holds its old port for a moment
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(l.Addr())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	var mode atomic.Value
	mode.Store("healthy")
	working := testkit.Echo(l.Addr().String())
	http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if to, ok := strings.CutPrefix(r.URL.Path, "/mode/"); ok {
			mode.Store(to)
			return
		}
		switch mode.Load() {
		case "503":
			http.Error(w, "busy", http.StatusServiceUnavailable)
		case "slow":
			time.Sleep(50 * time.Millisecond)
			fallthrough
		default:
			working.ServeHTTP(w, r)
		}
	}))
	os.Exit(0)
}

// A backend is a server process.
type backend struct {
	*exec.Cmd
	addr string
}

// startBackend runs a backend at addr, whose port may be 0, and kills it when
// the test ends.
func startBackend(t testing.TB, addr string) *backend {
	t.Helper()
	b := &backend{Cmd: exec.Command(os.Args[0])}
	b.Env = append(os.Environ(), backendVariable+"="+addr)
	b.Stderr = os.Stderr
	_, err := b.StdinPipe() // closed when this process ends in any way
	require.NoError(t, err)
	out, err := b.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, b.Start())
	t.Cleanup(func() { b.kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err, "the backend does not print its address")
	b.addr = strings.TrimSpace(line)
	return b
}

// kill kills the process and waits until it has ended.
func (b *backend) kill() {
	b.Process.Kill()
	b.Wait()
}

// set changes how the backend responds: "healthy", "slow" or "503".
func (b *backend) set(t testing.TB, mode string) {
	t.Helper()
	res, err := http.Get("http://" + b.addr + "/mode/" + mode)
	require.NoError(t, err)
	res.Body.Close()
}
