package products_test

import (
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// node returns the command that runs a script with the packages of package-lock.json.
// It uses the newest Node.js on the machine.
func node(t *testing.T, script string, args ...string) *exec.Cmd {
	t.Helper()
	script, err := filepath.Abs(script)
	require.NoError(t, err)
	if _, err := os.Stat("node_modules"); err != nil {
		testkit.Missing(t, "there is no node_modules here: run npm ci --prefix interop/products")
	}
	newer, err := filepath.Glob("../node/node_modules/node-linux-*/bin/node")
	require.NoError(t, err)
	for _, program := range newer { // for another processor, it does not run
		if program, err = filepath.Abs(program); err == nil && exec.Command(program, "--version").Run() == nil {
			return exec.Command(program, append([]string{script}, args...)...)
		}
	}
	return exec.Command(testkit.Program(t, "node"), append([]string{script}, args...)...)
}

// startVite runs a development server with its base at /app/. It returns its address
// and the directory with its sources.
func startVite(t *testing.T) (addr, dir string) {
	t.Helper()
	addr, dir = lab.FreeAddr(t), t.TempDir()
	host, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	for name, text := range map[string]string{
		"index.html": `<!DOCTYPE html><p id="text"></p><script type="module" src="main.js"></script>`,
		"main.js": "import { text } from './text.js'\nconst show = (text) => { document.getElementById('text').textContent = text }\n" +
			"show(text)\nimport.meta.hot.accept('./text.js', (changed) => show(changed.text))\n",
		"text.js": "export const text = 'first'\n",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	cmd := node(t, "node_modules/vite/bin/vite.js", "--host", host, "--port", port, "--strictPort", "--base", "/app/")
	cmd.Dir = dir
	lab.Start(t, cmd)
	testkit.Eventually(t, func() bool { // it first opens and closes the port, to see whether it is free
		res, err := http.Get("http://" + addr + "/app/")
		if err == nil {
			res.Body.Close()
		}
		return err == nil && res.StatusCode == http.StatusOK
	}, "Vite does not serve")
	return addr, dir
}

func testVite(t *testing.T, program string, browser context.Context) {
	addr, dir := startVite(t)
	refused := start(t, program, "-route", "/app/=http://"+addr)
	r, err := http.NewRequest(http.MethodGet, "http://"+refused.addr+"/app/", nil)
	require.NoError(t, err)
	r.Host = "dev.example"
	res, err := http.DefaultTransport.RoundTrip(r)
	require.NoError(t, err)
	require.Equal(t, http.StatusForbidden, res.StatusCode, "Vite no longer checks Host")
	require.Contains(t, testkit.Body(t, res), "server.allowedHosts")

	c := start(t, program, append(pings, "-target-host", "-route", "/app/=http://"+addr)...)
	_, port, err := net.SplitHostPort(c.addr)
	require.NoError(t, err)
	page := open(t, browser, "http://dev.example:"+port+"/app/")
	edit := func(text string) {
		t.Helper()
		require.NoError(t, os.WriteFile(filepath.Join(dir, "text.js"), []byte("export const text = '"+text+"'\n"), 0o600))
		page.await(t, "document.getElementById('text').textContent", text)
	}
	page.await(t, "document.getElementById('text').textContent", "first")
	page.await(t, "window.loaded = 'once'", "once")
	c.outlast(t)
	edit("replaced while the page stays")
	page.await(t, "window.loaded", "once")

	c.drain(t)
	require.Equal(t, "vite-hmr", c.endings(t)[0].Subprotocol)
	c.restart(t)
	page.await(t, "window.loaded", "undefined") // Vite's client reloads the page when the server is back
	page.await(t, "document.getElementById('text').textContent", "replaced while the page stays")
	edit("replaced through the next process")
}
