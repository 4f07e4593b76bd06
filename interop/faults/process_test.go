//go:build linux

package faults_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/lab"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// patience bounds every wait of a test. It is long because dozens of processes
// may share a small machine.
const patience = 4 * testkit.Patience

// eventually waits until cond returns true.
func eventually(t testing.TB, cond func() bool, format string, args ...any) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(5 * time.Millisecond) {
		require.True(t, time.Now().Before(deadline), append([]any{format}, args...)...)
	}
}

// A process plays a role until the test ends.
type process struct {
	*exec.Cmd
	role
	addr string
	tls  *tls.Config // for clients; nil: no TLS
	dial func(network, addr string) (net.Conn, error)

	mu  sync.Mutex
	in  io.Writer
	out *json.Decoder
	bad bool

	goroutines, descriptors int            // before the faults
	endings                 map[string]int // of tunnels that the fault does not affect
}

func start(t testing.TB, r role) *process {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	return launch(t, r, exec.Command(self))
}

func launch(t testing.TB, r role, cmd *exec.Cmd) *process {
	t.Helper()
	encoded, err := json.Marshal(r)
	require.NoError(t, err)
	// A data race ends the process, which fails the test.
	cmd.Env = append(os.Environ(), roleVariable+"="+string(encoded), "GORACE=halt_on_error=1")
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	lab.Start(t, cmd)
	p := &process{Cmd: cmd, role: r, in: in, out: json.NewDecoder(out), dial: net.Dial}
	rep := p.ask(t, "report")
	p.addr = rep.Addr
	if r.TLS {
		certificate, err := x509.ParseCertificate(rep.Certificate)
		require.NoError(t, err)
		p.tls = &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "example.com"}
		p.tls.RootCAs.AddCert(certificate)
	}
	p.remember(t)
	return p
}

// startPair starts an upstream, and the proxy that r describes to it.
func startPair(t testing.TB, r role) (proxy, up *process) {
	t.Helper()
	up = start(t, role{Kind: "upstream", Listen: testkit.HeldAddr(t)}) // the test may kill it and start another
	r.Kind, r.Target = "proxy", "http://"+up.addr
	return start(t, r), up
}

// ask makes the process run a command. It may be called from any goroutine.
func (p *process) ask(t testing.TB, do string, args ...string) report {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	var rep report
	err := json.NewEncoder(p.in).Encode(command{do, args})
	if err == nil {
		err = p.out.Decode(&rep)
	}
	if err == nil && rep.Err != "" {
		err = fmt.Errorf("%s", rep.Err)
	}
	if err != nil && !p.bad {
		p.bad = true
		t.Errorf("the %s does not do %q: %v", p.Kind, do, err)
	}
	return rep
}

// signal sends a signal and waits until it has stopped or ended the process.
func (p *process) signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	require.NoError(t, p.Process.Signal(s))
	if event := map[syscall.Signal]int{syscall.SIGSTOP: unix.WSTOPPED, syscall.SIGKILL: unix.WEXITED}[s]; event != 0 {
		require.NoError(t, unix.Waitid(unix.P_PID, p.Process.Pid, nil, event|unix.WNOWAIT, nil))
	}
}

// numbers returns the process's open descriptors.
func (p *process) numbers() []int {
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.Process.Pid))
	var numbers []int
	for _, e := range entries {
		n, _ := strconv.Atoi(e.Name())
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	return numbers
}

// spare limits the process to n more descriptors than it has open. If n is
// negative it removes the limit.
func (p *process) spare(t testing.TB, n int) {
	t.Helper()
	var limit unix.Rlimit
	require.NoError(t, unix.Prlimit(p.Process.Pid, unix.RLIMIT_NOFILE, nil, &limit))
	limit.Cur = limit.Max
	if n >= 0 {
		taken := p.numbers()
		limit.Cur = 0
		for ; n > 0 || slices.Contains(taken, int(limit.Cur)); limit.Cur++ {
			if !slices.Contains(taken, int(limit.Cur)) {
				n--
			}
		}
	}
	require.NoError(t, unix.Prlimit(p.Process.Pid, unix.RLIMIT_NOFILE, &limit, nil))
}

// remember records the resources that the process holds now, for left.
func (p *process) remember(t testing.TB) {
	t.Helper()
	p.goroutines, p.descriptors = p.ask(t, "report").Goroutines, len(p.numbers())
}

// left returns what the process holds beyond the resources that remember
// recorded.
func (p *process) left(t testing.TB) (what string) {
	rep := p.ask(t, "report")
	if n := len(p.numbers()); n > p.descriptors {
		what += fmt.Sprintf("%d descriptors, at first %d; ", n, p.descriptors)
	}
	if rep.Goroutines > p.goroutines {
		what += fmt.Sprintf("%d goroutines, at first %d; ", rep.Goroutines, p.goroutines)
	}
	if rep.Live != 0 || rep.Handshakes != 0 || rep.Conns != 0 {
		what += fmt.Sprintf("%d tunnels, %d handshakes, %d connections; ", rep.Live, rep.Handshakes, rep.Conns)
	}
	return what
}

// settled checks that every process has released its resources after a fault,
// and that the proxy, the first of them, serves the next client.
func settled(t testing.TB, ps ...*process) {
	t.Helper()
	clean := func(when string) {
		t.Helper()
		for _, p := range ps {
			for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
				left := p.left(t)
				if left == "" {
					break
				}
				require.True(t, time.Now().Before(deadline), "left over in the %s %s: %s\n%s", p.Kind, when, left, p.ask(t, "stacks").Stacks)
			}
		}
	}
	clean("after the fault")
	c, err := ps[0].open("/echo")
	require.NoError(t, err, "the next client is not served")
	defer c.Close()
	c.sendText(t, "next")
	c.expectText(t, "next")
	c.leave(t)
	clean("after the next client")
	ps[0].endings = ps[0].ask(t, "report").Endings
}

// ended waits until n tunnels of the proxy have ended, all with the same
// ending.
func (p *process) ended(t testing.TB, n int, how string) {
	t.Helper()
	var endings map[string]int
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		endings = p.ask(t, "report").Endings
		sum := 0
		for how := range endings {
			if endings[how] -= p.endings[how]; endings[how] == 0 {
				delete(endings, how)
			}
			sum += endings[how]
		}
		if sum >= n || time.Now().After(deadline) {
			break
		}
	}
	require.Equal(t, map[string]int{how: n}, endings, "how the tunnels ended")
}

// bothKinds runs a test over plain TCP, which uses the event loops, and with
// TLS from the client, which uses the portable relay.
func bothKinds(t *testing.T, test func(t *testing.T, secure bool)) {
	t.Parallel()
	for name, secure := range map[string]bool{"plain": false, "TLS": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, secure)
		})
	}
}
