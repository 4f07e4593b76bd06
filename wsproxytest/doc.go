// Package wsproxytest breaks WebSockets on purpose, frame by frame, to test
// the clients and servers at either end.
//
// A [Proxy] runs between a client and a server in the test's process. It calls
// its [Handler] for each frame, and the Handler decides what is forwarded:
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
// There are no rules to configure. An if statement selects frames, and each fault
// is something that the Handler does with its frame:
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
// [New] serves an http.Handler in memory, and [NewURL] proxies to a running
// server. A client in the test's process connects with [Proxy.Dial],
// which ignores the address that it is given:
//
//	websocket.Dialer{NetDialContext: p.Dial}          // gorilla/websocket
//	&websocket.DialOptions{HTTPClient: p.Client()}    // coder/websocket
//	ws.Dialer{NetDial: p.Dial}                        // gobwas/ws
//	&gws.ClientOption{Addr: "ws://any.test/path", NewDialer: …}
//
// The ws URL may have any host. Browsers and other processes connect to
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
// stops when that function returns. Before that, close clients and wait for their
// goroutines: if one still sleeps, synctest panics with "deadlock". The end of the
// test ends the servers' connections, and servers may then take an hour of the
// bubble's clock to return. [Proxy.URL] does not work in a bubble, because the
// bubble's clock stops while a goroutine waits for a socket. Neither does NewURL,
// unless its options dial in memory.
//
// The read, send and close timeouts of the [wsproxy.Proxy] inside are off, so
// that it does not end a stall. Options given to New set them.
//
// # Backpressure
//
// Each connection in memory buffers 64 KiB in each direction. For a client on a
// socket the Proxy buffers as much. While a Handler blocks, its direction is not
// read, and its sender blocks when the buffers are full. A client in memory can
// send 64 KiB, and 4 KiB more that the Proxy has read. A stall in one direction
// does not affect the other.
//
// # Frames
//
// The proxy removes Sec-WebSocket-Extensions from requests, so frames are
// never compressed and a Handler can read them.
//
// A Handler is called when a whole frame has arrived. The frame stays in memory
// until the Handler returns. A frame of 100 bytes takes about a microsecond in
// all.
//
// Handlers are called for well-formed frames only: with a known opcode, the
// masking that the direction requires, fragments in order, at most 125 bytes in a
// control frame and at most [MaxFrame] bytes in any frame. The first other frame,
// and everything after it in that direction, is forwarded unchanged without a
// call of the Handler. So is a frame that ends early because its sender did. The
// transcript has one record for such bytes. A frame that the Handler sends
// unchanged keeps all its bytes, including the masking key.
//
// # Transcripts
//
// [Proxy.Transcript] lists the frames and what became of each. Its order does not
// depend on the scheduler, so it can be compared as text. A test that fails
// logs the transcript, and the seeds of the Handlers that have one. Run the
// test with WSPROXYTEST_SEED set to reproduce a failure of a test that uses
// [Seed].
//
// # Limitations
//
// Bytes are not lost, reordered or corrupted below the level of frames, because
// TCP prevents that too. Only WebSockets are intercepted. Plain requests and other
// protocols are forwarded.
//
// recipes_test.go in this package has complete tests: a client that reconnects
// when the server dies in mid-message, a server's ping timeout, the eviction of
// a slow consumer, a transcript, and a soak with a thousand seeds.
package wsproxytest
