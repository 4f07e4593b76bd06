package products_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/cookiejar"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/lab"
	"github.com/coder/websocket"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const jupyterToken = "the-token"

// jupyterPatience is for Python, which takes seconds to start on a busy machine.
const jupyterPatience = 3 * testkit.Patience

// startJupyter runs a Jupyter server below /jupyter/ and returns its address. It accepts
// the Host jupyter.example and loopback addresses.
func startJupyter(t *testing.T) (addr string) {
	t.Helper()
	program := testkit.Program(t, "jupyter-server")
	addr = lab.FreeAddr(t)
	host, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	dir := t.TempDir()
	config := fmt.Sprintf(`{"ServerApp": {"ip": %q, "port": %s, "port_retries": 0, "base_url": "/jupyter/", "root_dir": %q,
		"local_hostnames": ["jupyter.example"], "open_browser": false, "allow_root": true}}`, host, port, dir)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "jupyter_server_config.json"), []byte(config), 0o600))
	cmd := exec.Command(program)
	cmd.Dir = dir
	cmd.Env = append(cmd.Environ(), "JUPYTER_TOKEN="+jupyterToken, "JUPYTER_CONFIG_DIR="+dir)
	for _, name := range []string{"HOME", "IPYTHONDIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"} {
		cmd.Env = append(cmd.Env, name+"="+filepath.Join(dir, strings.ToLower(name)))
	}
	lab.Start(t, cmd)
	t.Cleanup(func() { // it ends its kernels, which are in sessions of their own
		cmd.Process.Signal(syscall.SIGTERM)
		defer time.AfterFunc(testkit.Patience, func() { cmd.Process.Kill() }).Stop()
		cmd.Wait()
	})
	for deadline := time.Now().Add(jupyterPatience); ; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("tcp", addr); err == nil {
			conn.Close()
			break
		}
		require.True(t, time.Now().Before(deadline), "Jupyter does not listen")
	}
	var about struct{ Version string }
	require.Equal(t, http.StatusOK, ask(t, http.DefaultClient, "GET", addr, "", "", &about))
	t.Log("Jupyter Server", about.Version)
	return addr
}

// ask sends a request to Jupyter's API with the token, and with another Host than addr
// if host is not empty. It decodes an answer with success.
func ask(t *testing.T, client *http.Client, method, addr, host, path string, answer any) (status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), jupyterPatience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "http://"+addr+"/jupyter/api"+path, nil)
	require.NoError(t, err)
	r.Host = host
	r.Header.Set("Authorization", "token "+jupyterToken)
	res, err := client.Do(r)
	require.NoError(t, err)
	defer res.Body.Close()
	if res.StatusCode < 300 {
		require.NoError(t, json.NewDecoder(res.Body).Decode(answer))
	}
	return res.StatusCode
}

// logIn returns a client with the cookie that Jupyter sets at addr.
func logIn(t *testing.T, addr string) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	client := &http.Client{Jar: jar}
	t.Cleanup(client.CloseIdleConnections)
	var answer any
	require.Equal(t, http.StatusOK, ask(t, client, "GET", addr, "", "/status", &answer))
	return client
}

// startKernel starts a kernel, waits until it answers, and returns the path of its
// WebSocket. It asks Jupyter itself, whose first answers may take longer than the
// proxy waits.
func startKernel(t *testing.T, jupyter string) (path string) {
	t.Helper()
	var specs struct{ Kernelspecs map[string]any }
	require.Equal(t, http.StatusOK, ask(t, http.DefaultClient, "GET", jupyter, "", "/kernelspecs", &specs))
	if specs.Kernelspecs["python3"] == nil {
		testkit.Missing(t, "ipykernel is not installed")
	}
	var kernel struct{ ID string }
	require.Equal(t, http.StatusCreated, ask(t, http.DefaultClient, "POST", jupyter, "", "/kernels", &kernel))
	path = "/jupyter/api/kernels/" + kernel.ID + "/channels"
	conn, status := dialKernel(t, http.DefaultClient, jupyter, path+"?token="+jupyterToken, "http://"+jupyter)
	require.Equal(t, http.StatusSwitchingProtocols, status)
	conn.CloseNow()
	return path
}

// dialKernel opens a kernel's WebSocket as a page of origin does. It returns the status
// if that is not 101.
func dialKernel(t *testing.T, client *http.Client, addr, path, origin string) (conn *websocket.Conn, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), jupyterPatience)
	defer cancel()
	conn, res, err := websocket.Dial(ctx, "ws://"+addr+path, &websocket.DialOptions{
		HTTPClient: client, HTTPHeader: http.Header{"Origin": {origin}}, Subprotocols: []string{"v1.kernel.websocket.jupyter.org"},
	})
	if err != nil {
		require.NotNil(t, res, err)
		return nil, res.StatusCode
	}
	t.Cleanup(func() { conn.CloseNow() })
	return conn, res.StatusCode
}

// A notebook is a client of a kernel.
type notebook struct {
	conn    *websocket.Conn
	results chan string
	ended   chan string // receives the status of the Close frame
}

