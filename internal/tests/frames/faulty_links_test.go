//lint:file-ignore SA1019 nhooyr.io/websocket is deprecated as a whole in favour of github.com/coder/websocket; it stays as one more implementation to be tested with.

package frames_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"example.com/wsproxy"
	"example.com/wsproxy/internal/testkit"
	"example.com/wsproxy/wsproxytest"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"nhooyr.io/websocket"
)

// Here the ends are those of a library, and wsproxytest breaks the links between
// them and the proxy.

// faultyLinks returns a proxy's link to its clients, and that to an echo server.
func faultyLinks(t *testing.T, clients, upstream wsproxytest.Handler, opts ...wsproxy.Option) (front, back *wsproxytest.Proxy) {
	back = wsproxytest.New(t, http.HandlerFunc(echoHandler), upstream)
	p := testkit.NewProxy(t, "http://upstream.test", append(opts, wsproxy.WithDialContext(back.Dial))...)
	return wsproxytest.New(t, p, clients), back
}

// dialLink connects a client over a link.
func dialLink(t *testing.T, link *wsproxytest.Proxy, path string) *websocket.Conn {
	t.Helper()
	conn, _, err := websocket.Dial(t.Context(), "ws://proxy.test"+path, &websocket.DialOptions{HTTPClient: link.Client()})
	require.NoError(t, err)
	t.Cleanup(func() { conn.CloseNow() })
	return conn
}

// withoutPongs loses the Pongs of one end.
func withoutPongs(from wsproxytest.Side) wsproxytest.Handler {
	return func(w *wsproxytest.Wire, f wsproxytest.Frame) {
		if f.From != from || f.Opcode != wsproxytest.OpPong {
			w.Send(f)
		}
	}
}

// The dead end of the other tests here never reads a Ping.
func TestALibrarysEndWhosePongsAreLostIsDroppedAndTheOtherGets1001(t *testing.T) {
	for dead, links := range map[string][2]wsproxytest.Handler{
		"client":   {withoutPongs(wsproxytest.Client), nil},
		"upstream": {nil, withoutPongs(wsproxytest.Server)},
	} {
		t.Run(dead, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ended := testkit.NewEndings()
				front, back := faultyLinks(t, links[0], links[1], append(pings, ended.Option())...)
				start := time.Now()
				conn := dialLink(t, front, "/")
				conn.Read(t.Context()) // it replies to Pings meanwhile
				assert.Equal(t, wsproxy.ReasonPingTimeout, (<-ended).Reason)
				testkit.OnTime(t, start.Add(25*time.Second))
				live := map[string]*wsproxytest.Proxy{"client": back, "upstream": front}[dead]
				assert.Contains(t, live.Transcript().String(), `close 1 1001 "other end is gone" passed`)
			})
		})
	}
}

// messages returns what came to a link from one end of the tunnel to path, and
// what of that the link sent to the other end.
func messages(link *wsproxytest.Proxy, path string, from wsproxytest.Side) (came, sent []string) {
	for _, r := range link.Transcript() {
		if r.Tunnel.Request.URL.Path != path || r.Frame.From != from {
			continue
		}
		f := fmt.Sprintf("%d %s", r.Frame.Opcode, r.Frame.Payload)
		switch r.Fate {
		case wsproxytest.Passed:
			came, sent = append(came, f), append(sent, f)
		case wsproxytest.Injected: // twice
			sent = append(sent, f)
		case wsproxytest.Dropped, wsproxytest.Partial:
			came = append(came, f)
		}
	}
	return came, sent
}

// Whatever a link does, the proxy forwards what it got, in order and unchanged,
// and ends each tunnel once.
func TestWhatOneFaultyLinkDeliversIsWhatTheOtherGets(t *testing.T) {
	chaos := wsproxytest.Mix{Drop: 0.03, Duplicate: 0.05, Cut: 0.03, Reset: 0.02, Stall: 0.02, Delay: 0.1, StallFor: 30 * time.Second}
	forwarded := 0
	for seed := range uint64(50) {
		synctest.Test(t, func(t *testing.T) {
			ended := testkit.NewEndings()
			front, back := faultyLinks(t, wsproxytest.Chaos(seed, chaos), wsproxytest.Chaos(seed+1000, chaos),
				ended.Option(), wsproxy.WithReadTimeout(0)) // with it the proxy would send Close frames
			const clients = 3
			done := make(chan struct{})
			for i := range clients {
				conn := dialLink(t, front, fmt.Sprint("/", i))
				go func() {
					defer func() { done <- struct{}{} }()
					defer conn.CloseNow()
					ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
					defer cancel()
					for n := range 10 {
						if conn.Write(ctx, websocket.MessageText, fmt.Append(nil, "message ", n)) != nil {
							return
						}
						if _, _, err := conn.Read(ctx); err != nil {
							return
						}
					}
					conn.Close(websocket.StatusNormalClosure, "")
				}()
			}
			for range clients {
				<-done
			}
			for range clients {
				<-ended
			}
			for i := range clients {
				path := fmt.Sprint("/", i)
				for _, way := range []struct {
					from, to *wsproxytest.Proxy
					sender   wsproxytest.Side
				}{{front, back, wsproxytest.Client}, {back, front, wsproxytest.Server}} {
					_, sent := messages(way.from, path, way.sender)
					came, _ := messages(way.to, path, way.sender)
					forwarded += len(came)
					if n := len(came); n > len(sent) || !slices.Equal(came, sent[:n]) {
						t.Errorf("seed %d, %s, from the %v: the proxy forwards\n%q\nof\n%q", seed, path, way.sender, came, sent)
					}
				}
			}
			assert.Empty(t, ended, "seed %d: tunnels that end twice", seed)
		})
	}
	assert.Greater(t, forwarded, 500, "frames that the proxy forwards")
}
