package frames_test

import (
	"strings"
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAMalformedStreamIsForwardedAndClosedOnTimeouts(t *testing.T) {
	eachGoodbye(t, nil, func(t *testing.T, r *testkit.MemRig, g goodbye, leave func()) {
		client, server := testkit.Ends(r.Tunnel(t))
		rest := strings.Repeat("GET / HTTP/1.1 is no frame. ", 1000)
		for _, c := range []string{"G", "E", "T", " ", "/", " ", "HTTP/1.1 and so on", rest} {
			client.Send(t, c)
			server.Expect(t, c)
			server.Send(t, c)
			client.Expect(t, c)
		}
		leave()
		r.EndsIn(t, 10*time.Second, g.reason)
		client.ExpectEOF(t, "")
		server.ExpectEOF(t, "")
	})
}

func TestAMalformedStreamDoesNotAffectTheOtherFlow(t *testing.T) {
	testkit.FromEither(t, nil, func(t *testing.T, r *testkit.MemRig, from, to testkit.End) {
		from.Send(t, "no frames")
		to.Expect(t, "no frames")
		to.SendFrame(t, testkit.Text, "a frame")
		from.ExpectFrame(t, testkit.Text, "a frame")
		require.NoError(t, testkit.OnlyTunnel(t, r.Proxy).Close(4000, "now"))
		from.ExpectClose(t, 4000)
		to.SendFrame(t, testkit.Close, "")
		from.Send(t, "more of it")
		to.Expect(t, "more of it")
		from.Close()
		ending := r.EndsIn(t, 0, wsproxy.ReasonKilled)
		assert.EqualValues(t, 1, to.Sent(ending).Messages)
		assert.Zero(t, from.Sent(ending).Messages)
	})
}