func openNotebook(t *testing.T, c *command, path string) *notebook {
	t.Helper()
	conn, status := dialKernel(t, logIn(t, c.addr), c.addr, path, "http://"+c.addr)
	require.Equal(t, http.StatusSwitchingProtocols, status)
	require.Equal(t, "v1.kernel.websocket.jupyter.org", conn.Subprotocol())
	n := &notebook{conn, make(chan string, 10), make(chan string, 1)}
	go n.read(t.Context())
	return n
}

// read answers pings until the connection ends.
func (n *notebook) read(ctx context.Context) {
	for {
		_, b, err := n.conn.Read(ctx)
		if err != nil {
			n.ended <- websocket.CloseStatus(err).String()
			return
		}
		var header struct {
			Type string `json:"msg_type"`
		}
		parts := split(b) // channel, header, parent's header, metadata, content
		if len(parts) < 5 || json.Unmarshal(parts[1], &header) != nil {
			n.results <- fmt.Sprintf("malformed: %q", b)
			continue
		}
		switch header.Type {
		case "execute_result":
			var content struct{ Data map[string]any }
			if json.Unmarshal(parts[4], &content) == nil {
				n.results <- fmt.Sprint(content.Data["text/plain"])
			}
		case "error":
			n.results <- string(parts[4])
		}
	}
}

// run executes code in the kernel and checks the value of its last expression.
func (n *notebook) run(t *testing.T, code, want string) {
	t.Helper()
	content, err := json.Marshal(map[string]any{"code": code, "silent": false, "store_history": false, "allow_stdin": false})
	require.NoError(t, err)
	header := `{"msg_id": "1", "msg_type": "execute_request", "username": "", "session": "1", "date": "2026-11-21T00:00:00Z", "version": "5.3"}`
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	defer cancel()
	require.NoError(t, n.conn.Write(ctx, websocket.MessageBinary, join("shell", header, "{}", "{}", string(content))))
	require.Equal(t, want, testkit.Within(t, n.results, "the kernel's result"))
}

// join returns parts as a message of v1.kernel.websocket.jupyter.org: the number of
// offsets, the offset of each part and of the end, and the parts.
func join(parts ...string) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(parts)+1))
	at := uint64(8 * (len(parts) + 2))
	for _, part := range parts {
		b = binary.LittleEndian.AppendUint64(b, at)
		at += uint64(len(part))
	}
	b = binary.LittleEndian.AppendUint64(b, at)
	return append(b, strings.Join(parts, "")...)
}

// split returns the parts of a message, or none if it is malformed.
func split(b []byte) (parts [][]byte) {
	if len(b) < 8 {
		return nil
	}
	n := binary.LittleEndian.Uint64(b)
	if n > uint64(len(b))/8-1 {
		return nil
	}
	for i := uint64(1); i < n; i++ {
		from, to := binary.LittleEndian.Uint64(b[8*i:]), binary.LittleEndian.Uint64(b[8*i+8:])
		if from > to || to > uint64(len(b)) {
			return nil
		}
		parts = append(parts, b[from:to])
	}
	return parts
}

func testJupyter(t *testing.T, program string) {
	jupyter := startJupyter(t)
	path := startKernel(t, jupyter)
	c := start(t, program, append(pings, "-route", "/jupyter/=http://"+jupyter)...)
	checkJupyterHostAndOrigin(t, program, jupyter, c, path)

	n := openNotebook(t, c, path)
	n.run(t, "x = 6; x", "6")
	c.outlast(t)
	n.run(t, "7 * x", "42")

	c.drain(t)
	require.Equal(t, "StatusGoingAway", testkit.Within(t, n.ended, "the end"))
	require.Equal(t, "v1.kernel.websocket.jupyter.org", c.endings(t)[0].Subprotocol)
	c.restart(t)
	openNotebook(t, c, path).run(t, "x + 1", "7") // the kernel lives on
}

// checkJupyterHostAndOrigin checks that -target-host satisfies Jupyter's check of Host and
// fails its check of Origin.
func checkJupyterHostAndOrigin(t *testing.T, program, jupyter string, c *command, path string) {
	t.Helper()
	changed := start(t, program, "-target-host", "-route", "/jupyter/=http://"+jupyter)
	var answer any
	for _, r := range []struct {
		c    *command
		host string
		want int
	}{
		{c, "jupyter.example", http.StatusOK},
		{c, "other.example", http.StatusForbidden},
		{c, "localhost", http.StatusForbidden}, // only in the list's default
		{changed, "other.example", http.StatusOK},
	} {
		assert.Equal(t, r.want, ask(t, http.DefaultClient, "GET", r.c.addr, r.host, "", &answer), r.host)
	}

	_, status := dialKernel(t, logIn(t, c.addr), c.addr, path, "http://other.example")
	assert.Equal(t, http.StatusForbidden, status)
	// Jupyter compares Origin with Host, which is no longer the browser's, except if the
	// request has the token.
	_, status = dialKernel(t, logIn(t, changed.addr), changed.addr, path, "http://"+changed.addr)
	assert.Equal(t, http.StatusForbidden, status)
	conn, status := dialKernel(t, http.DefaultClient, changed.addr, path+"?token="+jupyterToken, "http://"+changed.addr)
	require.Equal(t, http.StatusSwitchingProtocols, status)
	conn.CloseNow()
}
