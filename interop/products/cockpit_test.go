package products_test

import (
	"context"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/lab"
	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
)

// startCockpit runs cockpit-ws, by default with TLS. It returns its address and the
// file of its certificate, which is self-signed.
func startCockpit(t *testing.T, args ...string) (addr, certificate string) {
	t.Helper()
	const program = "/usr/lib/cockpit/cockpit-ws"
	if _, err := os.Stat(program); err != nil {
		testkit.Missing(t, "cockpit-ws is not installed")
	}
	addr = lab.FreeAddr(t)
	host, port, err := net.SplitHostPort(addr)
	require.NoError(t, err)
	dir := t.TempDir()
	certs := filepath.Join(dir, "cockpit", "ws-certs.d")
	require.NoError(t, os.MkdirAll(certs, 0o700))
	certificate = filepath.Join(certs, "0-self-signed.cert")
	cert, key := lab.Certificate(t, host)
	for name, text := range map[string][]byte{
		filepath.Join(dir, "cockpit", "cockpit.conf"): []byte("[WebService]\nUrlRoot = /cockpit/\n"),
		certificate: cert,
		filepath.Join(certs, "0-self-signed.key"): key,
	} {
		require.NoError(t, os.WriteFile(name, text, 0o600))
	}
	cmd := exec.Command(program, append([]string{"--address", host, "--port", port}, args...)...)
	cmd.Env = append(cmd.Environ(), "XDG_CONFIG_DIRS="+dir)
	lab.Start(t, cmd)
	lab.Listening(t, addr)
	return addr, certificate
}

// dialCockpit opens Cockpit's WebSocket as a page of origin does. It returns the
// status if that is not 101.
func dialCockpit(t *testing.T, c *command, origin string) (conn *websocket.Conn, status int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	defer cancel()
	conn, res, err := websocket.Dial(ctx, "ws://"+c.addr+"/cockpit/socket", &websocket.DialOptions{
		Subprotocols: []string{"cockpit1"}, HTTPHeader: http.Header{"Origin": {origin}},
	})
	if err != nil {
		require.NotNil(t, res, err)
		return nil, res.StatusCode
	}
	t.Cleanup(func() { conn.CloseNow() })
	return conn, res.StatusCode
}

// message returns the next message that contains want. Cockpit also sends pings, as
// messages.
func message(t *testing.T, conn *websocket.Conn, want string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	defer cancel()
	for {
		_, text, err := conn.Read(ctx)
		require.NoError(t, err, want)
		if strings.Contains(string(text), want) {
			return string(text)
		}
	}
}

func testCockpitsCertificateAndOrigin(t *testing.T, program string) {
	addr, certificate := startCockpit(t)
	route := "/cockpit/=https://" + addr

	distrusting := start(t, program, "-route", route)
	_, status := dialCockpit(t, distrusting, "https://"+distrusting.addr)
	require.Equal(t, http.StatusBadGateway, status)
	distrusting.logs.Await(t, "-target-ca")

	c := start(t, program, "-target-ca", certificate, "-route", route)
	conn, status := dialCockpit(t, c, "https://"+c.addr)
	require.Equal(t, http.StatusSwitchingProtocols, status)
	message(t, conn, `"problem":"no-session"`)
	_, status = dialCockpit(t, c, "https://other.example")
	require.Equal(t, http.StatusForbidden, status)

	// Cockpit compares Origin with Host, which is no longer the browser's.
	changed := start(t, program, "-target-ca", certificate, "-target-host", "-route", route)
	_, status = dialCockpit(t, changed, "https://"+changed.addr)
	require.Equal(t, http.StatusForbidden, status)
}

func testCockpitsSession(t *testing.T, program string) {
	addr, _ := startCockpit(t, "--local-session="+testkit.Program(t, "cockpit-bridge"))
	c := start(t, program, append(pings, "-route", "/cockpit/=http://"+addr)...)
	conn, status := dialCockpit(t, c, "http://"+c.addr)
	require.Equal(t, http.StatusSwitchingProtocols, status)
	message(t, conn, `"command":"init"`)
	send := func(text string) {
		t.Helper()
		require.NoError(t, conn.Write(t.Context(), websocket.MessageText, []byte(text)))
	}
	send("\n" + `{"command":"init","version":1}`)
	send("\n" + `{"command":"open","channel":"1:1","payload":"echo"}`)
	send("1:1\nbefore")
	require.Equal(t, "1:1\nbefore", message(t, conn, "1:1\n"))
	heard := make(chan string, 1)
	go func() { // the client answers pings while it reads
		for {
			_, text, err := conn.Read(t.Context())
			if err != nil {
				heard <- websocket.CloseStatus(err).String()
				return
			}
			if strings.HasPrefix(string(text), "1:1\n") {
				heard <- string(text)
			}
		}
	}()
	c.outlast(t)
	send("1:1\nafter the silence")
	require.Equal(t, "1:1\nafter the silence", testkit.Within(t, heard, "the echo"))
	c.drain(t)
	require.Equal(t, "StatusGoingAway", testkit.Within(t, heard, "the end"))
}
