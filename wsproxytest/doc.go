// Package wsproxytest breaks WebSockets on purpose, frame by frame, to test
// the clients and servers at either end.
//
// A [Proxy] stands between a client and a server in the test's process. Its
// [Handler] is called for each frame and decides what passes:
//
//	func TestTheClientSurvivesALostMessage(t *testing.T) {
//		p := wsproxytest.New(t, chatServer, func(w *wsproxytest.Wire, f wsproxytest.Frame) {
//			if f.From == wsproxytest.Server && f.Opcode == wsproxytest.OpText && f.Index == 3 {
//				return // the server's third message is lost
//			}
//			w.Send(f)
//		})
//		client := dialChat("ws://chat.test/room", p.Dial)
//		…
//	}
//
// There are no rules to configure. A Go if matches frames. Each fault is what
// the Handler does with its frame:
//
//	drop          return without Send
//	change        f.Payload = …; w.Send(f)
//	duplicate     w.Send(f); w.Send(f)
//	inject        w.Send(wsproxytest.Close(1013, "try again later"))
//	delay         w.Sleep(time.Second); w.Send(f)
//	stall         w.Sleep(time.Hour), or <-w.Tunnel().Done()
//	partial       w.SendPart(f, 5)
//	half-close    w.Tunnel().CloseWrite(wsproxytest.Client)
//	end of stream w.Tunnel().Cut()
//	reset         w.Tunnel().Reset()
//	not a frame   w.Write([]byte("\xff\xff"))
//
// [Latency], [Throttle] and [Chaos] are Handlers for common links, and [Chain]
// combines Handlers. The test itself reaches a tunnel with [Proxy.Tunnel], and
// [Proxy.Refuse] refuses handshakes.
//
// # Connecting
//
// [New] serves an http.Handler in memory, and [NewURL] stands in front of a
// running server. A client in the test's process connects with [Proxy.Dial],
// which ignores the address that it is given:
//
//	websocket.Dialer{NetDialContext: p.Dial}          // gorilla/websocket
//	&websocket.DialOptions{HTTPClient: p.Client()}    // coder/websocket
//	ws.Dialer{NetDial: p.Dial}                        // gobwas/ws
//	&gws.ClientOption{Addr: "ws://any.test/path", NewDialer: …}
//
// with a ws URL of any host. Browsers and other processes connect to
// [Proxy.URL]. [Handler.Wrap] puts a Handler around any handler that upgrades,
// without a Proxy and without a test.
//
// # Time
//
// A Proxy works in a [testing/synctest] bubble, in which a timeout of a minute
// takes no time and is exact:
//
//	synctest.Test(t, func(t *testing.T) {
//		p := wsproxytest.New(t, server, dropPongs)
//		client := dial(p)
//		start := time.Now()
//		<-client.closed
//		if got := time.Since(start); got != 25*time.Second {
//			t.Errorf("the server gives up after %v", got)
//		}
//	})
//
// New belongs inside the function given to synctest.Test. The bubble's clock
// stops when that function returns, so close clients before, and wait for their
// goroutines: one that still sleeps makes synctest panic with "deadlock". Servers
// see their connections end with the test, and may take an hour of the bubble's
// clock to return. [Proxy.URL] does not work in a bubble, because a bubble's clock
// stops while a goroutine waits for a socket. Neither does NewURL, unless its options dial in memory.
//
// The read, send and close timeouts of the [wsproxy.Proxy] inside are off, so
// that it does not end a stall. Options given to New set them.
//
// # Backpressure
//
// Each connection in memory holds 64 KiB in each direction, as does the harness
// for a client on a socket. A Handler that blocks stops the reading, so a sender
// blocks once the buffers up to the Handler are full: 64 KiB for a client in
// memory, and one read of the harness more, of 4 KiB. A stall in one direction
// does not affect the other.
//
// # Frames
//
// The proxy removes Sec-WebSocket-Extensions from requests, so frames are
// never compressed and a Handler can read them.
//
// A Handler is called once a frame has arrived whole, and the frame is in
// memory until the Handler returns. One of 100 bytes takes about a microsecond in
// all. The Handler sees frames that are well formed: a known opcode, the masking
// that its direction needs, fragments in order, control frames of at most 125
// bytes, no more than [MaxFrame] bytes.
// The first frame that is not, and all that follows it in that direction, pass
// unseen and unchanged, and so does a frame that its sender ended in the
// middle. The transcript has one record for it. A frame that passes unchanged
// has the same bytes as before, masking key included.
//
// # Transcripts
//
// [Proxy.Transcript] tells what came and what became of it, in an order that
// does not depend on the scheduler, to be compared as text. A test that fails
// logs the transcript, and the seeds of the Handlers that have one. Run the
// test with WSPROXYTEST_SEED set to reproduce a failure of a test that uses
// [Seed].
//
// # Limitations
//
// Nothing is lost, reordered or corrupted below the level of frames, because
// TCP does not do that either. Only WebSockets are intercepted: plain requests
// and other protocols pass.
//
// recipes_test.go in this package has complete tests: a client that reconnects
// when the server dies in mid-message, a server's ping timeout, the eviction of
// a slow consumer, a transcript, and a soak with a thousand seeds.
package wsproxytest
