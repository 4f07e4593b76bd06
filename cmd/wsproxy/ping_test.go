package main

import (
	"strings"
	"testing"
	"time"

	"example.com/wsproxy/internal/frame"
	"github.com/stretchr/testify/require"
)

// MQTT's keepalive is 60 s, and so is the read timeout. Clients lost their
// connection each minute, and with a keepalive of 120 s the broker published their
// last will.
func TestAClientThatOnlyAnswersPingsOutlivesTheReadTimeout(t *testing.T) {
	t.Parallel()
	const readTimeout = 3 * time.Second // longer than a busy machine leaves a process without a processor
	url, conns := switches(t)
	c := start(t, "-read-timeout", readTimeout.String(), "-ping", "250ms", url)
	client, server := c.tunnel(t, conns)
	for begin := time.Now(); time.Since(begin) < readTimeout+readTimeout/4; {
		opcode, payload := client.frame(t)
		if opcode == frame.OpPong { // of the other end
			continue
		}
		require.Equal(t, byte(pings), opcode)
		client.sendFrame(t, frame.OpPong, payload)
	}
	client.sendFrame(t, binary, "PINGREQ")
	for {
		opcode, payload := server.frame(t)
		if opcode == binary {
			require.Equal(t, "PINGREQ", payload)
			return
		}
	}
}

// -read-timeout 20s without -ping ended idle tunnels as if there were no pings.
func TestAReadTimeoutThatLeavesNoTimeForAPingIsAWarning(t *testing.T) {
	for args, want := range map[string]int{
		"":                              0,
		"-read-timeout 25s":             1,
		"-read-timeout 26s":             0,
		"-read-timeout 10s":             1,
		"-read-timeout 10s -ping 0":     0,
		"-read-timeout 0":               0,
		"-ping 1m":                      1,
		"-ping 1h -read-timeout 1h0.1s": 0,
	} {
		s, err := parse(strings.Fields(args))
		require.NoError(t, err)
		require.Len(t, s.warnings, want, args)
	}
	c := start(t, "-read-timeout", "10s", "http://localhost")
	c.stderr.Await(t, `level=WARN msg="-read-timeout 10s ends an idle tunnel before its first ping; set -ping, which is 25s, to less, or to 0 for no pings"`)
}
