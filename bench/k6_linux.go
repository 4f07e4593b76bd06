package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// buildK6 builds k6. The first time takes minutes.
func buildK6(ctx context.Context, dir string) (string, error) {
	program := filepath.Join(dir, "k6")
	build := exec.CommandContext(ctx, "go", "build", "-o", program, "go.k6.io/k6")
	build.Dir = "k6"
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build of k6: %w: %s", err, out)
	}
	return program, nil
}

// k6 makes k6 run the users of k6/sessions.js. k6, proxy and upstream share all
// cores. The CPU time is that of the whole run. k6 hardly collects garbage, because
// that delays its users by milliseconds; it takes up to 3 GB.
func (t *trial) k6(m measure) (map[string]float64, error) {
	users, length := m.conns, 40*t.window
	if t.quick {
		users, length = 16, time.Second
	}
	path := filepath.Join(t.bench.dir, "k6.json")
	before, err := cpuTime(t.pids)
	if err != nil {
		return nil, err
	}
	k6, err := start(t.ctx, command{
		name: "k6", args: []string{t.k6Program, "run", "--quiet", "--no-usage-report", "--address", "", "--summary-export", path,
			"-e", "URL=ws://" + t.addr + echoPath, "-e", fmt.Sprint("USERS=", users), "-e", fmt.Sprint("SECONDS=", length.Seconds()),
			filepath.Join("k6", "sessions.js")},
		env: []string{"GOGC=2000"}, signal: os.Kill, core: -1,
	})
	if err != nil {
		return nil, err
	}
	<-k6.gone
	if !k6.cmd.ProcessState.Success() {
		return nil, k6.failed(errors.New(k6.cmd.ProcessState.String()))
	}
	after, err := cpuTime(t.pids)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	values, err := parseK6(text, length)
	if err == nil {
		values["cpu"] = float64((after - before).Nanoseconds()) / 1e3 / (values["rate"] * length.Seconds())
	}
	return values, err
}
