package frames_test

import (
	"testing"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
)

// With a limit the proxy keeps an incomplete header back, so the receiver is
// between two frames. The proxy waited for the rest of the header all the same:
// a side that sent one byte kept the Pings from the other, which could be gone
// for ever without the read timeout.
func TestAPingPrecedesAnIncompleteHeader(t *testing.T) {
	opts := []wsproxy.Option{wsproxy.WithMaxClientMessageSize(1000), wsproxy.WithMaxUpstreamMessageSize(1000),
		wsproxy.WithReadTimeout(0), wsproxy.WithPing(10*time.Second, 5*time.Second)}
	testkit.FromEither(t, opts, func(t *testing.T, r *testkit.MemRig, from, to testkit.End) {
		whole := from.Frame(testkit.Text, "hello")
		from.Send(t, whole[:1])
		time.Sleep(11 * time.Second)
		to.ExpectFrame(t, testkit.Ping, "wsproxy!")
		from.ExpectFrame(t, testkit.Ping, "wsproxy!")
		to.SendFrame(t, testkit.Pong, "wsproxy!")
		from.Send(t, whole[1:])
		to.ExpectFrame(t, testkit.Text, "hello")
		from.SendFrame(t, testkit.Pong, "wsproxy!")
		to.ExpectFrame(t, testkit.Pong, "wsproxy!")
	})
}
