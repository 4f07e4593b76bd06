package products_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/lab"
	"github.com/stretchr/testify/require"
)

// startVNC runs TigerVNC's server and, before it, websockify, which serves a page
// with noVNC too. It returns websockify's address.
func startVNC(t *testing.T) (addr string) {
	t.Helper()
	xvnc, websockify := testkit.Program(t, "Xtigervnc"), testkit.Program(t, "websockify")
	node(t, "") // it checks that npm has installed noVNC
	dir := testkit.SocketDir(t)
	cmd := exec.Command(xvnc, "-displayfd", "1", "-rfbport", "-1", "-rfbunixpath", filepath.Join(dir, "rfb"),
		"-SecurityTypes", "None", "-nolisten", "tcp", "-geometry", "640x480", "-desktop", "office")
	lab.Start(t, cmd)
	t.Cleanup(func() { // it removes its lock file
		cmd.Process.Signal(syscall.SIGTERM)
		defer time.AfterFunc(testkit.Patience, func() { cmd.Process.Kill() }).Stop()
		cmd.Wait()
	})
	testkit.Eventually(t, func() bool {
		conn, err := net.Dial("unix", filepath.Join(dir, "rfb"))
		if err == nil {
			conn.Close()
		}
		return err == nil
	}, "Xtigervnc does not listen")

	novnc, err := filepath.Abs("node_modules/@novnc/novnc")
	require.NoError(t, err)
	require.NoError(t, os.Symlink(novnc, filepath.Join(dir, "novnc")))
	page, err := os.ReadFile("testdata/novnc.html")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "index.html"), page, 0o600))
	addr = lab.FreeAddr(t)
	lab.Start(t, exec.Command(websockify, "--web", dir, "--unix-target", filepath.Join(dir, "rfb"), addr))
	lab.Listening(t, addr)
	return addr
}

func testNoVNC(t *testing.T, program string, browser context.Context) {
	c := start(t, program, append(pings, "http://"+startVNC(t))...)
	page := open(t, browser, "http://"+c.addr+"/index.html")
	page.await(t, "document.title", "connected to office")
	page.await(t, "screenSize()", "640x480")
	c.outlast(t)
	page.value("resize(800, 600)") // on the server
	page.await(t, "screenSize()", "800x600")

	c.drain(t)
	page.await(t, "document.title", "disconnected, clean: true")
	c.restart(t)
	page.value("connect()")
	page.await(t, "document.title", "connected to office")
}
