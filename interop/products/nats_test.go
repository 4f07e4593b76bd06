package products_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/interop/internal/lab"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
)

// startNATS runs a server and returns its address for WebSockets.
func startNATS(t *testing.T) (ws string) {
	t.Helper()
	program := testkit.Program(t, "nats-server")
	ws = lab.FreeAddr(t)
	host, port, err := net.SplitHostPort(ws)
	require.NoError(t, err)
	config := filepath.Join(t.TempDir(), "nats.conf")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil,
		"host: 127.0.0.1\nport: -1\nwebsocket {host: %s, port: %s, no_tls: true, compression: true}\n", host, port), 0o600))
	lab.Start(t, exec.Command(program, "-c", config))
	lab.Listening(t, ws)
	return ws
}

func testNATS(t *testing.T, program string) {
	c := start(t, program, append(pings, "-route", "/nats=http://"+startNATS(t))...)
	lost, connected := make(chan error, 100), make(chan struct{}, 100)
	client, err := nats.Connect("ws://"+c.addr, nats.ProxyPath("/nats"), nats.Compression(true),
		nats.ReconnectWait(100*time.Millisecond), nats.ReconnectJitter(0, 0),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { lost <- err }),
		nats.ReconnectHandler(func(*nats.Conn) { connected <- struct{}{} }))
	require.NoError(t, err)
	t.Cleanup(client.Close)
	t.Log("NATS ", client.ConnectedServerVersion())
	_, err = client.Subscribe("upper", func(m *nats.Msg) { m.Respond(append([]byte("re: "), m.Data...)) })
	require.NoError(t, err)
	exchange := func(text string) {
		t.Helper()
		m, err := client.Request("upper", []byte(text), testkit.Patience)
		require.NoError(t, err)
		require.Equal(t, "re: "+text, string(m.Data))
	}
	exchange("before")
	c.outlast(t)
	exchange("after the silence")
	require.Empty(t, lost)

	c.drain(t)
	testkit.Within(t, lost, "the loss")
	c.restart(t)
	testkit.Within(t, connected, "the reconnect")
	exchange("through the next process")
}
