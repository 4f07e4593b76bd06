package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A child is a process that the bench has started. It ends with its context and
// with the bench.
type child struct {
	name   string
	cmd    *exec.Cmd
	cancel context.CancelFunc
	gone   chan struct{} // closed when it has ended
	said   tail
	in     *json.Encoder // nil for programs that are not ours
	out    *json.Decoder
}

// A command says how to start a child.
type command struct {
	name   string
	args   []string
	env    []string
	signal os.Signal // ends it and all its children
	ours   bool      // it reads and writes lines of JSON
	core   int       // to pin it to; -1: any
}

// role returns the command that runs this program in a role.
func role(name string, core int, args ...string) command {
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	return command{
		name: name, args: append([]string{self, "-role", name}, args...),
		signal: os.Kill, ours: true, core: core,
	}
}

// start starts a child. It must be called from the one thread that run has
// locked: the kernel ends the children when that thread ends, and they inherit
// its pinning.
func start(ctx context.Context, c command) (*child, error) {
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	p := &child{name: c.name, cmd: cmd, cancel: cancel, gone: make(chan struct{})}
	cmd.Env = append(os.Environ(), c.env...)
	cmd.Stderr = &p.said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: c.signal.(syscall.Signal)}
	cmd.Cancel = func() error { return cmd.Process.Signal(c.signal) }
	cmd.WaitDelay = 5 * time.Second
	if c.ours {
		in, err := cmd.StdinPipe()
		if err != nil {
			cancel()
			return nil, err
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			cancel()
			return nil, err
		}
		p.in, p.out = json.NewEncoder(in), json.NewDecoder(out)
	}
	if c.core >= 0 {
		cmd.Env = append(cmd.Env, "GOMAXPROCS=1")
		var all, one unix.CPUSet
		one.Set(c.core)
		if err := unix.SchedGetaffinity(0, &all); err == nil && unix.SchedSetaffinity(0, &one) == nil {
			defer unix.SchedSetaffinity(0, &all)
		}
	}
	if err := cmd.Start(); err != nil {
		cancel()
		return nil, err
	}
	go func() {
		defer close(p.gone)
		cmd.Wait() // ask reports how it ended
		cancel()
	}()
	return p, nil
}

// askLimit bounds every exchange with a child.
const askLimit = 2 * time.Minute

// ask sends one of our children a line and reads its reply.
func (p *child) ask(question, reply any) error {
	defer time.AfterFunc(askLimit, p.cancel).Stop()
	if err := p.in.Encode(question); err != nil {
		return p.failed(err)
	}
	if err := p.out.Decode(reply); err != nil {
		return p.failed(err)
	}
	return nil
}

func (p *child) failed(err error) error {
	return fmt.Errorf("%s: %w; it said: %s", p.name, err, p.said.String())
}

// stop ends the child and waits for its end.
func (p *child) stop() {
	p.cancel()
	<-p.gone
}

// A tail keeps the last bytes written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	t.text = t.text[max(len(t.text)-2000, 0):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.text))
}
