//go:build unix

package tunnel_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// pausedVariable makes the test binary run a proxy to the target in its value.
const pausedVariable = "WSPROXY_TEST_PAUSED"

// TestPausedProxy is the process that TestAPauseOfTheProcessEndsNoBusyTunnel
// stops. It prints its address.
func TestPausedProxy(t *testing.T) {
	target := os.Getenv(pausedVariable)
	if target == "" {
		t.Skip("runs only as a child process")
	}
	p, err := wsproxy.New(target, wsproxy.WithReadTimeout(2*time.Second), wsproxy.WithDetached())
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	fmt.Println(l.Addr())
	go http.Serve(l, p)
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

func TestAPauseOfTheProcessEndsNoBusyTunnel(t *testing.T) {
	t.Parallel()
	u := testkit.NewUpstream(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestPausedProxy$")
	cmd.Env = append(os.Environ(), pausedVariable+"="+u.URL)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe() // closed when this process ends in any way
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGCONT)
		stdin.Close()
		assert.NoError(t, cmd.Wait())
	})
	addr, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)

	var clients, servers []*testkit.Peer
	for range 20 {
		client, server := testkit.Tunnel(t, strings.TrimSpace(addr), u)
		clients, servers = append(clients, client), append(servers, server)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	defer func() { close(stop); <-done }() // busy to the end, also on a slow machine
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				for _, client := range clients {
					client.Write([]byte(testkit.Frame{First: testkit.Ping, Masked: true, Payload: ""}.String()))
				}
			}
		}
	}()
	time.Sleep(200 * time.Millisecond) // the pause itself is under test
	require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
	time.Sleep(2300 * time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
	time.Sleep(700 * time.Millisecond) // time for the proxy to end the tunnel by mistake
	for i, client := range clients {
		server := testkit.End{Peer: servers[i], Client: false}
		server.SendFrame(t, testkit.Text, "still here")
		testkit.End{Peer: client, Client: true}.ExpectFrame(t, testkit.Text, "still here") // without a Close frame before it
	}
}
