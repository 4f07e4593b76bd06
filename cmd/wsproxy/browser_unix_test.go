//go:build unix

package main

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/require"
)

// browse shows a page in Chromium until the test ends.
func browse(t *testing.T, url string) {
	t.Helper()
	program, err := exec.LookPath("chromium")
	if err != nil {
		testkit.Missing(t, "chromium is not installed")
	}
	profile := t.TempDir()
	said := &testkit.Buffer{}
	cmd := exec.Command(program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-breakpad",
		"--remote-debugging-port=0", // nothing asks there, but it keeps the browser open
		"--user-data-dir="+profile, url)
	cmd.Env = append(os.Environ(), "TMPDIR="+testkit.SocketDir(t)) // it has a socket there
	cmd.Stdout, cmd.Stderr = said, said
	cmd.WaitDelay = testkit.Patience
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // its processes are many
	require.NoError(t, cmd.Start())
	group := -cmd.Process.Pid
	t.Cleanup(func() {
		exited := make(chan struct{})
		go func() {
			cmd.Wait()
			close(exited)
		}()
		syscall.Kill(group, syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(testkit.Patience):
			t.Error("chromium does not obey SIGTERM")
		}
		syscall.Kill(group, syscall.SIGKILL) // those that stayed
		<-exited
		eventually(time.Second, func() bool { // zombies count if nobody reaps them
			return errors.Is(syscall.Kill(group, 0), syscall.ESRCH)
		})
		if t.Failed() {
			t.Log(said)
		}
	})
}

// TestThePageWorksInABrowser checks what the browser does on the network. It loads
// the page, whose script opens the WebSocket, reads the handshake, measures round
// trips, and fetches the counters.
func TestThePageWorksInABrowser(t *testing.T) {
	t.Parallel()
	c := start(t)
	watched, err := wsproxy.New(c.url)
	require.NoError(t, err)
	var mu sync.Mutex
	asked := map[string]int{}
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked[r.URL.Path]++
		mu.Unlock()
		watched.ServeHTTP(w, r)
	})
	browse(t, url+"/")

	var got counters
	if !eventually(3*testkit.Patience, func() bool {
		_, body := c.get(t, "/tunnels", "")
		require.NoError(t, json.Unmarshal([]byte(body), &got))
		mu.Lock()
		defer mu.Unlock()
		// The page sends a probe only after it has shown the handshake, and
		// requests the counters again only after it has shown the first.
		return asked["/tunnels"] >= 2 && len(got.Tunnels) == 1 &&
			got.Tunnels[0].FromClient.Messages >= 2 && got.Tunnels[0].FromUpstream.Messages >= 3
	}) {
		require.Failf(t, "no round trip", "asked for: %v, counters: %+v", asked, got)
	}
	tunnel := got.Tunnels[0]
	require.Equal(t, "/echo", tunnel.Path)
	require.EqualValues(t, 1, got.Opened, "it does not reconnect")
	require.Equal(t, 1, asked["/"])
	require.Equal(t, 1, asked["/echo"])
	require.Empty(t, c.stderr.String())
}

// eventually is require.Eventually for conditions that may themselves
// end the test.
func eventually(limit time.Duration, ok func() bool) bool {
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if ok() {
			return true
		}
	}
	return false
}
