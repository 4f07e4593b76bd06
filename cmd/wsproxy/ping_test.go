package main

import (
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
