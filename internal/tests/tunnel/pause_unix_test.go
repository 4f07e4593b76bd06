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
	p, err := wsproxy.New(target, wsproxy.WithReadTimeout(time.Second), wsproxy.WithDetached())
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
	for range 5 {
		got, late := afterAPause(t)
		if got == nil {
			return
		}
		if late < 100*time.Millisecond {
			t.Fatalf("the client gets %+v", got)
		}
		t.Logf("the client gets %+v, but this process lost the processor for %v, and so may have the proxy's", got, late)
	}
	t.Skip("the machine is too busy")
}

// afterAPause returns the first frame that a client gets instead of a message
// after a pause of the proxy's process, or nil. Clients send all the time, at
// most so much late.
func afterAPause(t *testing.T) (instead *testkit.Frame, late time.Duration) {
	t.Helper()
	u := testkit.NewUpstream(t)
	cmd := exec.Command(os.Args[0], "-test.run=^TestPausedProxy$")
	cmd.Env = append(os.Environ(), pausedVariable+"="+u.URL)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe() // closed when this process ends in any way
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer func() {
		cmd.Process.Signal(syscall.SIGCONT)
		stdin.Close()
		assert.NoError(t, cmd.Wait())
	}()
	addr, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)

	var clients, servers []*testkit.Peer
	for range 20 {
		client, server := testkit.Tunnel(t, strings.TrimSpace(addr), u)
		clients, servers = append(clients, client), append(servers, server)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		const every = 20 * time.Millisecond
		for last := time.Now(); ; {
			select {
			case <-stop:
				return
			case <-time.After(every):
				late = max(late, time.Since(last)-every)
				last = time.Now()
				for _, client := range clients {
					client.Write([]byte(testkit.Frame{First: testkit.Ping, Masked: true, Payload: ""}.String()))
				}
			}
		}
	}()
	time.Sleep(200 * time.Millisecond) // the pause itself is under test
	require.NoError(t, cmd.Process.Signal(syscall.SIGSTOP))
	time.Sleep(1300 * time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGCONT))
	time.Sleep(700 * time.Millisecond) // time for the proxy to end the tunnel by mistake
	for i, client := range clients {
		message := testkit.Frame{First: testkit.Text, Payload: "still here"}
		io.WriteString(servers[i], message.String())
		got, err := testkit.ReadFrame(client)
		require.NoError(t, err)
		if instead == nil && got != message {
			instead = &got
		}
	}
	close(stop) // the clients are busy to the end, also on a slow machine
	<-done
	return instead, late
}
