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
	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/stretchr/testify/require"
)

// startMosquitto runs a broker and returns its addresses for WebSockets and for
// plain MQTT.
func startMosquitto(t *testing.T) (ws, plain string) {
	t.Helper()
	program := sbin(t, "mosquitto")
	ws, plain = lab.FreeAddr(t), lab.FreeAddr(t)
	config := filepath.Join(t.TempDir(), "mosquitto.conf")
	text := "user root\n" // no effect unless root starts it
	for addr, protocol := range map[string]string{ws: "websockets", plain: "mqtt"} {
		host, port, err := net.SplitHostPort(addr)
		require.NoError(t, err)
		text += fmt.Sprintf("listener %s %s\nprotocol %s\n", port, host, protocol)
	}
	require.NoError(t, os.WriteFile(config, []byte(text+"allow_anonymous true\n"), 0o600))
	lab.Start(t, exec.Command(program, "-c", config))
	lab.Listening(t, ws)
	lab.Listening(t, plain)
	return ws, plain
}

// sbin returns the path of a program that Debian installs for administrators.
func sbin(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	return testkit.Program(t, name)
}

// An mqttClient is a connection of Eclipse Paho to a broker.
type mqttClient struct {
	mqtt.Client
	connected, lost chan struct{}
	messages        chan string
}

// connect connects to a broker and subscribes. The client reconnects by itself, which is the
// default.
func connect(t *testing.T, url, subscription string) *mqttClient {
	t.Helper()
	c := &mqttClient{connected: make(chan struct{}, 100), lost: make(chan struct{}, 100), messages: make(chan string, 100)}
	opts := mqtt.NewClientOptions().AddBroker(url).SetKeepAlive(60*time.Second).
		SetWill("will", "the client is gone", 1, false).SetMaxReconnectInterval(100 * time.Millisecond).
		SetOnConnectHandler(func(client mqtt.Client) {
			client.Subscribe(subscription, 1, func(_ mqtt.Client, m mqtt.Message) {
				c.messages <- m.Topic() + ": " + string(m.Payload())
			}).Wait()
			c.connected <- struct{}{}
		}).
		SetConnectionLostHandler(func(mqtt.Client, error) { c.lost <- struct{}{} })
	c.Client = mqtt.NewClient(opts)
	done(t, c.Connect())
	t.Cleanup(func() { c.Disconnect(100) })
	testkit.Within(t, c.connected, "the subscription")
	return c
}

func done(t *testing.T, token mqtt.Token) {
	t.Helper()
	require.True(t, token.WaitTimeout(testkit.Patience), "no answer")
	require.NoError(t, token.Error())
}

func testMosquitto(t *testing.T, program string) {
	ws, plain := startMosquitto(t)
	c := start(t, program, append(pings, "-route", "/mqtt=http://"+ws)...)
	watcher := connect(t, "tcp://"+plain, "will")
	client := connect(t, "ws://"+c.addr+"/mqtt", "news")
	client.exchange(t, "before")
	c.outlast(t)
	client.exchange(t, "after the silence")
	require.Empty(t, client.lost)

	c.drain(t)
	require.Equal(t, "mqtt", c.endings(t)[0].Subprotocol)
	testkit.Within(t, client.lost, "the loss")
	require.Equal(t, "will: the client is gone", testkit.Within(t, watcher.messages, "the will, which every end but DISCONNECT publishes"))
	c.restart(t)
	testkit.Within(t, client.connected, "the reconnect")
	client.exchange(t, "through the next process")
}

// Before the command pinged, clients with MQTT's usual keepalive of 60 s lost their
// connection each minute.
func testMosquittoWithoutPings(t *testing.T, program string) {
	ws, plain := startMosquitto(t)
	c := start(t, program, "-ping", "0", "-read-timeout", "1s", "-route", "/mqtt=http://"+ws)
	watcher := connect(t, "tcp://"+plain, "will")
	client := connect(t, "ws://"+c.addr+"/mqtt", "news")
	require.Equal(t, "will: the client is gone", testkit.Within(t, watcher.messages, "the will"))
	testkit.Within(t, client.connected, "the reconnect")
	testkit.Eventually(t, func() bool { return len(c.endings(t)) > 0 }, "the access log has no ending")
	require.Equal(t, "read timeout", c.endings(t)[0].Reason)
	c.logs.Await(t, "raise it, or set -ping below it")
}

// exchange publishes what the client's own subscription gets back. With a quality of
// service above 0, Paho's own goroutines race after a reconnect.
func (c *mqttClient) exchange(t *testing.T, text string) {
	t.Helper()
	done(t, c.Publish("news", 0, false, text))
	require.Equal(t, "news: "+text, testkit.Within(t, c.messages, "the message"))
}
